//! The results of the records that a command reads again, and the position up to which they count.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use store::JobProgress;

use crate::pipeline::batch::WrittenBatch;
use crate::pipeline::ports::BatchObserver;

/// The maximum number of examples for each code.
const EXAMPLES: usize = 3;

/// Counts and position, shared between the loop and the code that shows or saves them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    progress: JobProgress,
    examples: BTreeMap<&'static str, Vec<Rejected>>,
}

/// A record that is not a publish event: its position and the problem, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rejected {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Counts {
    /// Continues with a job's previous progress.
    pub(crate) fn from(progress: JobProgress) -> Self {
        Self(Arc::new(Mutex::new(Inner { progress, examples: BTreeMap::new() })))
    }

    /// The progress of exactly the records written so far.
    pub(crate) fn progress(&self) -> JobProgress {
        self.lock().progress.clone()
    }

    /// A few rejected records of each code.
    pub(crate) fn examples(&self) -> Vec<Rejected> {
        self.lock().examples.values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchObserver for Counts {
    fn written(&mut self, written: &WrittenBatch) {
        let mut inner = self.lock();
        let Inner { progress, examples } = &mut *inner;
        progress.counts.add(&written.recorded);
        progress.counts.skipped += written.batch.skipped;
        for (rejection, record) in &written.batch.rejected {
            let code = rejection.code.as_str();
            *progress.counts.rejected.entry(code.to_owned()).or_default() += 1;
            let shown = examples.entry(code).or_default();
            if shown.len() < EXAMPLES {
                shown.push(Rejected {
                    topic: record.position.topic.to_string(),
                    partition: record.position.partition,
                    offset: record.position.offset,
                    code,
                    message: rejection.message.to_string(),
                });
            }
        }
        for (partition, offset) in written.batch.offsets.iter() {
            progress.position.insert(partition, offset.next);
        }
    }
}
