//! The written offset of each partition, with the assignment under which it was read.

use std::collections::BTreeMap;

use model::Position;

/// The source's number of an assignment. It increases whenever partitions are assigned or start again on another log. A
/// source without assignments uses the default.
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

/// The written offsets, by partition of the source's topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WrittenOffsets(BTreeMap<i32, WrittenOffset>);

impl WrittenOffsets {
    /// Counts a record as written. Within an assignment the offset never decreases; an offset of a newer assignment
    /// replaces that of an older one.
    pub(crate) fn include(&mut self, position: &Position, assignment: AssignmentId) {
        let to = WrittenOffset { next: position.offset + 1, assignment };
        let known = self.0.entry(position.partition).or_insert(to);
        if (to.assignment, to.next) > (known.assignment, known.next) {
            *known = to;
        }
    }

    /// Whether there is no offset.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The offsets, ordered by partition.
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
