//! What is written of each partition, and under which assignment it was read.

use std::collections::BTreeMap;

use model::Position;

/// The source's number of an assignment, raised at each change of it: partitions that come or go, and a partition that
/// starts again on another log. A source that never changes stays at the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AssignmentId(pub(crate) u64);

/// A position of a partition that may be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenOffset {
    /// The offset after the last written record.
    pub(crate) next: i64,
    /// The assignment under which that record was read.
    pub(crate) assignment: AssignmentId,
}

/// By partition of the source's topic, what is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WrittenOffsets(BTreeMap<i32, WrittenOffset>);

impl WrittenOffsets {
    /// Counts a record as written. Within an assignment a position never moves back; a newer assignment replaces what
    /// an older one said.
    pub(crate) fn include(&mut self, position: &Position, assignment: AssignmentId) {
        let next = position.offset + 1;
        self.advance(position.partition, WrittenOffset { next, assignment });
    }

    fn advance(&mut self, partition: i32, to: WrittenOffset) {
        let known = self.0.entry(partition).or_insert(to);
        let is_ahead = (to.assignment, to.next) > (known.assignment, known.next);
        // The same log goes on under a new number when other partitions come or go.
        if is_ahead {
            *known = to;
        }
    }

    /// Whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the partitions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, WrittenOffset)> {
        self.0.iter().map(|(&partition, &offset)| (partition, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_assignment_replaces_what_an_older_one_said() {
        let mut offsets = WrittenOffsets::default();
        let at = |offset| Position { topic: "t".into(), partition: 0, offset };
        for (offset, assignment) in [(7, 1), (5, 1), (2, 3), (1, 3), (9, 2)] {
            offsets.include(&at(offset), AssignmentId(assignment));
        }
        let expected = WrittenOffset { next: 3, assignment: AssignmentId(3) };
        assert_eq!(offsets.iter().collect::<Vec<_>>(), [(0, expected)]);
    }
}
