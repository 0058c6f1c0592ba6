//! Files with one record per line: an event in structured mode, or a record in the format of `dead-letters export`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use model::Position;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::record::{Header, Record};

/// The topic of records from a file: a line's position is its number from 0 in partition 0.
const TOPIC: &str = "file";
/// The maximum length of a line, in bytes: more than any known record, with every byte escaped.
const MAX_LINE: u64 = 64 << 20;

/// Some programs write it before the first line.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Opens a file of records; `-` is standard input.
///
/// # Errors
/// If the file cannot be opened, or is a folder.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("is a folder"));
    }
    Ok(Box::new(BufReader::new(file)))
}

/// The records of a file, in order.
pub(crate) struct RecordFile<R> {
    lines: R,
    line: Vec<u8>,
    next: i64,
    topic: Arc<str>,
}

impl<R: BufRead> RecordFile<R> {
    pub(crate) fn new(lines: R) -> Self {
        Self { lines, line: Vec::new(), next: 0, topic: TOPIC.into() }
    }

    /// The next record, with its line's number from 0 as offset. Skips empty lines. `None` at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read; if a line is too long, begins a JSON array, is a damaged export, or was exported
    /// without addresses, because its event would have an invalid address.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            let number = self.next + 1;
            self.line.clear();
            // Bounds the memory for a line without end.
            let mut bounded = (&mut self.lines).take(MAX_LINE + 1);
            let read = bounded.read_until(b'\n', &mut self.line)? as u64;
            if read == 0 {
                return Ok(None);
            }
            if read > MAX_LINE {
                let message = format!("line {number} is longer than {} MiB", MAX_LINE >> 20);
                return Err(io::Error::other(message));
            }
            let mut text = self.line.trim_ascii();
            if self.next == 0 {
                text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
            }
            let position = Position { topic: self.topic.clone(), partition: 0, offset: self.next };
            self.next = number;
            // Later it is an event of another kind, which the evaluation rejects.
            if number == 1 && text.first() == Some(&b'[') {
                let message = "line 1 begins a JSON array: one event a line is expected";
                return Err(io::Error::other(message));
            }
            if !text.is_empty() {
                return record(text, position).map(Some);
            }
        }
    }
}

/// A line that is not an exported record becomes a value unchanged; the evaluation reports its errors.
fn record(line: &[u8], position: Position) -> io::Result<Record> {
    let number = position.offset + 1;
    match Line::read(line) {
        Ok(Some(record)) if record.masked => Err(io::Error::other(format!(
            "line {number} was exported without its addresses; only `dead-letters export --with-addresses` can be replayed"
        ))),
        Ok(Some(record)) => Ok(record.into_record(position)),
        Ok(None) => Ok(Record {
            position,
            timestamp: None,
            key: None,
            value: Some(line.to_vec().into()),
            headers: Vec::new(),
        }),
        Err(error) => Err(io::Error::other(format!("line {number} {error}"))),
    }
}

/// An exported record with its original position.
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
    /// Whether its addresses are masked. Such a record is only for reading, and must not become a row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) masked: bool,
}

/// Bytes as text if they are UTF-8, else as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bytes {
    Text(String),
    Hex(#[serde(with = "hex")] Vec<u8>),
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.to_vec()),
        }
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Hex(bytes) => bytes,
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

/// A line that is a damaged exported record.
#[derive(Debug, thiserror::Error)]
#[error("is a damaged export of a record")]
struct DamagedLine;

impl Line {
    /// Parses a line. `None` if it is not an exported record, so that it is the value of a record.
    ///
    /// # Errors
    /// [`DamagedLine`], because such a line would otherwise be read as an unknown event.
    fn read(text: &[u8]) -> Result<Option<Self>, DamagedLine> {
        /// Fields that only an exported record has.
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
    fn into_record(self, position: Position) -> Record {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_exported_records_are_both_lines() {
        let position = Position { topic: TOPIC.into(), partition: 0, offset: 7 };
        let event = br#"{"specversion":"1.0","id":"1","value":"x"}"#;
        assert_eq!(record(event, position.clone()).unwrap().value.as_deref(), Some(&event[..]));
        let exported = Record {
            position: position.clone(),
            timestamp: Some(5),
            key: Some(b"k".to_vec().into()),
            value: Some(vec![0xff, 0].into()),
            headers: vec![crate::Header { name: "h".into(), value: None }],
        };
        let whole = Line::from(&exported);
        let line = serde_json::to_vec(&whole).unwrap();
        assert_eq!(record(&line, position.clone()).unwrap(), exported);
        let masked = Line { masked: true, ..whole };
        let refused = record(&serde_json::to_vec(&masked).unwrap(), position.clone()).unwrap_err();
        assert!(refused.to_string().contains("line 8"), "{refused}");
        let text = String::from_utf8(line).unwrap();
        assert!(text.contains(r#""hex":"ff00""#), "{text}");
        for damage in ["ff0", "ff0g", "+f00"] {
            let line = text.replace("ff00", damage);
            let refused = record(line.as_bytes(), position.clone()).unwrap_err();
            assert_eq!(refused.to_string(), "line 8 is a damaged export of a record");
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_fills_the_memory() {
        let endless = BufReader::new(b"a\n\n".chain(io::repeat(b'x')));
        let mut records = RecordFile::new(endless);
        assert_eq!(records.next().unwrap().unwrap().position.offset, 0);
        let refused = records.next().unwrap_err();
        assert_eq!(refused.to_string(), "line 3 is longer than 64 MiB");
        let mut short = RecordFile::new("\u{feff}a\n \nb".as_bytes());
        let offset = |record: Option<Record>| record.map(|record| record.position.offset);
        let mut next = || offset(short.next().unwrap());
        assert_eq!((next(), next(), next()), (Some(0), Some(2), None));
        for array in ["[{},{}]", " [\n{}\n]", "[1,2,3]"] {
            let refused = RecordFile::new(array.as_bytes()).next().unwrap_err();
            let said = "line 1 begins a JSON array: one event a line is expected";
            assert_eq!(refused.to_string(), said, "{array}");
        }
    }
}
