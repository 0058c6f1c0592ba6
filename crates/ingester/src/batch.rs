//! A batch: what is written together, and the offsets that may be committed after it.

use std::sync::Arc;
use std::time::Instant;

use enrich::ExitHistory;
use model::{Offsets, Publication};

use crate::envelope::Envelope;
use crate::judge::Outcome;
use crate::lag::Oldest;
use crate::reject::Rejection;

/// Records on their way to the database, with what must happen to all of them before an offset moves.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The rows, and at the same places the records they were read from: one that the database refuses becomes a dead
    /// letter whole.
    pub(crate) publications: Vec<Publication>,
    pub(crate) envelopes: Vec<Envelope>,
    /// Dead letters to be.
    pub(crate) rejected: Vec<(Rejection, Envelope)>,
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
            envelopes: Vec::new(),
            rejected: Vec::new(),
            skipped: 0,
            offsets: Offsets::default(),
            bytes: 0,
            opened: Instant::now(),
            history,
        }
    }

    /// Adds a record and what was decided about it.
    pub(crate) fn add(&mut self, envelope: Envelope, outcome: Outcome) {
        if self.is_empty() {
            self.opened = Instant::now();
        }
        self.offsets.include(&envelope.position);
        match outcome {
            Outcome::Record(publication) => {
                self.bytes += envelope.size() + size_of::<Publication>();
                self.publications.push(publication);
                self.envelopes.push(envelope);
            }
            Outcome::Reject(rejection) => {
                self.bytes += envelope.size();
                self.rejected.push((rejection, envelope));
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
        for envelope in
            self.envelopes.iter().chain(self.rejected.iter().map(|(_, envelope)| envelope))
        {
            if let Some(timestamp) = envelope.timestamp {
                oldest.entry(envelope.position.partition).or_insert(timestamp);
            }
        }
        oldest
    }

    /// Records that will be written somewhere.
    pub(crate) fn rows(&self) -> usize {
        self.publications.len() + self.rejected.len()
    }
}
