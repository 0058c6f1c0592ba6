//! TorDNSEL exit lists, in the format of the exit scanner and of CollecTor's archives.
//!
//! ```text
//! @type tordnsel 1.0
//! Downloaded 2016-09-20 13:02:00
//! ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E
//! Published 2016-09-20 07:22:06
//! LastStatus 2016-09-20 08:02:53
//! ExitAddress 162.247.72.201 2016-09-20 08:09:39
//! ```

use model::Timestamp;

use crate::{List, Refusal, address, list_time};

/// Keywords of which an unterminated last line may be the beginning.
const KEYWORDS: [&str; 6] =
    ["@type", "Downloaded", "ExitNode", "Published", "LastStatus", "ExitAddress"];

/// Parses an exit list (crates/enrich/README.md, Evidence). `fallback` is the list's time if it has no `Downloaded`
/// header: the time in its file name, or the time when it was fetched.
///
/// Unknown keywords are ignored; a line with a known keyword must be complete. An entry without an `ExitAddress`, or an
/// incomplete last line, means that the list was cut off; a second head, that another list begins. An IPv6 `ExitAddress`,
/// which today's scanner does not write, counts as evidence, but the source covers IPv4 only.
///
/// # Errors
/// [`Refusal`] unless the bytes are a complete exit list with at least one address.
pub fn parse(bytes: &[u8], fallback: Timestamp) -> Result<List, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotText)?;
    let mut reader = Reader { time: fallback, entry: Entry::None, sightings: Vec::new() };
    for line in text.split_inclusive('\n') {
        let (line, terminated) = match line.strip_suffix('\n') {
            Some(line) => (line.strip_suffix('\r').unwrap_or(line), true),
            None => (line, false),
        };
        match reader.line(line) {
            // An error in an unterminated line means that the line was cut off.
            Err(Refusal::BadLine) if !terminated => return Err(Refusal::Truncated),
            Ok(()) if !terminated && may_be_truncated(line) => return Err(Refusal::Truncated),
            result => result?,
        }
    }
    if reader.entry == Entry::Without {
        return Err(Refusal::Truncated);
    }
    if reader.sightings.is_empty() && !text.trim().is_empty() {
        return Err(Refusal::NoExitAddress);
    }
    List::new(reader.time, reader.sightings)
}

/// Whether a line that was accepted, or ignored, may be the beginning of a longer line.
fn may_be_truncated(line: &str) -> bool {
    !line.is_empty() && KEYWORDS.iter().any(|known| known.starts_with(line))
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Entry {
    /// In the header.
    None,
    /// In an entry that has no address yet.
    Without,
    /// In an entry that has an address.
    With,
}

struct Reader {
    time: Timestamp,
    entry: Entry,
    sightings: Vec<(std::net::IpAddr, Timestamp)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), Refusal> {
        let mut words = line.split(' ');
        let keyword = words.next().unwrap_or_default();
        let mut arguments = || (words.next(), words.next(), words.next(), words.next());
        match keyword {
            "@type" | "Downloaded" if self.entry != Entry::None => return Err(Refusal::Several),
            "Downloaded" => self.time = time_of(arguments())?,
            "Published" | "LastStatus" => {
                time_of(arguments())?;
            }
            "ExitNode" => match arguments() {
                (Some(fingerprint), None, ..) if is_fingerprint(fingerprint) => {
                    if self.entry == Entry::Without {
                        return Err(Refusal::BadLine);
                    }
                    self.entry = Entry::Without;
                }
                _ => return Err(Refusal::BadLine),
            },
            "ExitAddress" => {
                let (Some(text), Some(date), Some(time), None) = arguments() else {
                    return Err(Refusal::BadLine);
                };
                let address = address::canonical(text).ok_or(Refusal::BadLine)?;
                let seen = list_time::from_words(date, time).ok_or(Refusal::BadLine)?;
                if self.entry == Entry::None {
                    return Err(Refusal::BadLine);
                }
                self.entry = Entry::With;
                self.sightings.push((address, seen));
            }
            _ => return unknown(line),
        }
        Ok(())
    }
}

/// Accepts a line with an unknown keyword, but not HTML or control characters.
fn unknown(line: &str) -> Result<(), Refusal> {
    let line = line.trim_start();
    if line.starts_with('<') {
        return Err(Refusal::Html);
    }
    if line.contains(|letter: char| letter.is_control() && letter != '\t') {
        return Err(Refusal::NotText);
    }
    Ok(())
}

type Arguments<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

fn time_of(arguments: Arguments<'_>) -> Result<Timestamp, Refusal> {
    match arguments {
        (Some(date), Some(time), None, _) => {
            list_time::from_words(date, time).ok_or(Refusal::BadLine)
        }
        _ => Err(Refusal::BadLine),
    }
}

