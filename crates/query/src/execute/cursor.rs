//! Cursors: the end of a page as an opaque text. A cursor holds the sort key itself, so that paging needs no state and
//! works after the row is deleted.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use model::{PublicationId, Timestamp};
use store::Cursor;

/// The first byte: the version of the format. A later build can add a format and still read this one.
const FORM: &str = "1";
/// More than the longest cursor has.
const MAX_LENGTH: usize = 2_048;

/// The cursor that points to a row.
pub(super) fn encode(created: Timestamp, id: &PublicationId) -> String {
    // Names hold no control characters, so a line feed can separate them.
    let micros = created.as_micros();
    BASE64_URL_SAFE_NO_PAD.encode(format!("{FORM}{micros}\n{}\n{}", id.name, id.version))
}

/// Decodes a cursor. `None` when this service did not make it.
pub(super) fn decode(text: &str) -> Option<Cursor> {
    // A name and a version have at most 768 bytes together.
    if text.len() > MAX_LENGTH {
        return None;
    }
    let plain = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut parts = plain.strip_prefix(FORM)?.split('\n');
    let created = Timestamp::from_micros(parts.next()?.parse().ok()?);
    let id = PublicationId::new(parts.next()?, parts.next()?).ok()?;
    // PostgreSQL's range is smaller than the number's.
    (parts.next().is_none() && created.is_rfc3339()).then_some(Cursor { created, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        for (name, version, micros) in [
            ("pg", "7.12.0", 1_564_078_151_204_000),
            ("@scope/é", "1.0.0-ü+b", -1),
            ("a b", "1", 0),
            ("first", "1", -62_167_219_200_000_000),
            ("last", "1", 253_402_300_799_999_999),
        ] {
            let id = PublicationId::new(name, version).unwrap();
            let text = encode(Timestamp::from_micros(micros), &id);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(text.bytes().all(plain), "{text} needs escaping in a URL");
            let cursor = decode(&text).unwrap();
            assert_eq!(cursor, Cursor { created: Timestamp::from_micros(micros), id });
        }
    }

    #[test]
    fn what_is_not_one_of_ours_is_refused() {
        for text in ["", "A", "AAAA", "+///", "MQ", "MTAKYQ", "é", "MTAKYQoxCjI"] {
            assert_eq!(decode(text), None, "{text}");
        }
        let id = PublicationId::new("pg", "1").unwrap();
        for micros in
            [i64::MIN, -62_167_219_200_000_001, 253_402_300_800_000_000, i64::MAX - 1, i64::MAX]
        {
            assert_eq!(decode(&encode(Timestamp::from_micros(micros), &id)), None, "{micros}");
        }
    }
}
