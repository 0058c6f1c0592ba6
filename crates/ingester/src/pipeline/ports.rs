//! What the loop needs of its surroundings: records, evidence, a table, a dead-letter topic, and who is told of each
//! step. Kafka, the exit lists, the store and the daemon implement these; unit tests and the simulation script them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use enrich::ExitHistory;
use model::{Position, Publication};
use service::lifecycle::exit;
use store::{PublicationWriter, Retrying};
use tokio::sync::{mpsc, oneshot};

use crate::decode::rejection::Rejection;
use crate::pipeline::batch::{Batch, WrittenBatch};
use crate::pipeline::evaluate::Outcome;
use crate::record::Record;

/// The source's number of an assignment, raised at each change of it: partitions that come or go, and a partition that
/// starts again on another log. A source that never changes stays at the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AssignmentId(pub(crate) u64);

/// Records that were read under one assignment, in the order of their partitions.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    pub(crate) assignment: AssignmentId,
}

/// What a source of records says, in order.
#[derive(Debug)]
pub(crate) enum SourceEvent {
    /// Records.
    Records(Chunk),
    /// Partitions are about to be revoked: everything before this must be written, then `done` answered.
    Revoking {
        /// Answered when all before is written and the observer knows of it.
        done: oneshot::Sender<()>,
    },
    /// The source cannot go on.
    Failed(SourceError),
    /// Nothing follows.
    Ended,
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Only a new process helps: librdkafka calls its own error fatal, or did not take an assignment.
    #[error("the kafka client failed for good: {0}")]
    Fatal(String),
    /// The broker does not let us read.
    #[error("not allowed to read: {0}")]
    NotAllowed(String),
    /// Records are lost, and `kafka.on_gap` says to stop.
    #[error("{0}")]
    Gap(String),
    /// A bug: the source ended without saying how.
    #[error("the thread that reads from kafka ended without a result")]
    Lost,
    /// A range outside of the group cannot be read.
    #[error("the range cannot be read: {0}")]
    Range(String),
}

impl SourceError {
    /// The exit code of a process that ends with this; supervisors and operators tell the cases apart by it.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Fatal(_) => exit::KAFKA_FATAL,
            Self::NotAllowed(_) => exit::NOT_ALLOWED,
            Self::Gap(_) => exit::GAP,
            Self::Lost | Self::Range(_) => exit::FAILURE,
        }
    }
}

/// Where records come from.
pub(crate) trait Source: Send + 'static {
    /// The next event; `None` where the source ended without [`SourceEvent::Ended`]. Loses no event when it is dropped
    /// before it is ready.
    fn next(&mut self) -> impl Future<Output = Option<SourceEvent>> + Send;
}

impl Source for mpsc::Receiver<SourceEvent> {
    fn next(&mut self) -> impl Future<Output = Option<SourceEvent>> + Send {
        self.recv()
    }
}

/// What may be said to a consumer group's source while it reads.
pub(crate) trait SourceControl: Send + Sync {
    /// Everything before these offsets is written and may be committed.
    fn written(&self, offsets: &WrittenOffsets);

    /// Commit as soon as possible: after dead letters, so that a crash repeats few of them.
    fn commit_soon(&self);

    /// Read nothing more. What is written is still committed.
    fn halt(&self);
}

/// A position of a partition that may be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenOffset {
    /// The offset after the last written record.
    pub(crate) next: i64,
    /// The assignment under which that record was read.
    pub(crate) assignment: AssignmentId,
}

/// By partition of the source's topic, what is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WrittenOffsets(BTreeMap<i32, WrittenOffset>);

impl WrittenOffsets {
    /// Counts a record as written. Within an assignment a position never moves back; a newer assignment replaces what
    /// an older one said.
    pub(crate) fn include(&mut self, position: &Position, assignment: AssignmentId) {
        let next = position.offset + 1;
        self.advance(position.partition, WrittenOffset { next, assignment });
    }

    fn advance(&mut self, partition: i32, to: WrittenOffset) {
        let known = self.0.entry(partition).or_insert(to);
        let is_ahead = (to.assignment, to.next) > (known.assignment, known.next);
        // The same log goes on under a new number when other partitions come or go.
        if is_ahead {
            *known = to;
        }
    }

    /// Whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the partitions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, WrittenOffset)> {
        self.0.iter().map(|(&partition, &offset)| (partition, offset))
    }
}

/// The table. Waits for as long as the environment fails.
#[async_trait]
pub(crate) trait RowStore: Send + Sync {
    /// Writes the rows; those that the database refuses for their data come back by their place.
    ///
    /// # Errors
    /// What neither waiting nor a dead letter mends.
    async fn write(&self, rows: &[Publication]) -> Result<store::Written, store::Error>;

    /// Whether one write waits for another, so that one large write is better than several at once.
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

/// Why a dead letter is not acknowledged. The environment's fault: try again.
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
    /// [`Undelivered`], to be tried again.
    async fn deliver(&self, rejection: &Rejection, record: &Record) -> Result<(), Undelivered>;
}

/// Is told of dead letters that wait, from several writes at once: each `waiting` is followed by one `recovered`.
pub(crate) trait DeliveryObserver: Send + Sync {
    /// A dead letter was not acknowledged and is tried again until it is.
    fn waiting(&self, error: &Undelivered);

    /// A dead letter that waited is acknowledged, or was given up with its write.
    fn recovered(&self);
}

/// The evidence about Tor, which changes while records flow.
pub(crate) trait Evidence: Send {
    /// Whether there is newer evidence than [`Self::current`] returned last.
    fn has_changed(&self) -> bool;

    /// The newest evidence.
    fn current(&mut self) -> Arc<ExitHistory>;

    /// A batch is written. `oldest`: the evidence by which its first record was evaluated; where newer is known, the
    /// rows may have to be evaluated again.
    fn written_with(&self, oldest: &Arc<ExitHistory>);
}

/// Evidence that does not change: of a command.
impl Evidence for Arc<ExitHistory> {
    fn has_changed(&self) -> bool {
        false
    }

    fn current(&mut self) -> Arc<ExitHistory> {
        self.clone()
    }

    fn written_with(&self, _: &Arc<ExitHistory>) {}
}

/// Is told of every record and every batch, in order. Live ingest keeps metrics, lag and offsets by it, a command its
/// counts.
pub(crate) trait BatchObserver: Send {
    /// A record was evaluated. `Break`: it is the last that is taken. Records behind it are neither written nor
    /// counted as done.
    fn evaluated(&mut self, _outcome: &Outcome) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A batch is sent to the table.
    fn sent(&mut self, _batch: &Batch) {}

    /// A batch is written, as are all before it: rows and dead letters are acknowledged.
    fn written(&mut self, written: &WrittenBatch);
}

/// Nobody is told.
impl BatchObserver for () {
    fn written(&mut self, _: &WrittenBatch) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_assignment_replaces_what_an_older_one_said() {
        let mut offsets = WrittenOffsets::default();
        let at = |offset| Position { topic: "t".into(), partition: 0, offset };
        for (offset, assignment) in [(7, 1), (5, 1), (2, 3), (1, 3), (9, 2)] {
            offsets.include(&at(offset), AssignmentId(assignment));
        }
        let expected = WrittenOffset { next: 3, assignment: AssignmentId(3) };
        assert_eq!(offsets.iter().collect::<Vec<_>>(), [(0, expected)]);
    }
}
