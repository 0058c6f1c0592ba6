//! Snapshots: one exit address per line, IPv4 and IPv6, `#` comments, CRLF allowed.

use model::Timestamp;

use crate::{List, Refusal, address};

/// Parses a snapshot with the given time (crates/enrich/README.md, Evidence). A comment runs from `#` to the line's end; empty
/// lines and blanks around an address are ignored; every other line must be an address.
///
/// A last line without a line end counts as complete, because a valid address that lost its last digits cannot be detected.
///
/// # Errors
/// [`Refusal`] if a line is not an address, or if there is no address.
pub fn parse(bytes: &[u8], time: Timestamp) -> Result<List, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotText)?;
    let mut sightings = Vec::with_capacity(bytes.len() / 14);
    let mut rest = text;
    while !rest.is_empty() {
        // Lines are so short that a loop over the bytes is faster than the searcher that `split` uses.
        let find = |text: &str, byte| text.bytes().position(|other| other == byte);
        let (line, next) = rest.split_at(find(rest, b'\n').map_or(rest.len(), |end| end + 1));
        rest = next;
        let content = find(line, b'#').map_or(line, |end| &line[..end]);
        let content = content.trim_matches([' ', '\t', '\r', '\n']);
        if content.is_empty() {
            continue;
        }
        match address::canonical(content) {
            Some(address) => sightings.push((address, time)),
            None if content.starts_with('<') => return Err(Refusal::Html),
            None if content.contains(char::is_control) => return Err(Refusal::NotText),
            None if !line.ends_with('\n') && !sightings.is_empty() => {
                return Err(Refusal::Truncated);
            }
            None => return Err(Refusal::BadLine),
        }
    }
    List::new(time, sightings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;
    use proptest::prelude::*;

    const REAL: &[u8] = include_bytes!("../tests/data/snapshots/2022-02-28-00-30-06");

    fn read(text: &str) -> Result<List, Refusal> {
        parse(text.as_bytes(), Timestamp::from_micros(7))
    }

    #[test]
    fn reads_a_real_list() {
        let list = parse(REAL, Timestamp::from_micros(7)).unwrap();
        // sort -u | grep -c : and its complement
        assert_eq!((list.distinct(Family::V4), list.distinct(Family::V6)), (1_282, 758));
        assert_eq!(list.time(), Timestamp::from_micros(7));
    }

    #[test]
    fn comments_crlf_and_repetitions_do_no_harm() {
        let list =
            read("# exits\r\n1.2.3.4\r\n\r\n 2a00::1 # six\n::ffff:1.2.3.4\n1.2.3.4").unwrap();
        assert_eq!((list.distinct(Family::V4), list.distinct(Family::V6)), (1, 1));
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for (text, refusal) in [
            ("", Refusal::Empty),
            ("# nothing\n", Refusal::Empty),
            ("<html>\n", Refusal::Html),
            ("1.2.3.4\n<b>\n", Refusal::Html),
            ("You can only fetch the data every 30 minutes\n", Refusal::BadLine),
            ("1.2.3.4 5.6.7.8\n", Refusal::BadLine),
            ("1.2.3.4:9001\n", Refusal::BadLine),
            ("1.2.3.0/24\n", Refusal::BadLine),
            ("01.2.3.4\n", Refusal::BadLine),
            ("1.2.3.4\n5.6.7", Refusal::Truncated),
            ("1.2.3.4\n2a00:", Refusal::Truncated),
            ("1.2.3.4\nx\n5.6.7.8\n", Refusal::BadLine),
            ("1.2.3.4\0\n", Refusal::NotText),
        ] {
            assert_eq!(read(text), Err(refusal), "{text:?}");
        }
        assert_eq!(parse(b"\xff\xfe", Timestamp::from_micros(7)), Err(Refusal::NotText));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, Timestamp::from_micros(7));
        }

        #[test]
        fn never_panics_on_nearly_right_text(text in "[0-9a-f:.#\r\n <]{0,80}") {
            let _ = read(&text);
        }
    }
}
