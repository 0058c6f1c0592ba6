//! Times in lists and file names: whole seconds, UTC.

use model::Timestamp;

/// Parses `YYYY-MM-DD` and `HH:MM:SS`, the time format of exit lists.
pub(crate) fn from_words(date: &str, time: &str) -> Option<Timestamp> {
    Timestamp::from_utc(three(date, b'-', 4)?, three(time, b':', 2)?).ok()
}

/// The time in a list's file name, `YYYY-MM-DD-HH-MM-SS`, UTC (crates/enrich/README.md, Valid lists). A suffix that
/// begins with a full stop, such as `.txt`, is ignored.
#[must_use]
pub fn from_file_name(name: &str) -> Option<Timestamp> {
    let (head, rest) = name.split_at_checked(19)?;
    if head.as_bytes()[10] != b'-' || !(rest.is_empty() || rest.starts_with('.')) {
        return None;
    }
    Timestamp::from_utc(three(head.get(..10)?, b'-', 4)?, three(head.get(11..)?, b'-', 2)?).ok()
}

/// Parses three numbers of fixed width: the first has `first` digits, the others two.
fn three(text: &str, separator: u8, first: usize) -> Option<(i64, i64, i64)> {
    let bytes = text.as_bytes();
    if bytes.len() != first + 6 || bytes[first] != separator || bytes[first + 3] != separator {
        return None;
    }
    Some((
        number(&bytes[..first])?,
        number(&bytes[first + 1..first + 3])?,
        number(&bytes[first + 4..])?,
    ))
}

fn number(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_forms() {
        let time = Timestamp::parse("2016-09-20T13:02:00Z").ok();
        assert_eq!(from_words("2016-09-20", "13:02:00"), time);
        assert_eq!(from_file_name("2016-09-20-13-02-00"), time);
        assert_eq!(from_file_name("2016-09-20-13-02-00.txt"), time);
    }

    #[test]
    fn refuses_everything_else() {
        for (date, time) in [
            ("2016-09-2", "13:02:00"),
            ("2016-09-31", "13:02:00"),
            ("2016-13-01", "13:02:00"),
            ("16-09-20", "13:02:00"),
            ("2016-09-20", "13:02"),
            ("2016-09-20", "13:02:60"),
            ("2016-09-20", "24:02:00"),
            ("2016-09-20", "13-02-00"),
            ("2016/09/20", "13:02:00"),
            ("2016-09-20", "13:02:0"),
            ("", ""),
        ] {
            assert_eq!(from_words(date, time), None, "{date} {time}");
        }
        for name in [
            "",
            "latest",
            "2016-09-20",
            "2016-09-20-13-02-0",
            "2016-09-20-13-02-000",
            "2016-09-20T13-02-00",
            "2016-13-20-13-02-00",
            "x2016-09-20-13-02-00",
            "2016-09-20-13-02-0é",
        ] {
            assert_eq!(from_file_name(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(a in "\\PC{0,24}", b in "\\PC{0,12}") {
            let _ = from_words(&a, &b);
            let _ = from_file_name(&a);
        }
    }
}
