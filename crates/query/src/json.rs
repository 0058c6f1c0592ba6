//! JSON in and out: values that borrow from the request's body, and strings written straight into the answer.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON value. Strings without escapes borrow from the text that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Also integers that are too large for 64 bits with a sign.
    Float(f64),
    String(Cow<'a, str>),
    Array(Array<'a>),
    /// In the order of the text; of repeated keys the last counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// A list, of which only the first items are kept when the text has more values than the reader's budget.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Array<'a> {
    pub(crate) items: Vec<Json<'a>>,
    /// How many there were, kept or not.
    pub(crate) length: usize,
}

impl<'a> Json<'a> {
    /// Reads a text that holds one JSON value, keeping at most `budget` values of it: memory is bounded by the budget,
    /// not by the text. The flag says whether something was left out. Nesting is limited to 128 by `serde_json`.
    pub(crate) fn read(text: &'a [u8], budget: usize) -> Result<(Self, bool), serde_json::Error> {
        let budget = Cell::new(budget);
        let mut reader = serde_json::Deserializer::from_slice(text);
        let value = Seed(&budget).deserialize(&mut reader)?;
        reader.end()?;
        Ok((value, budget.get() == 0))
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value it is, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// The field of an object; of repeated keys the last.
pub(crate) fn field<'j, 'a>(
    fields: &'j [(Cow<'a, str>, Json<'a>)],
    name: &str,
) -> Option<&'j Json<'a>> {
    fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
}

struct Seed<'b>(&'b Cell<usize>);

impl Seed<'_> {
    /// Takes one value from the budget.
    fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 1
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Json<'de>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        // What does not fit into 63 bits fits no type of the schema, and a float says so well enough.
        Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json<'de>, A::Error> {
        let mut array = Array::default();
        loop {
            if self.take() {
                let Some(item) = list.next_element_seed(Seed(self.0))? else {
                    // The end of the list used a value of the budget that was none.
                    self.0.set(self.0.get() + 1);
                    return Ok(Json::Array(array));
                };
                // An item that the budget ran out in is not whole; it is counted, as those after it are.
                if self.0.get() > 0 {
                    array.items.push(item);
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(Json::Array(array));
            }
            array.length += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if self.take() {
                fields.push((key, map.next_value_seed(Seed(self.0))?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Json::Object(fields))
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

/// Appends a string with its quotes, escaped as JSON demands and no further (RFC 8259, section 7).
pub(crate) fn write_str(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        // Bytes that are escaped are ASCII, so that both ends of the slice lie between characters.
        out.push_str(&text[plain..at]);
        plain = at + 1;
        out.push('\\');
        match byte {
            b'"' | b'\\' => out.push(char::from(byte)),
            b'\n' => out.push('n'),
            b'\r' => out.push('r'),
            b'\t' => out.push('t'),
            _ => {
                out.push_str("u00");
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_as_a_reader_expects_them() {
        let all: String = (0..0x300).filter_map(char::from_u32).collect();
        for text in ["", "pg", "a\"b\\c\n\u{1}é😀", &all] {
            let mut out = String::new();
            write_str(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn the_budget_bounds_what_is_kept_and_not_what_is_counted() {
        let text = format!("{{\"a\":[{}1],\"b\":2}}", "1,".repeat(999));
        let (value, cut) = Json::read(text.as_bytes(), 101).unwrap();
        assert!(cut);
        let Json::Object(fields) = value else { panic!() };
        let Some(Json::Array(array)) = field(&fields, "a") else { panic!() };
        assert_eq!((array.items.len(), array.length), (99, 1_000));
        assert_eq!(field(&fields, "b"), None);
        let (value, cut) = Json::read(text.as_bytes(), 2_000).unwrap();
        assert!(!cut);
        let Json::Object(fields) = value else { panic!() };
        assert_eq!(field(&fields, "b"), Some(&Json::Int(2)));
    }

    #[test]
    fn kept_items_are_whole() {
        let text = format!("[{}{{\"a\":1,\"b\":2}}]", "{\"a\":1,\"b\":2},".repeat(999));
        for budget in 2..40 {
            let (Json::Array(array), true) = Json::read(text.as_bytes(), budget).unwrap() else {
                panic!()
            };
            assert_eq!(array.length, 1_000);
            let whole = |item: &Json<'_>| matches!(item, Json::Object(fields) if fields.len() == 2);
            assert!(array.items.iter().all(whole), "{budget}");
        }
    }

    #[test]
    fn deep_nesting_and_trailing_text_are_errors() {
        assert!(Json::read("[".repeat(100_000).as_bytes(), 10).is_err());
        assert!(Json::read(&[b'{', b'"', 0xff, b'"', b'}'], 10).is_err());
        assert!(Json::read(b"1 2", 10).is_err());
        assert!(Json::read(b"", 10).is_err());
    }

    #[test]
    fn of_repeated_keys_the_last_counts() {
        let (value, _) = Json::read(br#"{"a":1,"\u0061":2}"#, 10).unwrap();
        let Json::Object(fields) = value else { panic!() };
        assert_eq!(field(&fields, "a"), Some(&Json::Int(2)));
    }
}
