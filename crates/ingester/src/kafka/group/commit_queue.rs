//! Decides which written offsets may be committed. Pure: used by the poll thread, and by the simulation.

use std::collections::BTreeMap;

use crate::pipeline::ports::{AssignmentId, WrittenOffset};

/// The written offsets of the owned partitions.
///
/// A written offset of assignment `a` is valid only if its partition has been owned without interruption since an
/// assignment ≤ `a`. Otherwise it belongs to an earlier ownership: another member may have committed a larger offset
/// since, and this commit would set the group back. Such offsets are dropped; the owner reads their records again.
#[derive(Debug, Default)]
pub(crate) struct CommitQueue {
    assignment: AssignmentId,
    owned: BTreeMap<i32, Ownership>,
}

/// The state of a partition since it was assigned.
#[derive(Debug, Default)]
struct Ownership {
    /// The first assignment of this ownership.
    since: AssignmentId,
    /// The offset before which everything was written when the ownership began.
    start: Option<i64>,
    /// The largest written offset.
    written: Option<i64>,
    /// Offsets that are lost: the first, and one more than the last.
    lost: Option<(i64, i64)>,
    /// The offset in the table's account.
    stored: Option<i64>,
    /// The metadata has changed: the offset must be stored again before it is committed.
    is_changed: bool,
    /// The offset of the last commit request.
    sent: Option<i64>,
    /// The offset that was committed before the partition started again. The broker may show it for a while.
    old: Option<i64>,
    /// Whether the broker has confirmed `sent`, or there is nothing to confirm.
    confirmed: bool,
}

impl CommitQueue {
    /// The present assignment, to which records read now belong.
    pub(crate) fn assignment(&self) -> AssignmentId {
        self.assignment
    }

    /// Registers partitions that were assigned or that start on another log: earlier written offsets are no longer
    /// valid.
    pub(crate) fn assign(&mut self, partitions: impl IntoIterator<Item = i32>) {
        self.assignment = AssignmentId(self.assignment.0 + 1);
        for partition in partitions {
            let since = self.assignment;
            let old = self.owned.get(&partition).and_then(|before| before.sent.max(before.old));
            let new = Ownership { since, old, confirmed: true, ..Ownership::default() };
            self.owned.insert(partition, new);
        }
    }

    /// Removes revoked partitions.
    pub(crate) fn revoke(&mut self, partitions: impl IntoIterator<Item = i32>) {
        for partition in partitions {
            self.owned.remove(&partition);
        }
    }

    /// Adds a written offset. `false`: it belongs to an earlier ownership and was dropped.
    pub(crate) fn written(&mut self, partition: i32, offset: WrittenOffset) -> bool {
        let Some(owned) = self.owned.get_mut(&partition) else { return false };
        if offset.assignment < owned.since {
            return false;
        }
        owned.written = owned.written.max(Some(offset.next));
        owned.skip_lost();
        true
    }

    /// The first assignment of the present ownership.
    pub(crate) fn since(&self, partition: i32) -> Option<AssignmentId> {
        self.owned.get(&partition).map(|owned| owned.since)
    }

