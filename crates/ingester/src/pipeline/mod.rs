//! The loop: the only place where records become batches, batches are written, and offsets are counted as done. It gets
//! records from a channel, and uses everything else only by the traits of [`ports`].

pub(crate) mod batch;
pub(crate) mod evaluate;
pub(crate) mod offsets;
pub(crate) mod ports;
pub(crate) mod write;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use model::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::pipeline::batch::{Batch, WrittenBatch};
use crate::pipeline::evaluate::Evaluator;
use crate::pipeline::ports::{BatchObserver, Chunk, Evidence, SourceError, SourceEvent};
use crate::pipeline::write::Writer;
use crate::settings::{Settings, in_memory};

/// The clock of this host. Decoding does not use it.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(0).after(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

/// The reason why the loop ended before its source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// The database cannot be used; the error's message has the reason.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source failed.
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

/// The limits of a batch and of the number of parallel writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// The rows of a full batch.
    pub(crate) max_rows: usize,
    /// The bytes of a full batch.
    pub(crate) max_bytes: usize,
    /// How long a record waits for more records in its batch.
    pub(crate) linger: Duration,
    /// The number of batches that may be written in parallel.
    pub(crate) in_flight: usize,
    /// The limit of buffered bytes, in the batch that fills and in those being written. At it, reading stops.
    pub(crate) max_buffered_bytes: usize,
}

impl BatchLimits {
    /// The limits for a store that writes one batch at a time: one batch is as large as several together.
    const fn one_by_one(self) -> Self {
        let bytes = self.max_bytes.saturating_mul(self.in_flight);
        let half = self.max_buffered_bytes / 2;
        let max_bytes = if bytes < half { bytes } else { half };
        let max_rows = self.max_rows.saturating_mul(self.in_flight);
        Self { max_rows, max_bytes, in_flight: 1, ..self }
    }

    /// The limits for a loop beside live ingest: one write at a time, and an eighth of the memory.
    pub(crate) const fn background(self) -> Self {
        let max_buffered_bytes = self.max_buffered_bytes / 8;
        Self { in_flight: 1, max_bytes: max_buffered_bytes / 2, max_buffered_bytes, ..self }
    }
}

impl From<&Settings> for BatchLimits {
    fn from(settings: &Settings) -> Self {
        Self {
            max_rows: settings.batch.max_rows,
            max_bytes: in_memory(settings.batch.max_bytes),
            linger: settings.batch.linger,
            in_flight: settings.batch.in_flight,
            max_buffered_bytes: settings.limits.own_bytes(),
        }
    }
}

/// The loop's parts.
pub(crate) struct Ingest {
    pub(crate) evaluator: Evaluator,
    pub(crate) evidence: Box<dyn Evidence>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) observer: Box<dyn BatchObserver>,
    pub(crate) limits: BatchLimits,
}

/// The running loop on its own thread: a future that is ready when the loop ends. Dropping it ends the loop.
#[derive(Debug)]
pub(crate) struct Running(oneshot::Receiver<Result<(), IngestError>>);

impl Future for Running {
    type Output = Result<(), IngestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(IngestError::Lost)))
    }
}

impl Ingest {
    /// Starts the loop on a separate thread, because it uses the CPU while records are available: on a runtime's worker
    /// it would starve the write that it has just spawned.
    ///
    /// # Errors
    /// [`IngestError::Thread`]. The returned future ends with the other errors; records that were not written are not
    /// counted as done.
    pub(crate) fn start(self, source: mpsc::Receiver<SourceEvent>) -> Result<Running, IngestError> {
        let runtime = Handle::current();
        let (mut result_sender, running) = oneshot::channel();
        std::thread::Builder::new().name("ingest".into()).spawn(move || {
            runtime.block_on(async {
                let result = tokio::select! {
                    biased;
                    () = result_sender.closed() => return,
                    result = self.run(source) => result,
                };
                // The caller may have dropped the future at this moment.
                let _ = result_sender.send(result);
            });
        })?;
        Ok(Running(running))
    }

