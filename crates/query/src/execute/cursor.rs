//! Cursors: where a page ended, as an opaque text. It holds the key of the listing's order itself, so that paging needs
//! no state and no row that is still there.

use model::{PublicationId, Timestamp};
use store::Cursor;

/// The first byte: which form the rest has. A later build can have another one and still read this.
const FORM: &str = "1";

/// RFC 4648, section 5: the alphabet that needs no escaping in URLs.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The cursor of a row.
pub(super) fn encode(created: Timestamp, id: &PublicationId) -> String {
    // Names hold no control characters, so that a line feed separates them.
    let micros = created.as_micros();
    base64url(format!("{FORM}{micros}\n{}\n{}", id.name, id.version).as_bytes())
}

/// Reads a cursor back; `None` when it is none of ours.
pub(super) fn decode(text: &str) -> Option<Cursor> {
    let plain = String::from_utf8(from_base64url(text)?).ok()?;
    let mut parts = plain.strip_prefix(FORM)?.split('\n');
    let created = Timestamp::from_micros(parts.next()?.parse().ok()?);
    // No row's time lies outside the years that RFC 3339 can write, and PostgreSQL's do not reach as far as the number.
    Timestamp::parse(&created.to_rfc3339_micros()).ok()?;
    let id = PublicationId::new(parts.next()?, parts.next()?).ok()?;
    parts.next().is_none().then_some(Cursor { created, id })
}

fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let sextet = group >> (18 - 6 * place) & 63;
            text.push(char::from(ALPHABET[sextet as usize]));
        }
    }
    text
}

fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0_u32;
        for byte in chunk {
            let sextet = ALPHABET.iter().position(|letter| letter == byte)?;
            group = group << 6 | u32::try_from(sextet).ok()?;
        }
        group <<= 6 * (4 - chunk.len());
        // A group of one letter has not even one byte in it.
        let whole = chunk.len().checked_sub(2)? + 1;
        bytes.extend(&group.to_be_bytes()[1..=whole]);
    }
    Some(bytes)
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
            assert!(text.bytes().all(|byte| ALPHABET.contains(&byte)), "{text}");
            let cursor = decode(&text).unwrap();
            assert_eq!(cursor, Cursor { created: Timestamp::from_micros(micros), id });
        }
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
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

    #[test]
    fn base64url_is_rfc_4648_without_padding() {
        // RFC 4648, section 10.
        for (plain, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")]
        {
            assert_eq!(base64url(plain.as_bytes()), text);
            assert_eq!(from_base64url(text).as_deref(), Some(plain.as_bytes()));
        }
    }
}