    /// Sets the offset before which everything is written at a start. It may be stored before a new record is written.
    pub(crate) fn starts_after(&mut self, partition: i32, next: Option<i64>) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.start = next;
        }
    }

    /// The offset before which everything is written, in the present ownership.
    pub(crate) fn written_before(&self, partition: i32) -> Option<i64> {
        let owned = self.owned.get(&partition)?;
        owned.written.or(owned.start)
    }

    /// A partition starts at an offset before which everything is written. `is_committed`: the group's commit has it too.
    pub(crate) fn starts_as_written(&mut self, partition: i32, next: i64, is_committed: bool) {
        if let Some(owned) = self.owned.get_mut(&partition).filter(|owned| owned.written.is_none())
        {
            owned.written = Some(next);
            owned.sent = Some(next).filter(|_| is_committed);
        }
    }

    /// A partition starts after lost offsets, which have no records to write: when everything before the first of them
    /// is written, so is everything before `to`. Otherwise each start would report them again, until a new record
    /// comes.
    pub(crate) fn starts_after_gap(&mut self, partition: i32, (from, to): (i64, i64)) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            let first = owned.lost.filter(|&(_, end)| end == from).map_or(from, |(first, _)| first);
            owned.lost = Some((first, to));
            owned.skip_lost();
        }
    }

    /// The offsets to store in the account: partition, first assignment of the ownership, next offset. Only changed ones,
    /// or with `all` every known one.
    pub(crate) fn to_store(&self, all: bool) -> Vec<(i32, AssignmentId, i64)> {
        let positions = self.owned.iter().filter_map(|(&partition, owned)| {
            let has_moved = owned.written > owned.stored || owned.is_changed;
            let next = owned.written.or(owned.start.filter(|_| all))?;
            (all || has_moved).then_some((partition, owned.since, next))
        });
        positions.collect()
    }

    /// Marks an offset as stored in the account. `false`: it belongs to an earlier ownership.
    pub(crate) fn stored(&mut self, partition: i32, since: AssignmentId, next: i64) -> bool {
        let owned = self.owned.get_mut(&partition).filter(|owned| owned.since == since);
        let Some(owned) = owned else { return false };
        owned.stored = Some(next);
        owned.is_changed = false;
        true
    }

    /// The offset in the account, in the present ownership.
    pub(crate) fn stored_at(&self, partition: i32) -> Option<i64> {
        self.owned.get(&partition)?.stored
    }

    /// The metadata has changed: the offset, if any, is stored and committed again.
    pub(crate) fn repeat(&mut self, partition: i32) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.sent = None;
            owned.is_changed = true;
            owned.confirmed = true;
        }
    }

    /// Takes the offsets to commit: partition and next offset. An offset is committed only after it was stored.
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

    /// These commits failed: their offsets are committed again with the next commit.
    pub(crate) fn not_sent(&mut self, offsets: &[(i32, i64)]) {
        for &(partition, next) in offsets {
            if let Some(owned) = self.owned.get_mut(&partition).filter(|o| o.sent == Some(next)) {
                owned.sent = None;
                owned.confirmed = true;
            }
        }
    }

    /// Compares the group's offset with the sent one. If it is smaller than `sent`, `sent` is committed again: an
    /// asynchronous commit does not report a refusal during a rebalance. After a confirmation a smaller offset is an
    /// operator's reset and is ignored. Returns whether this confirmed an offset.
    pub(crate) fn shown(&mut self, partition: i32, committed: i64) -> bool {
        let Some(owned) = self.owned.get_mut(&partition).filter(|owned| !owned.confirmed) else {
            return false;
        };
        let is_old = owned.old.is_some_and(|old| committed >= old && owned.sent < Some(old));
        owned.confirmed = !is_old && owned.sent.is_some_and(|sent| committed >= sent);
        if !owned.confirmed {
            owned.sent = None;
        }
        owned.confirmed
    }
}

impl Ownership {
    /// Counts the lost offsets as written, once everything before them is written.
    fn skip_lost(&mut self) {
        if let Some((from, to)) = self.lost
            && self.written.or(self.start) >= Some(from)
        {
            self.written = self.written.max(Some(to));
            self.lost = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(assignment: u64, next: i64) -> WrittenOffset {
        WrittenOffset { next, assignment: AssignmentId(assignment) }
    }

    /// The offsets to commit after the account has stored everything.
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
        // The start of an idle partition is stored but not committed, because no record of it was written.
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
        assert!(!queue.shown(0, 9), "the commit for the old log");
        assert_eq!(take(&mut queue), [(0, 2)]);
        assert!(queue.shown(0, 2));
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
    fn lost_offsets_are_committed_after_what_is_before_them() {
        let mut queue = CommitQueue::default();
        queue.assign([0, 1]);
        queue.starts_after(0, Some(3));
        queue.starts_after_gap(0, (3, 9));
        assert_eq!(take(&mut queue), [(0, 9)], "no new record is needed");
        queue.starts_after(1, Some(5));
        queue.written(1, at(1, 6));
        queue.starts_after_gap(1, (8, 20));
        assert_eq!(take(&mut queue), [(1, 6)], "the records before the gap are not written yet");
        queue.written(1, at(1, 8));
        assert_eq!(take(&mut queue), [(1, 20)]);
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
