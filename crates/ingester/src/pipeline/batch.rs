//! A batch: what is written together, and the offsets that may be committed after it.

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

/// Records on their way to the database, with what must happen to all of them before an offset moves.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The rows, and at the same places the records they were read from: one that the database refuses becomes a dead
    /// letter whole.
    pub(crate) publications: Vec<Publication>,
    pub(crate) records: Vec<Record>,
    /// Dead letters to be.
    pub(crate) rejected: Vec<(Rejection, Record)>,
    /// Records passed over.
    pub(crate) skipped: u64,
    /// The offsets behind all of these.
    pub(crate) offsets: WrittenOffsets,
    /// What the records hold in memory, in bytes.
    pub(crate) bytes: usize,
    /// When the first record came.
    pub(crate) opened: Instant,
    /// The evidence by which the first record was evaluated; later ones may have been evaluated by newer.
    pub(crate) history: Arc<ExitHistory>,
}

/// A batch that is written, and what came of it.
#[derive(Debug)]
pub(crate) struct WrittenBatch {
    /// The batch; rows that the database refused stand among its rejections.
    pub(crate) batch: Batch,
    /// What the store says.
    pub(crate) recorded: Recorded,
    /// From the first try to the last acknowledgement.
    pub(crate) took: Duration,
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

    /// Adds a record, the assignment under which it was read, and what was decided about it.
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
            Outcome::Skip(_) => self.skipped += 1,
        }
    }

    /// Moves a row that the database refused to the dead letters. Places behind it move one to the front.
    pub(crate) fn refuse(&mut self, place: usize, rejection: Rejection) {
        self.publications.remove(place);
        self.rejected.push((rejection, self.records.remove(place)));
    }

    /// Whether no record was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Records that will be written somewhere.
    pub(crate) fn rows(&self) -> usize {
        self.publications.len() + self.rejected.len()
    }
}
