//! The loop: the one place where records become batches, batches are written, and offsets are counted as done.

pub(crate) mod batch;
pub(crate) mod evaluate;
pub(crate) mod observe;
pub(crate) mod write;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use enrich::ExitHistory;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle};

use crate::daemon::rejection_limit::RejectionLimit;
use crate::evidence::settle::Trigger;
use crate::kafka::{SourceError, SourceEvent};
use crate::pipeline::batch::Batch;
use crate::pipeline::evaluate::{Evaluator, Outcome};
use crate::pipeline::observe::{BatchObserver, Written};
use crate::pipeline::write::Writer;
use crate::record::Record;
use crate::settings::Settings;

/// Why the loop ended before its source did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// The database cannot be used; its message says why.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source cannot go on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A bug: a write ended without a result.
    #[error("a write ended without a result: {0}")]
    Write(#[from] JoinError),
    /// The loop's thread cannot be started.
    #[error("the loop's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A bug: the loop ended without a result.
    #[error("the loop ended without a result")]
    Lost,
}

/// How large batches grow and how many are written at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    max_rows: usize,
    max_bytes: usize,
    linger: Duration,
    in_flight: usize,
    max_buffered_bytes: usize,
}

impl BatchLimits {
    /// What a store takes that writes one batch after the other: at once what would be in several.
    const fn one_by_one(self) -> Self {
        let bytes = self.max_bytes.saturating_mul(self.in_flight);
        let half = self.max_buffered_bytes / 2;
        let max_bytes = if bytes < half { bytes } else { half };
        let max_rows = self.max_rows.saturating_mul(self.in_flight);
        Self { max_rows, max_bytes, in_flight: 1, ..self }
    }

    /// What a pass beside live ingest may take: one write at a time, and an eighth of the memory.
    pub(crate) const fn beside(self) -> Self {
        let max_buffered_bytes = self.max_buffered_bytes / 8;
        Self { in_flight: 1, max_bytes: max_buffered_bytes / 2, max_buffered_bytes, ..self }
    }
}

impl From<&Settings> for BatchLimits {
    fn from(settings: &Settings) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            max_rows: settings.batch.max_rows,
            max_bytes: bytes(settings.batch.max_bytes),
            linger: settings.batch.linger,
            in_flight: settings.batch.in_flight,
            // A third is librdkafka's own buffer (see `kafka::client`).
            max_buffered_bytes: bytes(settings.limits.max_buffered_bytes) / 3 * 2,
        }
    }
}

/// The loop's parts.
pub(crate) struct Ingest {
    pub(crate) judge: Evaluator,
    /// The evidence, which changes while records flow.
    pub(crate) history: watch::Receiver<Arc<ExitHistory>>,
    pub(crate) writer: Arc<Writer>,
    /// None in a settling pass.
    pub(crate) ledger: Option<Box<dyn BatchObserver>>,
    /// Told of rows that were written with evidence that is no longer the newest.
    pub(crate) settling: Arc<Trigger>,
    pub(crate) shape: BatchLimits,
    /// Live ingest's, where it is configured.
    pub(crate) brake: Option<RejectionLimit>,
}

/// The loop, in a thread of its own: a future that ends with it, and that ends it when dropped.
#[derive(Debug)]
pub(crate) struct Running(oneshot::Receiver<Result<(), IngestError>>);

impl Future for Running {
    type Output = Result<(), IngestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(IngestError::Lost)))
    }
}

impl Ingest {
    /// Starts the loop. It reads and judges without a pause for as long as there is something to read, and would keep
    /// from a thread of the runtime the write that it has just handed to it.
    ///
    /// # Errors
    /// [`IngestError::Thread`]. The loop itself ends with [`IngestError`] too; what was not written is not counted as
    /// done.
    pub(crate) fn start(self, source: Receiver<SourceEvent>) -> Result<Running, IngestError> {
        let runtime = Handle::current();
        let (mut over, running) = oneshot::channel();
        std::thread::Builder::new().name("ingest".into()).spawn(move || {
            runtime.block_on(async {
                let result = tokio::select! {
                    biased;
                    () = over.closed() => return,
                    result = self.run(source) => result,
                };
                // Nobody asks any more: it was dropped this moment.
                let _ = over.send(result);
            });
        })?;
        Ok(Running(running))
    }

