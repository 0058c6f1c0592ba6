//! What passes between the poll thread and the loop: events one way, finished offsets the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Offsets;

use crate::kafka::observe::SettledEvidence;
use crate::pipeline::ports::{SourceControl, WrittenOffsets};

/// What is written and may be committed: filled by the loop, emptied by the poll thread.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    topic: Arc<str>,
    written: Mutex<Offsets>,
    halted: AtomicBool,
    hurried: AtomicBool,
}

impl CommitQueue {
    pub(crate) fn new(topic: &str) -> Self {
        Self {
            topic: topic.into(),
            written: Mutex::default(),
            halted: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        }
    }

    /// Whether a commit was asked for since the last time.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.swap(false, Ordering::Relaxed)
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

impl SourceControl for CommitQueue {
    fn written(&self, offsets: &WrittenOffsets) {
        let mut written = self.lock();
        for (partition, offset) in offsets.iter() {
            written.include_before(&self.topic, partition, offset.next);
        }
    }

    fn commit_soon(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }
}

/// The partitions that are assigned, and who is told of it.
pub(crate) struct Assignment {
    partitions: Mutex<BTreeSet<i32>>,
    pub(super) settled: Arc<dyn SettledEvidence>,
}

impl Assignment {
    pub(crate) fn new(settled: Arc<dyn SettledEvidence>) -> Self {
        Self { partitions: Mutex::default(), settled }
    }

    /// In order.
    pub(crate) fn partitions(&self) -> Vec<i32> {
        self.lock().iter().copied().collect()
    }

    pub(super) fn add(&self, partitions: impl Iterator<Item = i32>) {
        self.lock().extend(partitions);
    }

    pub(super) fn remove(&self, partitions: impl Iterator<Item = i32>) {
        partitions.for_each(|partition| {
            self.lock().remove(&partition);
            self.settled.revoked(partition);
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
