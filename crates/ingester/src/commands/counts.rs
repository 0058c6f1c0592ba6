//! The results of the records that a command reads again, and the position up to which they count.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
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
    /// What was left out at or behind the position: a later run would come across it again.
    left_out: Vec<LeftOut>,
}

/// Records that follow each other and were left out for the same reason.
#[derive(Debug)]
struct LeftOut {
    reason: &'static str,
    partition: i32,
    offsets: Range<i64>,
}

impl Inner {
    /// Counts the records left out that are before the position, or all.
    fn count_left_out(&mut self, all: bool) {
        let Self { progress, left_out, .. } = self;
        left_out.retain(|LeftOut { reason, partition, offsets }| {
            let position = progress.position.get(partition);
            let counts = all || position.is_some_and(|&next| next >= offsets.end);
            if counts {
                let count = progress.counts.left_out.entry((*reason).to_owned()).or_default();
                *count += offsets.start.abs_diff(offsets.end);
            }
            !counts
        });
    }
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

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, offset, code, message } = self;
        write!(f, "{topic}/{partition}/{offset} {code}: {message}")
    }
}

impl Counts {
    /// Continues with a job's previous progress.
    pub(crate) fn from(progress: JobProgress) -> Self {
        Self(Arc::new(Mutex::new(Inner { progress, ..Inner::default() })))
    }

    /// The progress of exactly the records written so far, and of those left out before them.
    pub(crate) fn progress(&self) -> JobProgress {
        let mut inner = self.0.lock();
        inner.count_left_out(false);
        inner.progress.clone()
    }

    /// The progress of a range that was read to its end, with everything that was left out.
    pub(crate) fn whole(&self) -> JobProgress {
        let mut inner = self.0.lock();
        inner.count_left_out(true);
        inner.progress.clone()
    }

    /// Counts records that are not read into the table, once the position is behind them.
    pub(crate) fn leave_out(&self, reason: &'static str, partition: i32, offsets: Range<i64>) {
        let left_out = &mut self.0.lock().left_out;
        match left_out.last_mut() {
            Some(last)
                if (last.reason, last.partition, last.offsets.end)
                    == (reason, partition, offsets.start) =>
            {
                last.offsets.end = offsets.end;
            }
            _ => left_out.push(LeftOut { reason, partition, offsets }),
        }
    }

    /// A few rejected records of each code.
    pub(crate) fn examples(&self) -> Vec<Rejected> {
        self.0.lock().examples.values().flatten().cloned().collect()
    }
}

impl BatchObserver for Counts {
    fn written(&mut self, written: &WrittenBatch) {
        let mut inner = self.0.lock();
        let Inner { progress, examples, .. } = &mut *inner;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_counts_once_when_the_position_is_behind_it() {
        // Letters of partition 4 that are left out, except for offsets 2 and 7. Every run comes across those behind its start.
        let run = |from: &JobProgress, start| {
            let counts = Counts::from(from.clone());
            for offset in (start..10).filter(|offset| ![2, 7].contains(offset)) {
                counts.leave_out("max_attempts", 4, offset..offset + 1);
            }
            counts.leave_out("gone", 5, 0..100);
            assert_eq!(counts.progress(), *from, "nothing new is before the position");
            counts
        };
        let mut saved = JobProgress::default();
        for (start, next, before) in [(0, 3, 2), (3, 8, 6)] {
            let counts = run(&saved, start);
            counts.0.lock().progress.position.insert(4, next);
            saved = counts.progress();
            assert_eq!(saved.counts.left_out, [("max_attempts".to_owned(), before)].into());
            assert_eq!(counts.progress(), saved, "each once");
        }
        let saved = run(&saved, 8).whole();
        let left_out = [("gone".to_owned(), 100), ("max_attempts".to_owned(), 8)];
        assert_eq!(saved.counts.left_out, left_out.into());
        assert_eq!(saved.counts.read(), 0);
    }
}