    /// Runs until the source ends and all of it is written.
    async fn run(self, mut source: Receiver<SourceEvent>) -> Result<(), IngestError> {
        let batch = Batch::new(self.judge.history.clone());
        let shape = self.shape;
        let shape = if self.writer.store.is_serial() { shape.one_by_one() } else { shape };
        let mut flow =
            Flow { ingest: Self { shape, ..self }, batch, writes: VecDeque::new(), bytes: 0 };
        loop {
            let (due, takes_more) = (flow.due(), flow.takes_more());
            let lingered = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into());
            tokio::select! {
                biased;
                written = flow.first_written(), if !flow.writes.is_empty() => flow.finish(&written??),
                () = lingered, if due.is_some() => flow.send(),
                event = source.recv(), if takes_more => match event {
                    Some(SourceEvent::Records(records)) => flow.add(records),
                    Some(SourceEvent::Revoking { done }) => flow.drain(Some(done)).await?,
                    Some(SourceEvent::Failed(error)) => {
                        flow.drain(None).await?;
                        return Err(error.into());
                    }
                    Some(SourceEvent::Ended) => return flow.drain(None).await,
                    None => return Err(SourceError::Lost.into()),
                },
            }
        }
    }
}

/// A write under way and what it holds in memory.
type Write = (JoinHandle<Result<Written, store::Error>>, usize);

/// What is between the source and the database: one batch that is filling, and those being written, in order.
struct Flow {
    ingest: Ingest,
    batch: Batch,
    writes: VecDeque<Write>,
    /// Held by the writes, in bytes.
    bytes: usize,
}

impl Flow {
    fn full(&self) -> bool {
        let shape = &self.ingest.shape;
        self.batch.rows() >= shape.max_rows || self.batch.bytes >= shape.max_bytes
    }

    fn may_send(&self) -> bool {
        self.writes.len() < self.ingest.shape.in_flight
    }

    /// While all writers are busy the batch goes on filling; when it is full, or too much is held, reading stops.
    fn takes_more(&self) -> bool {
        (self.may_send() || !self.full())
            && self.bytes + self.batch.bytes < self.ingest.shape.max_buffered_bytes
    }

    /// The write that was sent first; there must be one.
    async fn first_written(&mut self) -> Result<Result<Written, store::Error>, JoinError> {
        match self.writes.front_mut() {
            Some((write, _)) => write.await,
            None => std::future::pending().await,
        }
    }

    /// When the batch has waited long enough, where a writer is free to take it.
    fn due(&self) -> Option<Instant> {
        (self.may_send() && !self.batch.is_empty())
            .then(|| self.batch.opened + self.ingest.shape.linger)
    }

    fn add(&mut self, records: Vec<Record>) {
        if self.ingest.history.has_changed().unwrap_or(false) {
            self.ingest.judge.history = self.ingest.history.borrow_and_update().clone();
        }
        for record in records {
            if self.batch.is_empty() {
                self.batch.history = self.ingest.judge.history.clone();
            }
            // What the brake keeps out is neither written nor counted as done: it is read again after the restart.
            if self.ingest.brake.as_ref().is_some_and(RejectionLimit::is_pulled) {
                return;
            }
            let outcome = self.ingest.judge.judge(&record);
            if let Some(brake) = &mut self.ingest.brake {
                brake.judged(&outcome);
            }
            if let (Outcome::Row(publication), Some(ledger)) = (&outcome, &self.ingest.ledger) {
                ledger.judged(&publication.info);
            }
            self.batch.add(record, outcome);
            if self.full() && self.may_send() {
                self.send();
            }
        }
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let next = Batch::new(self.ingest.judge.history.clone());
        let batch = std::mem::replace(&mut self.batch, next);
        if let Some(ledger) = &self.ingest.ledger {
            ledger.sent(&batch);
        }
        let bytes = batch.bytes;
        self.bytes += bytes;
        let writer = self.ingest.writer.clone();
        self.writes.push_back((tokio::spawn(async move { writer.write(batch).await }), bytes));
    }

    /// The first write is done, as are all before it.
    fn finish(&mut self, written: &Written) {
        if let Some((_, bytes)) = self.writes.pop_front() {
            self.bytes -= bytes;
        }
        let Some(ledger) = &self.ingest.ledger else { return };
        ledger.written(written);
        // A settling pass that began meanwhile may not have seen these rows as unsettled.
        if !Arc::ptr_eq(&written.batch.history, &*self.ingest.history.borrow()) {
            self.ingest.settling.written_with_older_evidence();
        }
    }

