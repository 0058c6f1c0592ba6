//! Positions in Kafka.

use std::sync::Arc;

/// The position of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
    /// The record's own offset, from 0.
    pub offset: i64,
}
