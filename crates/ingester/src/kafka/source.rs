//! What passes between the poll thread and the loop: events one way, finished offsets the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Offsets;
use service::lifecycle::exit;
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
    /// Records are lost, and `kafka.on_gap` says to stop.
    #[error("{0}")]
    Gap(String),
    /// A bug: the thread that reads ended without saying how.
    #[error("the thread that reads from kafka ended without a word")]
    Lost,
    /// A range outside of the group cannot be read.
    #[error("the range cannot be read: {0}")]
    Range(String),
}

impl SourceError {
    /// The exit code of a process that ends with this; supervisors and operators tell the cases apart by it.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Fatal(_) => exit::KAFKA_FATAL,
            Self::NotAllowed(_) => exit::NOT_ALLOWED,
            Self::Gap(_) => exit::GAP,
            Self::Lost | Self::Range(_) => exit::FAILURE,
        }
    }
}

/// What is written and may be committed: filled by the loop, emptied by the poll thread.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    written: Mutex<Offsets>,
    halted: AtomicBool,
    hurried: AtomicBool,
}

impl Progress {
    /// Dead letters are acknowledged: the sooner they are committed, the fewer a crash repeats.
    pub(crate) fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    /// Whether a commit was asked for since the last time.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.swap(false, Ordering::Relaxed)
    }

    /// Nothing more is to be read; what was written is still committed.
    pub(crate) fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed)
    }

    /// Adds a batch that is written, as are all batches before it.
    pub(crate) fn finish(&self, offsets: &Offsets) {
        self.lock().include_all(offsets);
    }

    /// Forgets a partition whose log is another now.
    pub(super) fn forget(&self, topic: &str, partition: i32) {
        self.lock().retain(|other, number| other != topic || number != partition);
    }

    /// Takes what is to be committed.
    pub(super) fn take(&self) -> Offsets {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Offsets> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
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
