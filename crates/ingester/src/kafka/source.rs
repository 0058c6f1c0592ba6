//! What passes between the poll thread and the loop: events one way, finished offsets the other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Offsets;
use tokio::sync::oneshot;

use crate::envelope::Envelope;
use crate::settle::Trigger;

/// What a source of records has to say, in order.
#[derive(Debug)]
pub(crate) enum SourceEvent {
    /// Records in the order of their partitions.
    Records(Vec<Envelope>),
    /// Partitions are about to be let go: everything before this must be written, then `done` answered.
    Revoking {
        /// Answered when all before is written and in [`Progress`].
        done: oneshot::Sender<()>,
    },
    /// The source cannot go on.
    Failed(SourceError),
    /// Nothing follows.
    Ended,
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// librdkafka calls its own error fatal; only a new process helps.
    #[error("the kafka client failed for good: {0}")]
    Fatal(String),
    /// The broker does not let us read.
    #[error("not allowed to read: {0}")]
    NotAllowed(String),
    /// A range outside of the group cannot be read.
    #[error("the range cannot be read: {0}")]
    Range(String),
}

/// What is written and may be committed: filled by the loop, emptied by the poll thread.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Offsets>);

impl Progress {
    /// Adds a batch that is written, as are all batches before it.
    pub(crate) fn finish(&self, offsets: &Offsets) {
        self.lock().include_all(offsets);
    }

    /// Takes what is to be committed.
    pub(super) fn take(&self) -> Offsets {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Offsets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The partitions that are ours, and who is told when some come.
#[derive(Debug)]
pub(crate) struct Assignment {
    partitions: Mutex<BTreeSet<i32>>,
    settling: Arc<Trigger>,
}

impl Assignment {
    pub(crate) fn new(settling: Arc<Trigger>) -> Self {
        Self { partitions: Mutex::default(), settling }
    }

    /// In order.
    pub(crate) fn partitions(&self) -> Vec<i32> {
        self.owned().iter().copied().collect()
    }

    pub(super) fn add(&self, partitions: impl Iterator<Item = i32>) {
        self.owned().extend(partitions);
        self.settling.assigned();
    }

    pub(super) fn remove(&self, partitions: impl Iterator<Item = i32>) {
        let mut owned = self.owned();
        partitions.for_each(|partition| {
            owned.remove(&partition);
        });
    }

    fn owned(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
