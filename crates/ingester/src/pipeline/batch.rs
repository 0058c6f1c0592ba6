//! A batch: what is written together, and the offsets that may be committed after it.

use std::sync::Arc;
use std::time::Instant;

use enrich::ExitHistory;
use model::{Offsets, Publication};

use crate::daemon::lag::Oldest;
use crate::decode::rejection::Rejection;
use crate::pipeline::evaluate::Outcome;
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
    pub(crate) offsets: Offsets,
    /// What the records hold in memory, in bytes.
    pub(crate) bytes: usize,
    /// When the first record came.
    pub(crate) opened: Instant,
    /// The evidence by which the first record was judged; later ones may have been judged by newer.
    pub(crate) history: Arc<ExitHistory>,
}

impl Batch {
    pub(crate) fn new(history: Arc<ExitHistory>) -> Self {
        Self {
            publications: Vec::new(),
            records: Vec::new(),
            rejected: Vec::new(),
            skipped: 0,
            offsets: Offsets::default(),
            bytes: 0,
            opened: Instant::now(),
            history,
        }
    }

    /// Adds a record and what was decided about it.
    pub(crate) fn add(&mut self, record: Record, outcome: Outcome) {
        if self.is_empty() {
            self.opened = Instant::now();
        }
        self.offsets.include(&record.position);
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

    /// Whether no record was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// By partition, the timestamp of the first record that is written somewhere.
    pub(crate) fn oldest(&self) -> Oldest {
        let mut oldest = Oldest::new();
        for record in self.records.iter().chain(self.rejected.iter().map(|(_, record)| record)) {
            if let Some(timestamp) = record.timestamp {
                oldest.entry(record.position.partition).or_insert(timestamp);
            }
        }
        oldest
    }

    /// Records that will be written somewhere.
    pub(crate) fn rows(&self) -> usize {
        self.publications.len() + self.rejected.len()
    }
}
