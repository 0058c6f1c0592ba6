//! What is told about records: by live ingest counters, lag, and the offsets that may be committed; by a replay its own
//! counts and position. A settling pass has none of it, because its records were counted and committed when they came
//! first.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::PublicationInfo;
use store::Recorded;

use crate::daemon::lag::Lag;
use crate::daemon::metrics::{IngesterMetrics, Verdicts};
use crate::kafka::CommitQueue;
use crate::pipeline::batch::Batch;

/// A batch that is written, and what came of it.
#[derive(Debug)]
pub(crate) struct Written {
    /// The batch; rows that the database refused stand among its rejections.
    pub(crate) batch: Batch,
    /// What the store says.
    pub(crate) recorded: Recorded,
    /// From the first try to the last acknowledgement.
    pub(crate) took: Duration,
}

/// Who is told of every batch, in order. A settling pass has nobody to tell.
pub(crate) trait BatchObserver: Send {
    /// A record was judged.
    fn judged(&self, _info: &PublicationInfo) {}

    /// A batch is on its way.
    fn sent(&self, _batch: &Batch) {}

    /// A batch is written, as are all before it.
    fn written(&self, written: &Written);
}

/// Where live ingest keeps its books.
pub(crate) struct Ledger {
    pub(crate) progress: Arc<CommitQueue>,
    pub(crate) lag: Arc<Lag>,
    pub(crate) metrics: Arc<IngesterMetrics>,
    pub(crate) verdicts: Verdicts,
}

impl BatchObserver for Ledger {
    fn judged(&self, info: &PublicationInfo) {
        self.verdicts.count(info);
    }

    fn sent(&self, batch: &Batch) {
        self.lag.sent(batch.oldest());
    }

    /// Its offsets may be committed.
    fn written(&self, written: &Written) {
        let Written { batch, recorded, took } = written;
        self.lag.written(&batch.offsets);
        self.progress.finish(&batch.offsets);
        if !batch.rejected.is_empty() {
            self.progress.hurry();
        }
        self.metrics.batch_rows.observe(batch.rows() as f64);
        self.metrics.store_write_seconds.observe(took.as_secs_f64());
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
        self.metrics.disputed_total.inc_by(recorded.disputed);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let spans = self.metrics.publish_to_row_seconds.local();
        for timestamp in batch.records.iter().filter_map(|record| record.timestamp) {
            spans.observe((now - timestamp as f64 / 1_000.0).max(0.0));
        }
        spans.flush();
    }
}
