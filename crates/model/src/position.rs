//! Positions in Kafka: the one place where an offset becomes the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
    /// The record's own offset, from 0.
    pub offset: i64,
}

/// For each topic and partition, the offset to continue from: what Kafka calls the committed offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets(BTreeMap<(Arc<str>, i32), i64>);

impl Offsets {
    /// Counts the record as done: the next offset is at least one past it. This is the only `+ 1` of the house, and a
    /// position never moves back by it.
    pub fn include(&mut self, position: &Position) {
        self.advance(&position.topic, position.partition, position.offset + 1);
    }

    /// Takes over what another set has done.
    pub fn include_all(&mut self, other: &Self) {
        for ((topic, partition), &next) in &other.0 {
            self.advance(topic, *partition, next);
        }
    }

    /// Counts everything before this offset as done.
    pub fn include_before(&mut self, topic: &Arc<str>, partition: i32, next: i64) {
        self.advance(topic, partition, next);
    }

    /// The next offset of a partition, where anything of it is done.
    #[must_use]
    pub fn next(&self, topic: &str, partition: i32) -> Option<i64> {
        // The key holds an Arc, and a map is only searched by its own kind of key; commits are rare enough for a copy.
        self.0.get(&(Arc::from(topic), partition)).copied()
    }

    /// Forgets the partitions for which the answer is no.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, i32) -> bool) {
        self.0.retain(|(topic, partition), _| keep(topic, *partition));
    }

    /// Whether nothing is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Topic, partition and next offset, in order.
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
