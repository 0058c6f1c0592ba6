//! Positions in Kafka. Only this module computes the next offset from a record's offset.

use std::collections::BTreeMap;
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

/// For each topic and partition, the next offset to read, which Kafka calls the committed offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets(BTreeMap<(Arc<str>, i32), i64>);

impl Offsets {
    /// Marks the record as done: the next offset becomes at least the record's offset plus one, and never decreases. No
    /// other code adds this one.
    pub fn include(&mut self, position: &Position) {
        self.advance(&position.topic, position.partition, position.offset + 1);
    }

    /// Marks the records as done that another set has marked.
    pub fn include_all(&mut self, other: &Self) {
        for ((topic, partition), &next) in &other.0 {
            self.advance(topic, *partition, next);
        }
    }

    /// Marks every record before this offset as done.
    pub fn include_before(&mut self, topic: &Arc<str>, partition: i32, next: i64) {
        self.advance(topic, partition, next);
    }

    /// The next offset of a partition; `None` if no record of the partition is done.
    #[must_use]
    pub fn next(&self, topic: &str, partition: i32) -> Option<i64> {
        // The map's keys hold an `Arc`, so the look-up needs one. Commits are rare enough for the copy.
        self.0.get(&(Arc::from(topic), partition)).copied()
    }

    /// Removes the partitions for which `keep` returns `false`.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, i32) -> bool) {
        self.0.retain(|(topic, partition), _| keep(topic, *partition));
    }

    /// Whether no record is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Topic, partition and next offset, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.0.iter().map(|((topic, partition), &next)| (&**topic, *partition, next))
    }

    fn advance(&mut self, topic: &Arc<str>, partition: i32, next: i64) {
        let kept = self.0.entry((topic.clone(), partition)).or_insert(next);
        *kept = next.max(*kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_offset_is_one_past_the_greatest_record_done() {
        let topic: Arc<str> = "t".into();
        let mut offsets = Offsets::default();
        for offset in [7, 3, 5] {
            offsets.include(&Position { topic: topic.clone(), partition: 0, offset });
        }
        let mut other = Offsets::default();
        other.include(&Position { topic: topic.clone(), partition: 0, offset: 1 });
        other.include(&Position { topic, partition: 1, offset: 0 });
        offsets.include_all(&other);
        assert_eq!(offsets.iter().collect::<Vec<_>>(), [("t", 0, 8), ("t", 1, 1)]);
        assert_eq!((offsets.next("t", 1), offsets.next("t", 2)), (Some(1), None));
    }
}
