//! The log of a partition, and the records that were made with what must become of each.

use model::Publication;

use crate::record::Record;

/// What must become of a record.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Row(Publication),
    /// A row that the table refuses for its data.
    RefusedRow(Publication),
    Rejected,
    Skipped,
}

/// A record that was ever in the topic, and what became of it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) expected: Expected,
    /// Retention, or the end of its topic, took it before it was written: it need not be written any more.
    pub(super) is_optional: bool,
    /// Its log does not have it any more.
    pub(super) is_gone: bool,
    /// How often it was read, by whoever.
    pub(super) deliveries: u32,
    /// How often it was in a batch that was written.
    pub(super) batched: u32,
    /// Whether its row is in the table, or merged there.
    pub(super) is_in_table: bool,
    pub(super) dead_letters: u32,
    /// Dead letters that were written and not acknowledged.
    pub(super) unacknowledged: u32,
}

impl Made {
    /// Whether an offset behind it may be committed.
    pub(super) fn is_done(&self) -> bool {
        match self.expected {
            Expected::Row(_) => self.is_in_table,
            Expected::RefusedRow(_) | Expected::Rejected => self.dead_letters > 0,
            Expected::Skipped => self.deliveries > 0,
        }
    }
}

/// A partition: the records that it holds, by their offset.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) low: i64,
    /// The record at each offset from 0, those that are deleted among them.
    pub(super) records: Vec<usize>,
    /// The offsets at which a leader's epoch began, ascending; the first began with the log.
    pub(super) epochs: Vec<(i64, i32)>,
}

impl Log {
    pub(super) fn high(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap()
    }

    /// The epoch of its leader.
    pub(super) fn epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |&(_, epoch)| epoch)
    }

    /// The epoch of the leader that wrote this record.
    pub(super) fn epoch_at(&self, offset: i64) -> i32 {
        let began = self.epochs.iter().rev().find(|&&(first, _)| first <= offset);
        began.map_or(0, |&(_, epoch)| epoch)
    }

    /// Where the records of this epoch and of those before it end.
    pub(super) fn end_of(&self, epoch: i32) -> i64 {
        let next = self.epochs.iter().find(|&&(_, of)| of > epoch);
        next.map_or(self.high(), |&(first, _)| first)
    }

    /// Where it was cut last; 0 where it never was.
    pub(super) fn last_cut(&self) -> i64 {
        self.epochs.last().map_or(0, |&(first, _)| first)
    }

    pub(super) fn at(&self, offset: i64) -> usize {
        self.records[usize::try_from(offset).unwrap()]
    }
}
