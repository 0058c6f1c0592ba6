//! Times in lists and file names: whole seconds, UTC.

use model::Timestamp;

/// Parses `YYYY-MM-DD` and `HH:MM:SS`, the time format of exit lists.
pub(crate) fn from_words(date: &str, time: &str) -> Option<Timestamp> {
    // On the stack: a list has a thousand times, and years of lists are read at a start.
    let mut text = *b"YYYY-MM-DDTHH:MM:SSZ";
    if (date.len(), time.len()) != (10, 8) {
        return None;
    }
    text[..10].copy_from_slice(date.as_bytes());
    text[11..19].copy_from_slice(time.as_bytes());
    Timestamp::parse(str::from_utf8(&text).ok()?).ok()
}

/// The time in a list's file name, `YYYY-MM-DD-HH-MM-SS`, UTC (crates/enrich/README.md, Valid lists). A suffix that
/// begins with a full stop, such as `.txt`, is ignored.
#[must_use]
pub fn from_file_name(name: &str) -> Option<Timestamp> {
    let (head, rest) = name.split_at_checked(19)?;
    if head.as_bytes()[10] != b'-'
        || head.contains(':')
        || !(rest.is_empty() || rest.starts_with('.'))
    {
        return None;
    }
    from_words(head.get(..10)?, &head.get(11..)?.replace('-', ":"))
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
            "2016-09-20-13:02:00",
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