fn is_fingerprint(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;
    use proptest::prelude::*;

    const REAL: &[u8] = include_bytes!("../tests/data/exit-lists/2016-09-20-13-02-00");
    const HEAD: &str = "ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E\n";

    fn fallback() -> Timestamp {
        Timestamp::from_micros(7)
    }

    fn read(text: &str) -> Result<List, Refusal> {
        parse(text.as_bytes(), fallback())
    }

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn reads_the_real_list() {
        let list = parse(REAL, fallback()).unwrap();
        assert_eq!(list.time(), time("2016-09-20T13:02:00Z"));
        // grep -c ^ExitAddress; the same through awk '{print $2}' | sort -u | wc -l
        let lines =
            REAL.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"ExitAddress"));
        let texts: std::collections::BTreeSet<_> =
            lines.map(|line| line.split(|&byte| byte == b' ').nth(1).unwrap()).collect();
        assert_eq!(list.distinct(Family::V4), texts.len());
        assert_eq!(list.distinct(Family::V6), 0);
        let first = ("162.247.72.201".parse().unwrap(), time("2016-09-20T08:09:39Z"));
        assert!(list.sightings().contains(&first));
    }

    #[test]
    fn an_entry_may_have_several_addresses_and_unknown_keywords() {
        let list = read(&format!(
            "@type tordnsel 1.0\r\n{HEAD}Published 2020-01-01 00:00:00\r\nNew thing\nExitAddress 1.2.3.4 2020-01-01 00:00:01\r\nExitAddress 1.2.3.4 2020-01-01 00:00:02\nExitAddress 5.6.7.8 2020-01-01 00:00:03"
        ))
        .unwrap();
        assert_eq!(list.time(), fallback());
        assert_eq!(list.sightings().len(), 3);
        assert_eq!(list.distinct(Family::V4), 2);
    }

    #[test]
    fn refuses_what_is_no_exit_list() {
        for (text, refusal) in [
            ("", Refusal::Empty),
            ("\n\n", Refusal::Empty),
            ("You can only fetch the data every 30 minutes\n", Refusal::NoExitAddress),
            ("1.2.3.4\n5.6.7.8\n", Refusal::NoExitAddress),
            ("<html><body>503</body></html>\n", Refusal::Html),
            ("\n  <!DOCTYPE html>\n", Refusal::Html),
            ("@type tordnsel 1.0\nDownloaded 2020-01-01 00:00:00\n", Refusal::NoExitAddress),
            ("ExitAddress 1.2.3.4 2020-01-01 00:00:00\n", Refusal::BadLine),
            ("ExitNode 0011\n", Refusal::BadLine),
            ("ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300G\n", Refusal::BadLine),
            ("Downloaded yesterday\n", Refusal::BadLine),
            ("x\0y\n", Refusal::NotText),
        ] {
            assert_eq!(read(text), Err(refusal), "{text:?}");
        }
        for line in [
            "ExitAddress 1.2.3.4",
            "ExitAddress 1.2.3 2020-01-01 00:00:00",
            "ExitAddress 1.2.3.04 2020-01-01 00:00:00",
            "ExitAddress 1.2.3.4:9 2020-01-01 00:00:00",
            "ExitAddress 1.2.3.4 2020-01-01 00:00",
            "ExitAddress 1.2.3.4 2020-01-01 00:00:00 x",
            "ExitAddress  1.2.3.4 2020-01-01 00:00:00",
        ] {
            assert_eq!(read(&format!("{HEAD}{line}\n")), Err(Refusal::BadLine), "{line}");
            assert_eq!(read(&format!("{HEAD}{line}")), Err(Refusal::Truncated), "{line}");
        }
        assert_eq!(parse(b"ExitNode \xff\n", fallback()), Err(Refusal::NotText));
        assert_eq!(
            read(&format!("{HEAD}{HEAD}ExitAddress 1.2.3.4 2020-01-01 00:00:00\n")),
            Err(Refusal::BadLine)
        );
    }

    #[test]
    fn a_file_of_several_lists_is_refused() {
        let node = format!("{HEAD}ExitAddress 1.2.3.4 2020-01-01 00:00:00\n");
        for head in ["@type tordnsel 1.0\n", "Downloaded 2020-01-01 01:02:00\n"] {
            assert!(read(&format!("{head}{node}{node}")).is_ok(), "{head}");
            for second in [format!("{node}{head}{node}"), format!("{HEAD}{head}{node}")] {
                assert_eq!(read(&second), Err(Refusal::Several), "{second}");
            }
        }
    }

    #[test]
    fn a_cut_list_is_refused_wherever_it_breaks_off_within_an_entry() {
        // After a complete ExitAddress line a cut cannot be detected; the rule against lists of less than half the size
        // catches it.
        let whole: &[u8] = &REAL[..4_000];
        let mut accepted = 0;
        for end in 0..whole.len() {
            let cut = &whole[..end];
            let result = parse(cut, fallback());
            let line_start = cut.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            let last_whole = |lines: &[u8]| {
                let text = String::from_utf8(lines.to_vec()).unwrap();
                text.lines().last().is_some_and(|line| line.starts_with("ExitAddress"))
            };
            let rest_is_whole =
                whole.get(end) == Some(&b'\n') && cut[line_start..].starts_with(b"ExitAddress");
            let at_boundary = line_start == end && last_whole(cut);
            assert_eq!(result.is_ok(), at_boundary || rest_is_whole, "cut at {end}");
            accepted += usize::from(result.is_ok());
        }
        assert!(accepted > 10);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, fallback());
        }

        #[test]
        fn never_panics_on_nearly_right_text(lines in proptest::collection::vec("(ExitNode|ExitAddress|Downloaded|Published|@type)? ?[0-9a-fA-F:. -]{0,45}\r?\n?", 0..12)) {
            let _ = parse(lines.concat().as_bytes(), fallback());
        }
    }
}
