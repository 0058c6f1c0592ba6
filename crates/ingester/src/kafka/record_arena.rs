//! Copies records out of librdkafka's memory. librdkafka frees a fetched buffer only when its last record is freed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use model::Position;
use rdkafka::message::{BorrowedMessage, Message};

use super::ffi;
use crate::record::{Header, Record};

/// The size of the blocks that records are copied into and share: five allocations a record, freed by another thread,
/// took longer than the copy. A block holds about a hundred usual records, so that one record keeps little memory.
const BLOCK_BYTES: usize = 64 * 1024;
/// The largest number of header names that are kept. Producers use fewer; more can only come from a hostile one.
const MAX_HEADER_NAMES: usize = 16;

/// Copies the records of one topic.
pub(super) struct RecordArena {
    topic: Arc<str>,
    block: BytesMut,
    /// The header names seen so far.
    names: Vec<Arc<str>>,
}

impl RecordArena {
    pub(super) fn new(topic: Arc<str>) -> Self {
        Self { topic, block: BytesMut::with_capacity(BLOCK_BYTES), names: Vec::new() }
    }

    pub(super) fn copy(&mut self, message: &BorrowedMessage<'_>) -> Record {
        let headers = ffi::headers(message)
            .map(|(name, value)| Header {
                name: self.name(&name),
                value: value.map(|value| self.bytes(value)),
            })
            .collect();
        Record {
            position: Position {
                topic: self.topic.clone(),
                partition: message.partition(),
                offset: message.offset(),
            },
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(|key| self.bytes(key)),
            value: message.payload().map(|value| self.bytes(value)),
            headers,
        }
    }

    fn bytes(&mut self, some: &[u8]) -> Bytes {
        self.block.extend_from_slice(some);
        self.block.split().freeze()
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|known| ***known == *name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.names.len() < MAX_HEADER_NAMES {
            self.names.push(name.clone());
        }
        name
    }
}
