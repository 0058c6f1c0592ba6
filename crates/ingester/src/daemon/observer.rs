//! The observers of live ingest: they update metrics, lag, health and the offsets to commit.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use store::{WaitCause, WaitObserver};

use crate::daemon::health::{Health, PauseCause};
use crate::daemon::lag::{Lag, Oldest};
use crate::daemon::metrics::{IngesterMetrics, Verdicts};
use crate::daemon::outcome_log::OutcomeLog;
use crate::daemon::rejection_limit::RejectionLimit;
use crate::daemon::replays::Replays;
use crate::kafka::{GroupObserver, GroupWait, PartitionEnd};
use crate::pipeline;
use crate::pipeline::batch::{Batch, WrittenBatch};
use crate::pipeline::evaluate::Outcome;
use crate::pipeline::ports::{
    AssignmentId, BatchObserver, DeliveryObserver, SourceControl, Undelivered,
};
use crate::record::Record;

/// The observer of every record and batch of live ingest.
pub(crate) struct LiveObserver {
    metrics: Arc<IngesterMetrics>,
    verdicts: Verdicts,
    lag: Arc<Lag>,
    source: Arc<dyn SourceControl>,
    limit: RejectionLimit,
    log: OutcomeLog,
}

impl LiveObserver {
    /// `source` gets the written offsets, to commit them.
    pub(crate) fn new(
        metrics: Arc<IngesterMetrics>,
        lag: Arc<Lag>,
        source: Arc<dyn SourceControl>,
        limit: RejectionLimit,
    ) -> Self {
        Self { verdicts: metrics.verdicts(), metrics, lag, source, limit, log: OutcomeLog::new() }
    }

    fn count(&self, written: &WrittenBatch) {
        let WrittenBatch { batch, recorded, duration } = written;
        self.metrics.batch_rows.observe(batch.rows() as f64);
        self.metrics.store_write_seconds.observe(duration.as_secs_f64());
        let outcomes = [
            ("inserted", recorded.inserted),
            ("updated", recorded.updated),
            ("unchanged", recorded.unchanged),
            ("dead_lettered", batch.rejected.len() as u64),
            ("skipped", batch.skipped),
        ];
        for (outcome, count) in outcomes {
            self.metrics.records_total.with_label_values(&[outcome]).inc_by(count);
        }
        for (rejection, _) in &batch.rejected {
            self.metrics.dead_letters_total.with_label_values(&[rejection.code.as_str()]).inc();
        }
        self.metrics.disputed_total.inc_by(recorded.disputed);
        let now = pipeline::now().as_micros() as f64 / 1e6;
        let latencies = self.metrics.publish_to_row_seconds.local();
        for timestamp in batch.records.iter().filter_map(|record| record.timestamp) {
            latencies.observe((now - timestamp as f64 / 1_000.0).max(0.0));
        }
        latencies.flush();
    }
}

impl BatchObserver for LiveObserver {
    fn evaluated(&mut self, outcome: &Outcome) -> ControlFlow<()> {
        if let Outcome::Row(publication) = outcome {
            self.verdicts.count(&publication.info);
        }
        self.limit.evaluated(outcome)
    }

    fn sent(&mut self, batch: &Batch) {
        self.lag.sent(oldest(batch));
    }

    fn written(&mut self, written: &WrittenBatch) {
        self.lag.written(&written.batch.offsets);
        self.source.written(&written.batch.offsets);
        if !written.batch.rejected.is_empty() {
            self.source.commit_soon();
        }
        self.count(written);
        if let Some(counts) = self.log.dead_letters(&written.batch, Instant::now()) {
            tracing::warn!(counts, "records became dead letters: `dead-letters list` shows them");
        }
        if let Some(skipped) = self.log.only_skipped(&written.batch) {
            tracing::warn!(
                skipped,
                "every record so far was skipped: none has the type of events.type"
            );
        }
    }
}

/// By partition, the timestamp of the first record that becomes a row or a dead letter.
fn oldest(batch: &Batch) -> Oldest {
    let mut oldest = Oldest::new();
    for record in batch.records.iter().chain(batch.rejected.iter().map(|(_, record)| record)) {
        if let Some(timestamp) = record.timestamp {
            oldest.entry(record.position.partition).or_insert(timestamp);
        }
    }
    oldest
}

/// The observer of all waits for the environment: updates health and metrics, and logs the start and the end of a wait.
pub(crate) struct Waits {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<IngesterMetrics>,
}

impl Waits {
    fn begin(&self, cause: PauseCause, reason: String) {
        if self.health.waiting(cause, reason.clone()) {
            tracing::warn!(
                cause = cause.as_str(),
                reason,
                "waiting; it is tried again until it succeeds"
            );
        }
    }

    fn end(&self, cause: PauseCause) {
        if self.health.recovered(cause) {
            tracing::info!(cause = cause.as_str(), "no longer waiting");
        }
    }
}

impl WaitObserver for Waits {
    fn waiting(&self, cause: WaitCause, error: &store::Error) {
        self.begin(cause.into(), error.to_string());
    }

    fn recovered(&self, cause: WaitCause) {
        self.end(cause.into());
    }

    fn retried(&self, cause: WaitCause, error: &store::Error) {
        self.health.reword(cause.into(), || error.to_string());
        self.metrics.store_retries_total.with_label_values(&[error.class()]).inc();
    }
}

impl DeliveryObserver for Waits {
    fn waiting(&self, error: &Undelivered) {
        self.begin(PauseCause::DeadLettersWait, error.to_string());
    }

    fn recovered(&self) {
        self.end(PauseCause::DeadLettersWait);
    }
}

/// The observer of the group member's state.
pub(crate) struct GroupWatch {
    pub(crate) topic: String,
    pub(crate) health: Arc<Health>,
    pub(crate) lag: Arc<Lag>,
    pub(crate) metrics: Arc<IngesterMetrics>,
    pub(crate) replays: Arc<Replays>,
}

impl GroupObserver for GroupWatch {
    fn polled(&self) {
        self.health.poll_beat();
    }

    fn membership(&self, join_state: &str) {
        self.health.group_state(join_state);
    }

    fn assigned(&self) {
        self.metrics.rebalances_total.inc();
        self.health.assigned();
    }

    fn revoking(&self) {
        self.metrics.rebalances_total.inc();
        self.health.rebalancing();
    }

    fn waits_for(&self, what: GroupWait, reason: String) -> bool {
        self.health.pause(what.into(), reason)
    }

    fn has(&self, what: GroupWait) {
        let cause = PauseCause::from(what);
        if self.health.resume(cause) {
            tracing::info!(cause = cause.as_str(), "recovered: reading resumes");
        }
    }

    fn lost(&self, records: u64) {
        self.metrics.offset_gap_records_total.inc_by(records);
    }

    fn went_back(&self, records: u64) {
        self.metrics.store_rewound_records_total.inc_by(records);
        self.replays.went_back();
    }

    fn committed_replay(&self, last: i64) {
        self.replays.committed(last);
    }

    fn last_replay(&self) -> Option<i64> {
        self.replays.last()
    }

    fn started(&self, partition: i32, next: i64, assignment: AssignmentId) {
        self.lag.start_at(partition, next, assignment);
    }

    fn read(&self, records: &[Record]) {
        self.lag.read(records);
    }

    fn ends(&self, ends: &[PartitionEnd]) {
        self.lag.show(&self.metrics, &self.topic, ends);
    }
}
