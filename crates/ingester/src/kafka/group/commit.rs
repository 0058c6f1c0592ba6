//! Which written offsets may be committed. Pure: the poll thread owns it, and the simulation of the loop drives it.

use std::collections::BTreeMap;

use crate::pipeline::ports::{AssignmentId, WrittenOffset};

/// The written offsets of the partitions that are owned.
///
/// A written offset that was read under assignment `a` counts only while its partition has been owned without a break
/// since an assignment ≤ `a`. Anything else belongs to an earlier ownership: another member may have gone further since,
/// and committing it would set the group back. Such offsets are dropped; their records are read again by the owner.
#[derive(Debug, Default)]
pub(crate) struct CommitQueue {
    assignment: AssignmentId,
    owned: BTreeMap<i32, Ownership>,
}

/// What is known of a partition since it came.
#[derive(Debug)]
struct Ownership {
    /// The first assignment of this ownership.
    since: AssignmentId,
    /// The greatest offset that is written.
    written: Option<i64>,
    /// The offset that was sent last.
    sent: Option<i64>,
    /// Whether the broker has confirmed `sent`, or nothing was sent.
    confirmed: bool,
}

impl CommitQueue {
    /// The present assignment: records that are read now belong to it.
    pub(crate) fn assignment(&self) -> AssignmentId {
        self.assignment
    }

    /// Partitions came, or start again on another log: what was written of them before counts no more.
    pub(crate) fn assign(&mut self, partitions: impl IntoIterator<Item = i32>) {
        self.assignment = AssignmentId(self.assignment.0 + 1);
        for partition in partitions {
            let since = self.assignment;
            let new = Ownership { since, written: None, sent: None, confirmed: true };
            self.owned.insert(partition, new);
        }
    }

    /// Partitions went.
    pub(crate) fn revoke(&mut self, partitions: impl IntoIterator<Item = i32>) {
        for partition in partitions {
            self.owned.remove(&partition);
        }
    }

    /// A position was written. `false`: it belongs to an earlier ownership and was dropped.
    pub(crate) fn written(&mut self, partition: i32, offset: WrittenOffset) -> bool {
        let Some(owned) = self.owned.get_mut(&partition) else { return false };
        if offset.assignment < owned.since {
            return false;
        }
        owned.written = owned.written.max(Some(offset.next));
        true
    }

    /// A partition starts at the group's own offset.
    pub(crate) fn starts_as_committed(&mut self, partition: i32, next: i64) {
        if let Some(owned) = self.owned.get_mut(&partition).filter(|owned| owned.written.is_none())
        {
            (owned.written, owned.sent) = (Some(next), Some(next));
        }
    }

    /// What is committed beside the offset has changed: the offset is sent again, where there is one.
    pub(crate) fn repeat(&mut self, partition: i32) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.sent = None;
            owned.confirmed = true;
        }
    }

    /// Takes what is to be sent: partition and next offset.
    pub(crate) fn take(&mut self) -> Vec<(i32, i64)> {
        let mut offsets = Vec::new();
        for (&partition, owned) in &mut self.owned {
            if let Some(next) = owned.written.filter(|_| owned.written > owned.sent) {
                owned.sent = Some(next);
                owned.confirmed = false;
                offsets.push((partition, next));
            }
        }
        offsets
    }

    /// What was sent did not arrive: it is sent again with the next commit.
    pub(crate) fn not_sent(&mut self, offsets: &[(i32, i64)]) {
        for &(partition, next) in offsets {
            if let Some(owned) = self.owned.get_mut(&partition).filter(|o| o.sent == Some(next)) {
                owned.sent = None;
                owned.confirmed = true;
            }
        }
    }

    /// The broker confirmed an offset, or shows a smaller one than was sent: during a rebalance the coordinator refuses
    /// commits, and nobody says so of one that was not waited for. After a confirmation a smaller one is an operator's
    /// reset and is left alone.
    pub(crate) fn shown(&mut self, partition: i32, committed: i64) {
        let Some(owned) = self.owned.get_mut(&partition).filter(|owned| !owned.confirmed) else {
            return;
        };
        if owned.sent.is_some_and(|sent| committed >= sent) {
            owned.confirmed = true;
        } else {
            owned.sent = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(assignment: u64, next: i64) -> WrittenOffset {
        WrittenOffset { next, assignment: AssignmentId(assignment) }
    }

    #[test]
    fn a_write_that_outlives_its_assignment_is_dropped() {
        let mut queue = CommitQueue::default();
        queue.assign([0, 1]);
        assert_eq!(queue.assignment(), AssignmentId(1));
        assert!(queue.written(0, at(1, 5)));
        queue.revoke([0]);
        assert!(!queue.written(0, at(1, 6)), "not ours");
        queue.assign([0]);
        assert!(!queue.written(0, at(1, 7)), "of the former ownership");
        assert_eq!(queue.take(), []);
        assert!(queue.written(0, at(2, 3)));
        assert!(queue.written(1, at(1, 9)), "kept over the assignment of another");
        assert!(queue.written(1, at(2, 10)));
        assert_eq!(queue.take(), [(0, 3), (1, 10)]);
    }

    #[test]
    fn a_position_moves_back_only_with_another_log() {
        let mut queue = CommitQueue::default();
        queue.assign([0]);
        queue.written(0, at(1, 9));
        queue.written(0, at(1, 7));
        assert_eq!(queue.take(), [(0, 9)]);
        queue.written(0, at(1, 8));
        assert_eq!(queue.take(), []);
        queue.assign([0]);
        assert!(!queue.written(0, at(1, 20)), "of the old log");
        assert!(queue.written(0, at(2, 2)));
        assert_eq!(queue.take(), [(0, 2)]);
    }

    #[test]
    fn what_did_not_arrive_is_sent_again() {
        let mut queue = CommitQueue::default();
        queue.assign([0]);
        queue.written(0, at(1, 7));
        assert_eq!(queue.take(), [(0, 7)]);
        assert_eq!(queue.take(), []);
        queue.not_sent(&[(0, 7)]);
        assert_eq!(queue.take(), [(0, 7)]);
        queue.shown(0, -1_001);
        assert_eq!(queue.take(), [(0, 7)], "the group has none yet");
        queue.shown(0, 7);
        queue.shown(0, 3);
        assert_eq!(queue.take(), [], "somebody reset it");
        queue.written(0, at(1, 12));
        assert_eq!(queue.take(), [(0, 12)]);
        queue.shown(0, 3);
        assert_eq!(queue.take(), [(0, 12)]);
        queue.revoke([0]);
        queue.shown(0, 3);
        queue.not_sent(&[(0, 12)]);
        queue.assign([0]);
        assert_eq!(queue.take(), []);
    }

    #[test]
    fn an_offset_is_repeated_for_what_is_committed_beside_it() {
        let mut queue = CommitQueue::default();
        queue.assign([0, 1]);
        queue.starts_as_committed(0, 7);
        assert_eq!(queue.take(), []);
        queue.repeat(0);
        queue.repeat(1);
        assert_eq!(queue.take(), [(0, 7)]);
        queue.written(0, at(1, 9));
        queue.starts_as_committed(0, 7);
        assert_eq!(queue.take(), [(0, 9)]);
    }
}
