//! Settling: judging again what new evidence can change, by reading the ingester's own partitions once more through the
//! same loop (contract, section 3). Addresses are kept nowhere for it. It commits nothing and rejects nothing: its
//! records were counted, committed and, where wrong, dead-lettered when they came first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enrich::ExitHistory;
use model::Timestamp;
use store::PublicationTable;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::evidence;
use crate::evidence::settled::SettledPartitions;
use crate::kafka;
use crate::pipeline::evaluate::Evaluator;
use crate::pipeline::ports::Evidence;
use crate::pipeline::write::Writer;
use crate::pipeline::{BatchLimits, Ingest};
use crate::settings::Settings;

/// T may lie this much behind or ahead of the record's timestamp by the rule of `future_time`.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// A pass that the environment broke is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What calls for a pass. Calls that come while one runs are answered by the next.
#[derive(Debug, Default)]
pub(crate) struct Trigger {
    notify: Notify,
    /// The earliest act that a list older than what was known can concern.
    from: Mutex<Option<Timestamp>>,
}

impl Trigger {
    /// The set of valid lists changed. `from`: the earliest act that it can concern, where that lies before what was
    /// known; otherwise the unsettled rows say where to begin.
    pub(crate) fn evidence_changed(&self, from: Option<Timestamp>) {
        self.keep(from);
        self.notify.notify_one();
    }

    /// Verdicts were made with evidence that may lack lists older than its newest: all that can be judged again is.
    pub(crate) fn evidence_unknown(&self) {
        self.evidence_changed(Some(Timestamp::from_micros(0)));
    }

    /// Partitions came that another ingester may have left unsettled.
    pub(crate) fn assigned(&self) {
        self.notify.notify_one();
    }

    /// Rows were written that were judged before the evidence changed.
    pub(crate) fn written_with_older_evidence(&self) {
        self.notify.notify_one();
    }

    /// A pass found no partitions; the next one begins there too.
    fn keep(&self, from: Option<Timestamp>) {
        let mut earliest = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        *earliest = earliest.into_iter().chain(from).min();
    }

    async fn called(&self) -> Option<Timestamp> {
        self.notify.notified().await;
        self.from.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The evidence that live ingest evaluates by.
pub(crate) struct LiveEvidence {
    pub(crate) history: watch::Receiver<Arc<ExitHistory>>,
    pub(crate) trigger: Arc<Trigger>,
}

impl Evidence for LiveEvidence {
    fn has_changed(&self) -> bool {
        self.history.has_changed().unwrap_or(false)
    }

    fn current(&mut self) -> Arc<ExitHistory> {
        self.history.borrow_and_update().clone()
    }

    fn written_with(&self, oldest: &Arc<ExitHistory>) {
        // A settling pass that began meanwhile may not have seen these rows as unsettled.
        if !Arc::ptr_eq(oldest, &*self.history.borrow()) {
            self.trigger.written_with_older_evidence();
        }
    }
}

/// Everything a pass needs.
pub(crate) struct Settling {
    pub(crate) settings: Settings,
    pub(crate) trigger: Arc<Trigger>,
    pub(crate) history: watch::Receiver<Arc<ExitHistory>>,
    pub(crate) partitions: Arc<SettledPartitions>,
    pub(crate) evaluator: Evaluator,
    pub(crate) limits: BatchLimits,
    pub(crate) store: Arc<dyn PublicationTable>,
    pub(crate) writer: Arc<Writer>,
}

impl Settling {
    /// Runs a pass whenever one is called for, one after the other, until `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while let Some(from) = stop.run_until_cancelled(self.trigger.called()).await {
            match stop.run_until_cancelled(self.pass(from, &stop)).await {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a settling pass failed; it is tried again"
                    );
                    let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await;
                    self.trigger.evidence_changed(from);
                }
            }
        }
        Ok(())
    }

    async fn pass(&self, from: Option<Timestamp>, stop: &CancellationToken) -> anyhow::Result<()> {
        // Taken before the ends of the partitions are: what comes behind them is judged by this evidence or newer.
        let history = self.history.borrow().clone();
        let (partitions, owned_since) = self.partitions.owned();
        if partitions.is_empty() {
            self.trigger.keep(from);
            return Ok(());
        }
        if let Some(mark) = history.mark() {
            let oldest = self.store.oldest_unsettled().await?;
            if let Some(start) = oldest.into_iter().chain(from).min() {
                self.judge_again(history, partitions, start, stop).await?;
            }
            self.partitions.settle(&mark, owned_since);
        }
        Ok(())
    }

    /// Reads the partitions from this time on, to their ends at this moment.
    async fn judge_again(
        &self,
        history: Arc<ExitHistory>,
        partitions: Vec<i32>,
        start: Timestamp,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let horizon = evidence::now().before(self.settings.tor.settle_horizon);
        let start = start.before(TOLERANCE).max(horizon);
        tracing::info!(%start, partitions = partitions.len(), "settling: judging again with new evidence");
        let records = kafka::read_since(&self.settings, partitions, start, stop.child_token())
            .map_err(kafka::refused)?;
        let ingest = Ingest {
            evaluator: Evaluator { history: history.clone(), ..self.evaluator.clone() },
            evidence: Box::new(history),
            writer: self.writer.clone(),
            // Its records were counted and committed when they came first.
            observer: Box::new(()),
            limits: self.limits,
        };
        ingest.start(records)?.await?;
        tracing::info!("settling: done");
        Ok(())
    }
}
