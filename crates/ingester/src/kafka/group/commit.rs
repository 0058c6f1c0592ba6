//! What passes between the poll thread and the loop: events one way, finished offsets the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enrich::ExitHistory;
use model::Offsets;
use tokio::sync::watch;

use crate::evidence::settle::Trigger;
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

/// The partitions that are ours, by which evidence they are settled, and who is told when that may be too little.
#[derive(Debug)]
pub(crate) struct Assignment {
    owned: Mutex<Owned>,
    settling: Arc<Trigger>,
    evidence: watch::Receiver<Arc<ExitHistory>>,
}

#[derive(Debug, Default)]
struct Owned {
    partitions: BTreeSet<i32>,
    /// How often partitions came.
    arrivals: u64,
    /// The mark of the evidence by which all of them are settled, as far as they can be.
    settled: Option<String>,
}

impl Assignment {
    pub(crate) fn new(settling: Arc<Trigger>, evidence: watch::Receiver<Arc<ExitHistory>>) -> Self {
        Self { owned: Mutex::default(), settling, evidence }
    }

    /// In order, and a number for [`Self::settled`].
    pub(crate) fn partitions(&self) -> (Vec<i32>, u64) {
        let owned = self.owned();
        (owned.partitions.iter().copied().collect(), owned.arrivals)
    }

    /// All partitions are settled by the evidence with this mark, unless some came after the number was given.
    pub(crate) fn settled(&self, mark: String, arrivals: u64) {
        let mut owned = self.owned();
        if owned.arrivals == arrivals {
            owned.settled = Some(mark);
        }
    }

    /// The mark of the evidence by which the partitions are settled, to be committed with their offsets.
    pub(super) fn mark(&self) -> Option<String> {
        self.owned().settled.clone()
    }

    /// Partitions are about to come of which something was read before, settled by the evidence with this mark.
    pub(super) fn was_settled_by(&self, mark: Option<&str>) {
        if !mark.is_some_and(|mark| self.evidence.borrow().extends(mark)) {
            self.settling.evidence_unknown();
        }
    }

    pub(super) fn add(&self, partitions: impl Iterator<Item = i32>) {
        let mut owned = self.owned();
        owned.partitions.extend(partitions);
        owned.arrivals += 1;
        owned.settled = None;
        drop(owned);
        self.settling.assigned();
    }

    pub(super) fn remove(&self, partitions: impl Iterator<Item = i32>) {
        let mut owned = self.owned();
        partitions.for_each(|partition| {
            owned.partitions.remove(&partition);
        });
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
