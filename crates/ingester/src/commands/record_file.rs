//! A record as a JSON line, whole: what `dead-letters export` writes and `replay --file` reads.

use model::Position;
use serde::de::IgnoredAny;
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
    Hex(Hex),
}

/// Bytes as pairs of hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Hex(Vec<u8>);

/// A text that is not pairs of hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("not pairs of hexadecimal digits")]
pub(crate) struct InvalidHex;

impl TryFrom<String> for Hex {
    type Error = InvalidHex;

    fn try_from(text: String) -> Result<Self, InvalidHex> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes = text.as_bytes().chunks(2).map(byte).collect::<Option<_>>();
        bytes.map(Self).ok_or(InvalidHex)
    }
}

impl From<Hex> for String {
    fn from(Hex(bytes): Hex) -> Self {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(Hex(bytes.to_vec())),
        }
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Hex(Hex(bytes)) => bytes,
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

/// A line that was an exported record and is no longer one.
#[derive(Debug, thiserror::Error)]
#[error("is a damaged export of a record")]
pub(crate) struct DamagedLine;

impl Line {
    /// Reads a line. None: it is not an exported record, so it is the value of one.
    ///
    /// # Errors
    /// [`DamagedLine`], which would otherwise be taken for an event of no kind.
    pub(crate) fn read(text: &[u8]) -> Result<Option<Self>, DamagedLine> {
        /// What only an exported record has.
        #[derive(Deserialize)]
        struct Exported {
            #[serde(rename = "partition")]
            _partition: IgnoredAny,
            #[serde(rename = "offset")]
            _offset: IgnoredAny,
            #[serde(rename = "headers")]
            _headers: IgnoredAny,
        }
        match serde_json::from_slice(text) {
            Ok(line) => Ok(Some(line)),
            Err(_) if serde_json::from_slice::<Exported>(text).is_ok() => Err(DamagedLine),
            Err(_) => Ok(None),
        }
    }

    /// The record, at another position.
    pub(crate) fn into_record(self, position: Position) -> Record {
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
