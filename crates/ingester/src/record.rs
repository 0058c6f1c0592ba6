//! A Kafka record, taken out of the client's memory whole: what is rejected goes on as it came.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use model::Position;

/// A record header; Kafka allows a name to occur again and a value to be null.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// The name, in the producer's case.
    pub name: Arc<str>,
    /// The value, `None` for a null.
    pub value: Option<Bytes>,
}

/// A record with everything that a dead letter has to repeat. `Debug` shows where it stands and nothing it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic, partition and offset.
    pub position: Position,
    /// The record's own timestamp in milliseconds since 1970, where it has one.
    pub timestamp: Option<i64>,
    /// The key; not read.
    pub key: Option<Bytes>,
    /// The value, `None` for a tombstone.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// About how many bytes the record holds in memory.
    #[must_use]
    pub fn size(&self) -> usize {
        // A header of three bytes in Kafka holds twenty times as much here: its place, and the counts of its name.
        let header = size_of::<Header>() + 2 * size_of::<usize>();
        size_of::<Self>() + self.wire_size() + self.headers.len() * header
    }

    /// About how many bytes the record has in Kafka, uncompressed.
    pub(crate) fn wire_size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|header| header.name.len() + length(&header.value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }

    /// The value of the last header of this name, in any case; `None` also for a null.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let is_named = |header: &&Header| {
            header.name.len() == name.len()
                && (*header.name == *name || header.name.eq_ignore_ascii_case(name))
        };
        let last = self.headers.iter().rev().find(is_named)?;
        last.value.as_deref()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Record({} {} {})",
            self.position.topic, self.position.partition, self.position.offset
        )
    }
}
