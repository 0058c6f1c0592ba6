//! A record as a JSON line, whole: what `dead-letters export` writes and `replay --file` reads.

use model::Position;
use serde::{Deserialize, Serialize};

use crate::record::{Header, Record};

/// A record and where it stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
    pub(crate) value: Option<Bytes>,
    /// Its addresses were taken out: to be looked at, and no evidence for a row any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) masked: bool,
}

/// Bytes that are text where they can be, else hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bytes {
    Text(String),
    Hex(String),
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Hex(digits) => digits
                .as_bytes()
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
                .collect(),
        }
    }
}

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        let bytes = |bytes: &Option<bytes::Bytes>| bytes.as_deref().map(Bytes::from);
        let headers = record.headers.iter();
        Self {
            topic: record.position.topic.to_string(),
            partition: record.position.partition,
            offset: record.position.offset,
            timestamp: record.timestamp,
            key: bytes(&record.key),
            headers: headers
                .map(|header| (header.name.to_string(), bytes(&header.value)))
                .collect(),
            value: bytes(&record.value),
            masked: false,
        }
    }
}

impl Line {
    /// The record, at another position.
    pub(crate) fn into_envelope(self, position: Position) -> Record {
        let owned = |bytes: Bytes| Vec::from(bytes).into();
        let headers = self.headers.into_iter();
        let headers =
            headers.map(|(name, value)| Header { name: name.into(), value: value.map(owned) });
        Record {
            position,
            timestamp: self.timestamp,
            key: self.key.map(owned),
            value: self.value.map(owned),
            headers: headers.collect(),
        }
    }
}
