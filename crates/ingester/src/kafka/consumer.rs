//! The consumer's callbacks: rebalances, statistics, log lines. They run on the poll thread, inside `poll`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Offsets;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::client;
use super::source::{Assignment, Progress, SourceEvent};
use crate::envelope::Envelope;
use crate::health::Health;
use crate::lag::{Lag, PartitionEnd};
use crate::metrics::IngesterMetrics;

/// What the poll thread and its callbacks share.
pub(super) struct Context {
    /// Records polled and not yet handed over; callbacks hand them over before they announce a revocation.
    pub(super) pending: Mutex<Vec<Envelope>>,
    pub(super) events: Sender<SourceEvent>,
    pub(super) progress: Arc<Progress>,
    pub(super) health: Arc<Health>,
    pub(super) lag: Arc<Lag>,
    pub(super) assignment: Arc<Assignment>,
    pub(super) topic: Arc<str>,
    pub(super) metrics: Arc<IngesterMetrics>,
    pub(super) runtime: Handle,
    pub(super) revoke_timeout: Duration,
    /// Set while the loop takes nothing: newly assigned partitions are then paused too.
    pub(super) holding: std::sync::atomic::AtomicBool,
}

impl Context {
    /// Hands the pending records over, waiting up to `patience` for room. `false` when there was none in time; they
    /// stay pending then.
    pub(super) fn hand_over(&self, patience: Duration) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.is_empty() {
            return true;
        }
        match self.send(SourceEvent::Records(std::mem::take(&mut pending)), patience) {
            Ok(()) => true,
            Err(Some(SourceEvent::Records(records))) => {
                *pending = records;
                false
            }
            // The loop is gone; so is the use of these records, which are read again after the last committed offset.
            Err(_) => true,
        }
    }

    /// `Err(Some(event))` when there was no room in time, `Err(None)` when the loop is gone.
    pub(super) fn send(
        &self,
        event: SourceEvent,
        patience: Duration,
    ) -> Result<(), Option<SourceEvent>> {
        let event = match self.events.try_send(event) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(None),
            Err(TrySendError::Full(event)) => event,
        };
        let permit = self
            .runtime
            .block_on(async { tokio::time::timeout(patience, self.events.reserve()).await });
        match permit {
            Ok(Ok(permit)) => {
                permit.send(event);
                Ok(())
            }
            Ok(Err(_)) => Err(None),
            Err(_) => Err(Some(event)),
        }
    }

    /// Before partitions are let go: what was read is written and committed, as far as the time allows. What is not is
    /// read again by the next owner, which the merge makes harmless.
    fn drain(&self, consumer: &BaseConsumer<Self>) {
        let deadline = Instant::now() + self.revoke_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (done, answer) = oneshot::channel();
        let drained = self.hand_over(left())
            && match self.send(SourceEvent::Revoking { done }, left()) {
                Ok(()) => self
                    .runtime
                    .block_on(async { tokio::time::timeout(left(), answer).await })
                    .is_ok(),
                // The loop has ended, and not before all was written.
                Err(None) => true,
                Err(Some(_)) => false,
            };
        if !drained {
            tracing::warn!(
                "partitions are let go before everything read from them was written; it is read again"
            );
        }
        self.commit(consumer, CommitMode::Sync);
    }

    /// Commits what is written of the partitions that are still ours. A failed commit is repeated by the next one, or
    /// the records are read again.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Self>, mode: CommitMode) {
        let mut offsets = self.progress.take();
        if offsets.is_empty() {
            return;
        }
        let Ok(owned) = consumer.assignment() else { return };
        offsets.retain(|topic, partition| owned.find_partition(topic, partition).is_some());
        if offsets.is_empty() {
            return;
        }
        if let Err(error) = list(&offsets).and_then(|list| consumer.commit(&list, mode)) {
            tracing::warn!(%error, "offsets could not be committed");
            self.progress.finish(&offsets);
        }
    }
}

fn list(offsets: &Offsets) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, next) in offsets.iter() {
        list.add_partition_offset(topic, partition, Offset::Offset(next))?;
    }
    Ok(list)
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(group) = &statistics.cgrp {
            self.health.group_state(&group.join_state);
        }
        self.lag.show(&self.metrics, &self.topic, &ends(&statistics, &self.topic));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // All brokers down, a host that does not resolve: librdkafka goes on trying by itself.
        tracing::warn!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) if partitions.count() > 0 => {
                self.metrics.rebalances_total.inc();
                self.health.rebalancing();
                tracing::info!(partitions = %names(partitions), lost = consumer.assignment_lost(), "partitions revoked");
                if !consumer.assignment_lost() {
                    self.drain(consumer);
                }
                self.assignment.remove(numbers(partitions));
            }
            Rebalance::Error(error) => tracing::error!(%error, "rebalancing failed"),
            _ => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.metrics.rebalances_total.inc();
            self.health.assigned();
            self.assignment.add(numbers(partitions));
            tracing::info!(partitions = %names(partitions), "partitions assigned");
            if self.holding.load(std::sync::atomic::Ordering::Relaxed)
                && let Err(error) = consumer.pause(partitions)
            {
                tracing::warn!(%error, "new partitions could not be paused");
            }
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => {
                tracing::warn!(%error, "a commit failed; the records are read again unless a later one succeeds")
            }
        }
    }
}

/// The ends of the partitions that are assigned, as librdkafka knows them.
fn ends(statistics: &Statistics, topic: &str) -> Vec<PartitionEnd> {
    let partitions = statistics.topics.get(topic).map(|topic| &topic.partitions);
    let assigned = partitions.into_iter().flatten().map(|(_, partition)| partition);
    assigned
        .filter(|partition| {
            partition.partition >= 0 && partition.desired && partition.fetch_state != "none"
        })
        .filter(|partition| partition.ls_offset.max(partition.hi_offset) >= 0)
        .map(|partition| PartitionEnd {
            partition: partition.partition,
            // The last stable offset: what lies behind it cannot be read yet.
            end: if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset },
            committed: partition.committed_offset,
            start: partition.lo_offset,
        })
        .collect()
}

fn numbers(partitions: &TopicPartitionList) -> impl Iterator<Item = i32> {
    let numbers: Vec<i32> =
        partitions.elements().iter().map(|element| element.partition()).collect();
    numbers.into_iter()
}

fn names(partitions: &TopicPartitionList) -> String {
    let names: Vec<String> = partitions
        .elements()
        .iter()
        .map(|element| format!("{}/{}", element.topic(), element.partition()))
        .collect();
    names.join(" ")
}

/// The callbacks of a consumer outside of the group: only its log lines matter.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::PartitionEOF)) {
            return;
        }
        tracing::warn!(%error, reason, "kafka, reading a range");
    }
}

impl ConsumerContext for Quiet {}
