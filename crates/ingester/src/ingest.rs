//! The loop: the one place where records become batches, batches are written, and offsets are counted as done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

use crate::batch::Batch;
use crate::envelope::Envelope;
use crate::judge::{Judge, Outcome};
use crate::kafka::{Progress, SourceError, SourceEvent};
use crate::lag::Lag;
use crate::metrics::Verdicts;
use crate::settings::Settings;
use crate::write::Writer;

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
}

/// How large batches grow and how many are written at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    max_rows: usize,
    max_bytes: usize,
    linger: Duration,
    in_flight: usize,
    max_buffered_bytes: usize,
}

impl From<&Settings> for Shape {
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
    pub(crate) judge: Judge,
    pub(crate) writer: Arc<Writer>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) lag: Arc<Lag>,
    pub(crate) verdicts: Verdicts,
    pub(crate) shape: Shape,
}

impl Ingest {
    /// Runs until the source ends and all of it is written.
    ///
    /// # Errors
    /// [`IngestError`]; what was not written is not counted as done.
    pub(crate) async fn run(self, mut source: Receiver<SourceEvent>) -> Result<(), IngestError> {
        let mut flow =
            Flow { ingest: &self, batch: Batch::new(), writes: VecDeque::new(), bytes: 0 };
        loop {
            let (due, takes_more) = (flow.due(), flow.takes_more());
            let lingered = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into());
            tokio::select! {
                biased;
                written = flow.first_written(), if !flow.writes.is_empty() => flow.finish(written??),
                () = lingered, if due.is_some() => flow.send(),
                event = source.recv(), if takes_more => match event {
                    Some(SourceEvent::Records(records)) => flow.add(records),
                    Some(SourceEvent::Revoking { done }) => flow.drain(Some(done)).await?,
                    Some(SourceEvent::Failed(error)) => {
                        flow.drain(None).await?;
                        return Err(error.into());
                    }
                    Some(SourceEvent::Ended) | None => return flow.drain(None).await,
                },
            }
        }
    }
}

/// A write under way and what it holds in memory.
type Write = (JoinHandle<Result<Batch, store::Error>>, usize);

/// What is between the source and the database: one batch that is filling, and those being written, in order.
struct Flow<'a> {
    ingest: &'a Ingest,
    batch: Batch,
    writes: VecDeque<Write>,
    /// Held by the writes, in bytes.
    bytes: usize,
}

impl Flow<'_> {
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
    async fn first_written(&mut self) -> Result<Result<Batch, store::Error>, JoinError> {
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

    fn add(&mut self, records: Vec<Envelope>) {
        for envelope in records {
            let outcome = self.ingest.judge.judge(&envelope);
            if let Outcome::Record(publication) = &outcome {
                self.ingest.verdicts.count(&publication.info);
            }
            self.batch.add(envelope, outcome);
            if self.full() && self.may_send() {
                self.send();
            }
        }
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batch, Batch::new());
        self.ingest.lag.sent(batch.oldest());
        let bytes = batch.bytes;
        self.bytes += bytes;
        let writer = self.ingest.writer.clone();
        self.writes.push_back((tokio::spawn(async move { writer.write(batch).await }), bytes));
    }

    /// The first write is done, as are all before it: its offsets may be committed.
    fn finish(&mut self, batch: Batch) {
        if let Some((_, bytes)) = self.writes.pop_front() {
            self.bytes -= bytes;
        }
        self.ingest.lag.written(&batch.offsets);
        self.ingest.progress.finish(&batch.offsets);
    }

    /// Writes everything that was read, then says so.
    async fn drain(&mut self, done: Option<oneshot::Sender<()>>) -> Result<(), IngestError> {
        self.send();
        while !self.writes.is_empty() {
            let batch = self.first_written().await??;
            self.finish(batch);
        }
        if let Some(done) = done {
            // Nobody waits any more when the deadline of the rebalance has passed.
            let _ = done.send(());
        }
        Ok(())
    }
}
