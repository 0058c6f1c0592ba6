//! A batch: records that are written together, and the offsets that may be committed afterwards.

use std::sync::Arc;
use std::time::Duration;

use enrich::ExitHistory;
use model::Publication;
use store::Recorded;
use tokio::time::Instant;

use crate::decode::rejection::Rejection;
use crate::pipeline::evaluate::Outcome;
use crate::pipeline::offsets::{AssignmentId, WrittenOffsets};
use crate::record::Record;

/// Records to be written. Their offsets move only after all of them are done.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The rows. `records` has their source records at the same indexes, for the dead letters of rows that the database
    /// refuses.
    pub(crate) publications: Vec<Publication>,
    pub(crate) records: Vec<Record>,
    /// Records that become dead letters.
    pub(crate) rejected: Vec<(Rejection, Record)>,
    /// The number of skipped records.
    pub(crate) skipped: u64,
    /// The next offsets after all records of the batch.
    pub(crate) offsets: WrittenOffsets,
    /// The memory of the records, in bytes.
    pub(crate) bytes: usize,
    /// When the first record was added.
    pub(crate) opened: Instant,
    /// The evidence for the first record; later records may have been evaluated by newer evidence.
    pub(crate) history: Arc<ExitHistory>,
}

/// A written batch and its result.
#[derive(Debug)]
pub(crate) struct WrittenBatch {
    /// The batch; rows that the database refused are in `rejected`.
    pub(crate) batch: Batch,
    /// The store's counts.
    pub(crate) recorded: Recorded,
    /// The time from the first try to the last acknowledgement.
    pub(crate) duration: Duration,
}

impl Batch {
    pub(crate) fn new(history: Arc<ExitHistory>) -> Self {
        Self {
            publications: Vec::new(),
            records: Vec::new(),
            rejected: Vec::new(),
            skipped: 0,
            offsets: WrittenOffsets::default(),
            bytes: 0,
            opened: Instant::now(),
            history,
        }
    }

    /// Adds a record with the assignment under which it was read and its outcome.
    pub(crate) fn add(&mut self, record: Record, assignment: AssignmentId, outcome: Outcome) {
        if self.is_empty() {
            self.opened = Instant::now();
        }
        self.offsets.include(&record.position, assignment);
        match outcome {
            Outcome::Row(publication) => {
                self.bytes += record.size() + size_of::<Publication>();
                self.publications.push(publication);
                self.records.push(record);
            }
            Outcome::Reject(rejection) => {
                self.bytes += record.size();
                self.rejected.push((rejection, record));
            }
            Outcome::Skip => self.skipped += 1,
        }
    }

    /// Moves a row that the database refused to the dead letters. The indexes of later rows decrease by one.
    pub(crate) fn refuse(&mut self, place: usize, rejection: Rejection) {
        self.publications.remove(place);
        self.rejected.push((rejection, self.records.remove(place)));
    }

    /// Whether no record was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The number of rows and dead letters.
    pub(crate) fn rows(&self) -> usize {
        self.publications.len() + self.rejected.len()
    }
}
