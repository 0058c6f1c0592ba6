//! The log of a partition, and all records of a schedule with their expected outcomes.

use model::Publication;

use crate::record::Record;

/// The outcome that a record must have.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Row(Publication),
    /// A row that the table refuses for its data.
    RefusedRow(Publication),
    Rejected,
    Skipped,
}

/// A record that was ever in the topic, and its outcome so far.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) expected: Expected,
    /// Its log lost it before it was written (retention, deleted topic, truncation): it need not be written any more.
    pub(super) is_optional: bool,
    /// Its log no longer has it.
    pub(super) is_gone: bool,
    /// How often any member read it.
    pub(super) deliveries: u32,
    /// How often it was in a batch to be written.
    pub(super) batched: u32,
    /// Whether its row is in the table, merged or not.
    pub(super) is_in_table: bool,
    pub(super) dead_letters: u32,
    /// Dead letters that were written but not acknowledged.
    pub(super) unacknowledged: u32,
}

impl Made {
    /// Whether an offset after it may be committed.
    pub(super) fn is_done(&self) -> bool {
        match self.expected {
            Expected::Row(_) => self.is_in_table,
            Expected::RefusedRow(_) | Expected::Rejected => self.dead_letters > 0,
            Expected::Skipped => self.deliveries > 0,
        }
    }
}

/// A partition's log.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) low: i64,
    /// The index in `World::made` of the record at each offset from 0, deleted records included.
    pub(super) records: Vec<usize>,
    /// The offsets at which a leader epoch began, ascending. Empty until the log is cut.
    pub(super) epochs: Vec<(i64, i32)>,
}

impl Log {
    pub(super) fn high(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap()
    }

    /// The epoch of the present leader.
    pub(super) fn epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |&(_, epoch)| epoch)
    }

    /// The epoch of the leader that wrote this record.
    pub(super) fn epoch_at(&self, offset: i64) -> i32 {
        let began = self.epochs.iter().rev().find(|&&(first, _)| first <= offset);
        began.map_or(0, |&(_, epoch)| epoch)
    }

    /// The end of the records of this epoch and the earlier ones.
    pub(super) fn end_of(&self, epoch: i32) -> i64 {
        let next = self.epochs.iter().find(|&&(_, later)| later > epoch);
        next.map_or(self.high(), |&(first, _)| first)
    }

    /// The offset of the last truncation; 0 if there was none.
    pub(super) fn last_cut(&self) -> i64 {
        self.epochs.last().map_or(0, |&(first, _)| first)
    }

    pub(super) fn at(&self, offset: i64) -> usize {
        self.records[usize::try_from(offset).unwrap()]
    }
}