    /// Writes everything that was read, then says so.
    async fn drain(&mut self, done: Option<oneshot::Sender<()>>) -> Result<(), IngestError> {
        self.send();
        while !self.writes.is_empty() {
            let written = self.first_written().await??;
            self.finish(&written);
        }
        if let Some(done) = done {
            // Nobody waits any more when the deadline of the rebalance has passed.
            let _ = done.send(());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use enrich::{TorRules, format};
    use model::{Position, Timestamp, TorReason};
    use service::metrics::Registry;
    use store::{Filter, StoreSettings};

    use super::*;
    use crate::daemon::health::Health;
    use crate::daemon::metrics::IngesterMetrics;
    use crate::decode::DecodeRules;

    const AT: &str = "2022-03-01T12:00:00Z";

    fn record(offset: i64) -> Record {
        // Every second publisher is the exit.
        let ip = if offset % 2 == 0 { "109.70.100.19" } else { "71.160.223.45" };
        let value = format!(
            r#"{{"specversion":"1.0","id":"{offset}","source":"s","type":"t","data":{{"package":{{"ecosystem":"npm",
            "name":"p{offset}","version":"1"}},"publishedAt":"{AT}","request":{{"ip":"{ip}"}}}}}}"#
        );
        Record {
            position: Position { topic: "t".into(), partition: 0, offset },
            timestamp: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    /// A list of sixty addresses and the exit, this many minutes before the acts.
    fn with_list(history: &ExitHistory, minutes: u64) -> ExitHistory {
        let at = Timestamp::parse(AT).unwrap();
        let others: Vec<String> = (1..=60).map(|last| format!("185.220.100.{last}")).collect();
        let text = format!("109.70.100.19\n{}\n", others.join("\n"));
        let list = format::snapshot(text.as_bytes(), at.before(Duration::from_secs(minutes * 60)))
            .unwrap();
        let mut update = history.update();
        update.snapshot(&list, Path::new(&minutes.to_string()));
        update.finish(at).0
    }

    #[test]
    fn a_store_that_writes_one_by_one_gets_at_once_what_others_get_in_several() {
        let shape = BatchLimits::from(&Settings::default());
        let serial = shape.one_by_one();
        assert_eq!((serial.max_rows, serial.in_flight), (shape.max_rows * shape.in_flight, 1));
        // One is written while the next fills.
        assert!(serial.max_bytes * 2 <= serial.max_buffered_bytes);
    }

    /// The loop into a new file in the folder.
    async fn ingest(
        folder: &Path,
        history: watch::Receiver<Arc<ExitHistory>>,
    ) -> (Ingest, StoreSettings) {
        let url = format!("sqlite://{}", folder.join("publications.db").display());
        let settings = StoreSettings { url, ..StoreSettings::default() };
        let store = store::open_writer(&settings).unwrap();
        store.migrate().await.unwrap();
        let metrics = Arc::new(IngesterMetrics::create(&Registry::new(), "test").unwrap());
        let health = Arc::new(Health::new(Duration::ZERO, metrics.paused.clone()));
        let decode = DecodeRules {
            ecosystem: "npm".into(),
            event_type: "t".into(),
            max_event_bytes: 1 << 20,
        };
        let first = history.borrow().clone();
        let ingest = Ingest {
            judge: Evaluator {
                decode,
                history: first,
                tfa: enrich::TfaRules::default(),
                generation: 0,
            },
            history,
            writer: Arc::new(Writer { store, dead_letters: None, health, metrics }),
            ledger: None,
            settling: Arc::new(Trigger::default()),
            shape: BatchLimits::from(&Settings::default()),
            brake: None,
        };
        (ingest, settings)
    }

    /// As when the thread that reads has panicked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_source_that_ends_without_a_word_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (_shown, history) = watch::channel(Arc::new(ExitHistory::new(TorRules::default())));
        let (ingest, _) = ingest(folder.path(), history).await;
        let (source, records) = tokio::sync::mpsc::channel(1);
        let running = ingest.start(records).unwrap();
        source.send(SourceEvent::Records(vec![record(0)])).await.unwrap();
        drop(source);
        let ended = running.await;
        assert!(matches!(ended, Err(IngestError::Source(SourceError::Lost))), "{ended:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_lookup_is_wrong_while_the_evidence_is_swapped_a_hundred_times() {
        let folder = tempfile::tempdir().unwrap();
        let mut evidence = with_list(&ExitHistory::new(TorRules::default()), 300);
        let (shown, history) = watch::channel(Arc::new(evidence.clone()));
        let (ingest, settings) = ingest(folder.path(), history).await;
        let (source, records) = tokio::sync::mpsc::channel(1);
        let running = ingest.start(records).unwrap();
        for swap in 0..100 {
            let some = (swap * 50..(swap + 1) * 50).map(record).collect();
            source.send(SourceEvent::Records(some)).await.unwrap();
            evidence = with_list(&evidence, 299 - swap.cast_unsigned());
            shown.send_replace(Arc::new(evidence.clone()));
        }
        source.send(SourceEvent::Ended).await.unwrap();
        running.await.unwrap();

        let rows = store::open_reader(&settings)
            .unwrap()
            .list(&Filter::default(), None, 10_000)
            .await
            .unwrap();
        assert_eq!(rows.len(), 5_000);
        for row in &rows {
            let number: i64 = row.id.name.as_str()[1..].parse().unwrap();
            let expected = if number % 2 == 0 {
                (Some(true), TorReason::Snapshot)
            } else {
                (Some(false), TorReason::NotListed)
            };
            assert_eq!((row.info.tor, row.info.tor_reason), expected, "{number}");
        }
        let seen: std::collections::BTreeSet<_> =
            rows.iter().map(|row| row.tor_evidence_until).collect();
        assert!(seen.len() > 30, "the swaps were seen while records flowed: {}", seen.len());
    }
}