    /// Runs until the source ends and all its records are written.
    ///
    /// # Errors
    /// [`IngestError`]. Records that were not written are not counted as done.
    pub(crate) async fn run(
        self,
        mut source: mpsc::Receiver<SourceEvent>,
    ) -> Result<(), IngestError> {
        let mut flow = Flow::new(self);
        loop {
            let (due, has_capacity) = (flow.due(), flow.has_capacity());
            let lingered = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                written = flow.first_written(), if !flow.writes.is_empty() => flow.finish(&written??),
                () = lingered, if due.is_some() => flow.send(),
                event = source.recv(), if has_capacity => match event {
                    Some(SourceEvent::Records(chunk)) => flow.add(chunk),
                    Some(SourceEvent::Revoking { done }) => {
                        flow.drain().await?;
                        // After the timeout of the rebalance the receiver is gone.
                        let _ = done.send(());
                    }
                    Some(SourceEvent::Failed(error)) => {
                        flow.drain().await?;
                        return Err(error.into());
                    }
                    Some(SourceEvent::Ended) => return flow.drain().await,
                    None => return Err(SourceError::Lost.into()),
                },
            }
        }
    }
}

/// A write in flight, and the memory that it holds in bytes.
type Write = (JoinHandle<Result<WrittenBatch, store::Error>>, usize);

/// The records between the source and the database: one batch that fills, and those being written, in order.
struct Flow {
    ingest: Ingest,
    batch: Batch,
    writes: VecDeque<Write>,
    /// The bytes that the writes hold.
    bytes: usize,
    /// The observer has reported that the last record was taken: later ones are dropped.
    is_halted: bool,
}

impl Flow {
    fn new(mut ingest: Ingest) -> Self {
        if ingest.writer.rows.is_serial() {
            ingest.limits = ingest.limits.one_by_one();
        }
        let batch = Batch::new(ingest.evaluator.history.clone());
        Self { ingest, batch, writes: VecDeque::new(), bytes: 0, is_halted: false }
    }

    fn is_full(&self) -> bool {
        let limits = &self.ingest.limits;
        self.batch.rows() >= limits.max_rows || self.batch.bytes >= limits.max_bytes
    }

    fn may_send(&self) -> bool {
        self.writes.len() < self.ingest.limits.in_flight
    }

    /// Whether the loop takes more records. While all writers are busy the batch still fills. Reading stops when the
    /// batch is full or too much is buffered.
    fn has_capacity(&self) -> bool {
        (self.may_send() || !self.is_full())
            && self.bytes + self.batch.bytes < self.ingest.limits.max_buffered_bytes
    }

    /// Waits for the write that was sent first. There must be one.
    async fn first_written(&mut self) -> Result<Result<WrittenBatch, store::Error>, JoinError> {
        match self.writes.front_mut() {
            Some((write, _)) => write.await,
            None => std::future::pending().await,
        }
    }

    /// The time to send the batch because of its linger time, if a writer is free.
    fn due(&self) -> Option<Instant> {
        (self.may_send() && !self.batch.is_empty())
            .then(|| self.batch.opened + self.ingest.limits.linger)
    }

    fn add(&mut self, chunk: Chunk) {
        if self.ingest.evidence.has_changed() {
            self.ingest.evaluator.history = self.ingest.evidence.current();
        }
        for record in chunk.records {
            // This record is read again after a restart.
            if self.is_halted {
                return;
            }
            if self.batch.is_empty() {
                self.batch.history = self.ingest.evaluator.history.clone();
            }
            let outcome = self.ingest.evaluator.evaluate(&record);
            self.is_halted = self.ingest.observer.evaluated(&outcome).is_break();
            self.batch.add(record, chunk.assignment, outcome);
            if self.is_full() && self.may_send() {
                self.send();
            }
        }
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let next = Batch::new(self.ingest.evaluator.history.clone());
        let batch = std::mem::replace(&mut self.batch, next);
        self.ingest.observer.sent(&batch);
        let bytes = batch.bytes;
        self.bytes += bytes;
        let writer = self.ingest.writer.clone();
        self.writes.push_back((tokio::spawn(async move { writer.write(batch).await }), bytes));
    }

    /// Finishes the oldest write: frees its memory, and reports its result to the evidence and the observer.
    fn finish(&mut self, written: &WrittenBatch) {
        if let Some((_, bytes)) = self.writes.pop_front() {
            self.bytes -= bytes;
        }
        // The evidence comes before the observer, because the observer's offsets are committed with its fingerprint.
        self.ingest.evidence.written_with(&written.batch.history);
        self.ingest.observer.written(written);
    }

    /// Writes everything that was read.
    async fn drain(&mut self) -> Result<(), IngestError> {
        self.send();
        while !self.writes.is_empty() {
            let written = self.first_written().await??;
            self.finish(&written);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
