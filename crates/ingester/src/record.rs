//! A Kafka record, copied completely out of the client's memory, so that a dead letter can repeat it unchanged.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use model::Position;

/// A record header. Kafka allows duplicate names and null values.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// The name, in the producer's letter case.
    pub name: Arc<str>,
    /// The value, `None` for a null.
    pub value: Option<Bytes>,
}

/// A record with everything that a dead letter repeats. `Debug` shows its position but none of its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic, partition and offset.
    pub position: Position,
    /// The record's timestamp in milliseconds since 1970, if it has one.
    pub timestamp: Option<i64>,
    /// The key; not read.
    pub key: Option<Bytes>,
    /// The value, `None` for a tombstone.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// The approximate size of the record in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        // A header of three bytes in Kafka takes twenty times as much here: the struct, and the counts of its name.
        let header = size_of::<Header>() + 2 * size_of::<usize>();
        size_of::<Self>() + self.wire_size() + self.headers.len() * header
    }

    /// The approximate size of the record in Kafka, uncompressed, in bytes.
    pub(crate) fn wire_size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|header| header.name.len() + length(&header.value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }

    /// The value of the last header with this name, ignoring ASCII case; `None` also for a null.
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
