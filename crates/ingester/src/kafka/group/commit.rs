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
    /// The offset before which all was written when the ownership began.
    start: Option<i64>,
    /// The greatest offset that is written.
    written: Option<i64>,
    /// The offset that stands in the table's own account.
    stored: Option<i64>,
    /// What is kept beside the offset has changed: it is stored again before it is committed.
    is_changed: bool,
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
            let new = Ownership {
                since,
                start: None,
                written: None,
                stored: None,
                is_changed: false,
                sent: None,
                confirmed: true,
            };
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

    /// The first assignment of the present ownership.
    pub(crate) fn since(&self, partition: i32) -> Option<AssignmentId> {
        self.owned.get(&partition).map(|owned| owned.since)
    }

    /// A partition starts, and all before this offset is written: the account may have it before anything else is.
    pub(crate) fn starts_after(&mut self, partition: i32, next: Option<i64>) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.start = next;
        }
    }

    /// The offset before which all is written, by the present ownership.
    pub(crate) fn written_before(&self, partition: i32) -> Option<i64> {
        let owned = self.owned.get(&partition)?;
        owned.written.or(owned.start)
    }

    /// A partition starts at an offset before which everything is written. `is_committed`: the group has it too.
    pub(crate) fn starts_as_written(&mut self, partition: i32, next: i64, is_committed: bool) {
        if let Some(owned) = self.owned.get_mut(&partition).filter(|owned| owned.written.is_none())
        {
            owned.written = Some(next);
            owned.sent = Some(next).filter(|_| is_committed);
        }
    }

    /// What is to be put into the table's own account: partition, the assignment that it was written under, and next
    /// offset. With `all` every partition that has one, moved or not.
    pub(crate) fn to_store(&self, all: bool) -> Vec<(i32, AssignmentId, i64)> {
        let positions = self.owned.iter().filter_map(|(&partition, owned)| {
            let has_moved = owned.written > owned.stored || owned.is_changed;
            let next = owned.written.or(owned.start.filter(|_| all))?;
            (all || has_moved).then_some((partition, owned.since, next))
        });
        positions.collect()
    }

    /// The account has this offset. `false`: it belongs to an earlier ownership.
    pub(crate) fn stored(&mut self, partition: i32, since: AssignmentId, next: i64) -> bool {
        let owned = self.owned.get_mut(&partition).filter(|owned| owned.since == since);
        let Some(owned) = owned else { return false };
        owned.stored = Some(next);
        owned.is_changed = false;
        true
    }

    /// What the account has of a partition, by the present ownership.
    pub(crate) fn stored_at(&self, partition: i32) -> Option<i64> {
        self.owned.get(&partition)?.stored
    }

    /// What is committed beside the offset has changed: the offset is sent again, where there is one.
    pub(crate) fn repeat(&mut self, partition: i32) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.sent = None;
            owned.is_changed = true;
            owned.confirmed = true;
        }
    }

    /// Takes what is to be sent: partition and next offset. Nothing goes to the group that the account does not have.
    pub(crate) fn take(&mut self) -> Vec<(i32, i64)> {
        let mut offsets = Vec::new();
        for (&partition, owned) in &mut self.owned {
            let stored = owned.written.and(owned.stored).filter(|_| !owned.is_changed);
            if let Some(next) = stored.filter(|_| stored > owned.sent) {
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
    /// reset and is left alone. Answers whether an offset is confirmed by this.
    pub(crate) fn shown(&mut self, partition: i32, committed: i64) -> bool {
        let Some(owned) = self.owned.get_mut(&partition).filter(|owned| !owned.confirmed) else {
            return false;
        };
        owned.confirmed = owned.sent.is_some_and(|sent| committed >= sent);
        if !owned.confirmed {
            owned.sent = None;
        }
        owned.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(assignment: u64, next: i64) -> WrittenOffset {
        WrittenOffset { next, assignment: AssignmentId(assignment) }
    }

    /// What is to be sent when the account has taken all that it was to.
    fn take(queue: &mut CommitQueue) -> Vec<(i32, i64)> {
        for (partition, since, next) in queue.to_store(false) {
            assert!(queue.stored(partition, since, next));
        }
        queue.take()
    }

    #[test]
    fn nothing_is_sent_that_the_account_does_not_have() {
        let mut queue = CommitQueue::default();
        queue.assign([0, 1]);
        queue.starts_after(1, Some(4));
        queue.written(0, at(1, 7));
        assert_eq!(queue.take(), []);
        assert_eq!(queue.to_store(false), [(0, AssignmentId(1), 7)]);
        queue.written(0, at(1, 9));
        assert!(queue.stored(0, AssignmentId(1), 7));
        assert_eq!((queue.take(), queue.stored_at(0)), (vec![(0, 7)], Some(7)));
        // An idle partition is stored from its start on, and not sent: nothing of it is written.
        let all = [(0, AssignmentId(1), 9), (1, AssignmentId(1), 4)];
        assert_eq!(queue.to_store(true), all);
        assert!(queue.stored(1, AssignmentId(1), 4));
        assert_eq!(queue.take(), []);
        queue.assign([0]);
        assert!(!queue.stored(0, AssignmentId(1), 9), "of the former ownership");
        assert_eq!(queue.take(), []);
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
        assert_eq!(take(&mut queue), []);
        assert!(queue.written(0, at(2, 3)));
        assert!(queue.written(1, at(1, 9)), "kept over the assignment of another");
        assert!(queue.written(1, at(2, 10)));
        assert_eq!(take(&mut queue), [(0, 3), (1, 10)]);
    }

    #[test]
    fn a_position_moves_back_only_with_another_log() {
        let mut queue = CommitQueue::default();
        queue.assign([0]);
        queue.written(0, at(1, 9));
        queue.written(0, at(1, 7));
        assert_eq!(take(&mut queue), [(0, 9)]);
        queue.written(0, at(1, 8));
        assert_eq!(take(&mut queue), []);
        queue.assign([0]);
        assert!(!queue.written(0, at(1, 20)), "of the old log");
        assert!(queue.written(0, at(2, 2)));
        assert_eq!(take(&mut queue), [(0, 2)]);
    }

    #[test]
    fn what_did_not_arrive_is_sent_again() {
        let mut queue = CommitQueue::default();
        queue.assign([0]);
        queue.written(0, at(1, 7));
        assert_eq!(take(&mut queue), [(0, 7)]);
        assert_eq!(take(&mut queue), []);
        queue.not_sent(&[(0, 7)]);
        assert_eq!(take(&mut queue), [(0, 7)]);
        queue.shown(0, -1_001);
        assert_eq!(take(&mut queue), [(0, 7)], "the group has none yet");
        queue.shown(0, 7);
        queue.shown(0, 3);
        assert_eq!(take(&mut queue), [], "somebody reset it");
        queue.written(0, at(1, 12));
        assert_eq!(take(&mut queue), [(0, 12)]);
        queue.shown(0, 3);
        assert_eq!(take(&mut queue), [(0, 12)]);
        queue.revoke([0]);
        queue.shown(0, 3);
        queue.not_sent(&[(0, 12)]);
        queue.assign([0]);
        assert_eq!(take(&mut queue), []);
    }

    #[test]
    fn an_offset_is_repeated_for_what_is_committed_beside_it() {
        let mut queue = CommitQueue::default();
        queue.assign([0, 1]);
        queue.starts_as_written(0, 7, true);
        assert_eq!(take(&mut queue), []);
        queue.repeat(0);
        queue.repeat(1);
        assert_eq!(take(&mut queue), [(0, 7)]);
        queue.written(0, at(1, 9));
        queue.starts_as_written(0, 7, true);
        assert_eq!(take(&mut queue), [(0, 9)]);
    }
}
