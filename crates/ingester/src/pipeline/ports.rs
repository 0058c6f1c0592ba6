//! The interfaces of the loop: records, evidence, a table, a dead-letter topic, and observers of each step. Kafka, the
//! exit lists, the store and the daemon implement them; unit tests and the simulation use scripted versions.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use enrich::ExitHistory;
use model::{Position, Publication};
use service::lifecycle::exit;
use store::{PublicationWriter, Retrying};
use tokio::sync::oneshot;

use crate::decode::rejection::Rejection;
use crate::pipeline::batch::{Batch, WrittenBatch};
use crate::pipeline::evaluate::Outcome;
pub(crate) use crate::pipeline::offsets::{AssignmentId, WrittenOffset, WrittenOffsets};
use crate::record::Record;

/// Records that were read under one assignment, ordered by partition.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    pub(crate) assignment: AssignmentId,
}

/// An event of a source of records; the order matters.
#[derive(Debug)]
pub(crate) enum SourceEvent {
    /// Records.
    Records(Chunk),
    /// Partitions are about to be revoked: write everything before this event, then answer `done`.
    Revoking {
        /// To be answered when all earlier records are written and reported to the observer.
        done: oneshot::Sender<()>,
    },
    /// The source failed.
    Failed(SourceError),
    /// The last event.
    Ended,
}

/// The reason why a source failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Only a new process helps: librdkafka reports a fatal error or did not accept an assignment.
    #[error("the kafka client failed for good: {0}")]
    Fatal(String),
    /// The broker does not allow this user to read.
    #[error("not allowed to read: {0}")]
    NotAllowed(String),
    /// Records were lost, and `kafka.on_gap` is `stop`.
    #[error("{0}")]
    Gap(String),
    /// The database cannot be used for the account of positions.
    #[error("the account of positions: {0}")]
    Account(store::Error),
    /// A bug: the source ended without a last event.
    #[error("the thread that reads from kafka ended without a result")]
    Lost,
    /// A range of the topic, read outside of the group, failed.
    #[error("the range cannot be read: {0}")]
    Range(String),
}

impl SourceError {
    /// The exit code of a process that ends with this error; it tells supervisors and operators the class of the error.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Fatal(_) => exit::KAFKA_FATAL,
            Self::NotAllowed(_) => exit::NOT_ALLOWED,
            Self::Gap(_) => exit::GAP,
            Self::Account(_) | Self::Lost | Self::Range(_) => exit::FAILURE,
        }
    }
}

/// Commands to a consumer group's source.
pub(crate) trait SourceControl: Send + Sync {
    /// Every record before these offsets is written, so they may be committed.
    fn written(&self, offsets: &WrittenOffsets);

    /// Commit as soon as possible: after dead letters, so that a crash repeats few of them.
    fn commit_soon(&self);

    /// Read no more. Written offsets are still committed.
    fn halt(&self);
}

/// The table. Its writes wait for as long as the environment fails.
#[async_trait]
pub(crate) trait RowStore: Send + Sync {
    /// Writes the rows. Rows that the database refuses for their data are returned by their index.
    ///
    /// # Errors
    /// An error that neither a wait nor a dead letter can fix.
    async fn write(&self, rows: &[Publication]) -> Result<store::Written, store::Error>;

    /// Whether writes exclude each other, so that one large write is better than several in parallel.
    fn is_serial(&self) -> bool;
}

#[async_trait]
impl<S: PublicationWriter + ?Sized> RowStore for Retrying<S> {
    async fn write(&self, rows: &[Publication]) -> Result<store::Written, store::Error> {
        Self::write(self, rows).await
    }

    fn is_serial(&self) -> bool {
        PublicationWriter::is_serial(self)
    }
}

/// A dead letter was not acknowledged. The cause is in the environment: retry.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter of {} {}@{} was not acknowledged: {reason}", position.topic, position.partition, position.offset)]
pub(crate) struct Undelivered {
    pub(crate) position: Position,
    pub(crate) reason: String,
}

/// The dead-letter topic.
#[async_trait]
pub(crate) trait DeadLetters: Send + Sync {
    /// Writes one dead letter and waits until it is acknowledged.
    ///
    /// # Errors
    /// [`Undelivered`]: retry.
    async fn deliver(&self, rejection: &Rejection, record: &Record) -> Result<(), Undelivered>;
}

/// The observer of waiting dead letters. Writes call it in parallel: each `waiting` is followed by one `recovered`.
pub(crate) trait DeliveryObserver: Send + Sync {
    /// A dead letter was not acknowledged and is retried until it is.
    fn waiting(&self, error: &Undelivered);

    /// A waiting dead letter was acknowledged, or its write was cancelled.
    fn recovered(&self);
}

/// The evidence about Tor, which changes during ingest.
pub(crate) trait Evidence: Send {
    /// Whether there is newer evidence than [`Self::current`] returned last.
    fn has_changed(&self) -> bool;

    /// The newest evidence.
    fn current(&mut self) -> Arc<ExitHistory>;

    /// A batch was written. `oldest`: the evidence for its first record. If there is newer evidence, the rows may have to
    /// be evaluated again.
    fn written_with(&self, oldest: &Arc<ExitHistory>);
}

/// The evidence of a command, which does not change.
impl Evidence for Arc<ExitHistory> {
    fn has_changed(&self) -> bool {
        false
    }

    fn current(&mut self) -> Arc<ExitHistory> {
        self.clone()
    }

    fn written_with(&self, _: &Arc<ExitHistory>) {}
}

/// The observer of every record and every batch, in order. Live ingest updates metrics, lag and offsets with it, a
/// command its counts.
pub(crate) trait BatchObserver: Send {
    /// A record was evaluated. `Break`: it is the last record to take; later ones are neither written nor counted as
    /// done.
    fn evaluated(&mut self, _outcome: &Outcome) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A batch was sent to the table.
    fn sent(&mut self, _batch: &Batch) {}

    /// A batch and all earlier ones were written: rows and dead letters are acknowledged.
    fn written(&mut self, written: &WrittenBatch);
}
