//! The consumer's callbacks: rebalances, statistics, log lines. They run on the poll thread, inside `poll`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Offsets;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::commit::{Assignment, CommitQueue};
use super::start_offsets::TopicState;
use crate::daemon::health::{Health, PauseCause};
use crate::daemon::lag::Lag;
use crate::daemon::metrics::IngesterMetrics;
use crate::kafka::observe::PartitionEnd;
use crate::kafka::{config, ffi};
use crate::pipeline::ports::{AssignmentId, Chunk, SourceError, SourceEvent};
use crate::record::Record;
use crate::settings::OnGap;

/// What the poll thread and its callbacks share.
pub(super) struct Context {
    /// Records polled and not yet handed over; callbacks hand them over before they announce a revocation.
    pub(super) pending: Mutex<Vec<Record>>,
    pub(super) events: Sender<SourceEvent>,
    pub(super) progress: Arc<CommitQueue>,
    pub(super) health: Arc<Health>,
    pub(super) lag: Arc<Lag>,
    pub(super) assignment: Arc<Assignment>,
    pub(super) topic: Arc<str>,
    pub(super) metrics: Arc<IngesterMetrics>,
    pub(super) runtime: Handle,
    pub(super) revoke_timeout: Duration,
    /// Set while the loop takes nothing: newly assigned partitions are then paused too.
    pub(super) holding: std::sync::atomic::AtomicBool,
    pub(super) on_gap: OnGap,
    pub(super) known: Mutex<TopicState>,
    pub(super) repeated: config::Repeated,
    /// What librdkafka said last about a broker.
    pub(super) last_trouble: Mutex<String>,
    /// Why the source cannot go on, where a callback found it out.
    pub(super) failed: Mutex<Option<SourceError>>,
}

impl Context {
    /// Hands the pending records over, waiting up to `patience` for room. `false` when there was none in time; they
    /// stay pending then.
    pub(super) fn hand_over(&self, patience: Duration) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.is_empty() {
            return true;
        }
        self.lag.read(&pending);
        let records = std::mem::take(&mut *pending);
        let chunk = Chunk { records, assignment: AssignmentId::default() };
        match self.send(SourceEvent::Records(chunk), patience) {
            Ok(()) => true,
            Err(Some(SourceEvent::Records(chunk))) => {
                *pending = chunk.records;
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

    /// Before partitions are let go: what was read is written and committed, as far as the time allows; `false` when that
    /// was not all. The rest is read again by the next owner, which the merge makes harmless.
    pub(super) fn drain(&self, consumer: &BaseConsumer<Self>) -> bool {
        let deadline = Instant::now() + self.revoke_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (done, answer) = oneshot::channel();
        let drained = self.hand_over(left())
            && match self.send(SourceEvent::Revoking { done }, left()) {
                Ok(()) => self
                    .runtime
                    .block_on(async { tokio::time::timeout(left(), answer).await })
                    .is_ok(),
                // The loop has ended: nothing more is written, and what was is counted.
                Err(None) => true,
                Err(Some(_)) => false,
            };
        if !drained {
            tracing::warn!(
                "not everything that was read could be written in time; it is read again"
            );
        }
        self.commit(consumer, CommitMode::Sync);
        drained
    }

    /// Commits what is written of the partitions that are still ours. A failed commit is repeated by the next one, or
    /// the records are read again.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Self>, mode: CommitMode) {
        let mut offsets = self.progress.take();
        if offsets.is_empty() {
            return;
        }
        let owned = match consumer.assignment() {
            Ok(owned) => owned,
            Err(error) => {
                tracing::warn!(%error, "offsets could not be committed");
                return self.progress.finish(&offsets);
            }
        };
        offsets.retain(|topic, partition| owned.find_partition(topic, partition).is_some());
        if offsets.is_empty() {
            return;
        }
        if let Err(error) = self.list(&offsets).and_then(|list| consumer.commit(&list, mode)) {
            tracing::warn!(%error, "offsets could not be committed");
            self.progress.finish(&offsets);
        }
    }

    /// Shows in the health whether any broker is connected, and what librdkafka said last where none is.
    fn connected(&self, statistics: &Statistics) {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.health.resume(PauseCause::KafkaAway);
            return;
        }
        let trouble = self.last_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.health.pause(PauseCause::KafkaAway, format!("no broker is connected: {trouble}")) {
            tracing::warn!(trouble, "no broker is connected; it is tried again until one is");
        }
    }

    /// Shows in the health that the topic is missing, for as long as no partition of it is assigned.
    fn topic_is_there(&self) {
        let mut known = self.known();
        known.topic_is_missing &= self.assignment.partitions().is_empty();
        if known.topic_is_missing {
            self.health
                .pause(PauseCause::TopicMissing, format!("there is no topic {}", self.topic));
        } else {
            self.health.resume(PauseCause::TopicMissing);
        }
    }

    /// What is committed: the offsets, with the leader epoch before each, the topic's id and the evidence fingerprint.
    fn list(&self, offsets: &Offsets) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in offsets.iter() {
            let mut element = list.add_partition(topic, partition);
            element.set_offset(Offset::Offset(next))?;
            if let Some(metadata) = self.commit_metadata(partition) {
                element.set_metadata(metadata);
            }
            self.known().committed(partition, next);
        }
        ffi::set_leader_epochs(&mut list, |partition, next| {
            self.known().epoch_before(partition, next)
        });
        Ok(list)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        config::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(group) = &statistics.cgrp {
            self.health.group_state(&group.join_state);
        }
        self.connected(&statistics);
        self.topic_is_there();
        let ends = ends(&statistics, &self.topic);
        self.lag.read(&self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.lag.show(&self.metrics, &self.topic, &ends);
        let mut known = self.known();
        let mut again = Offsets::default();
        for end in &ends {
            known.end(end.partition, end.end);
            if let Some(next) = known.confirmed(end.partition, end.committed) {
                again.include_before(&self.topic, end.partition, next);
            }
        }
        self.progress.finish(&again);
        if std::mem::take(&mut known.asked_for_start) {
            known.still = still(&statistics, &self.topic, &self.assignment.partitions());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // All brokers down, a host that does not resolve: librdkafka goes on trying by itself.
        if self.repeated.is_news(&error) {
            tracing::warn!(%error, reason, "kafka");
        }
        // That all are down follows from what was said of each.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.last_trouble.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        }
    }
}

impl ConsumerContext for Context {
    /// As rdkafka does it, but with the starts chosen by us.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let result = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let starts = self.starts(consumer, partitions);
                for start in starts.elements() {
                    self.known().changed_hands(start.partition());
                    if let Offset::Offset(next) = start.offset() {
                        self.lag.start_at(start.partition(), next, AssignmentId::default());
                    }
                }
                let result = consumer.incremental_assign(&starts);
                self.post_rebalance(consumer, &Rebalance::Assign(partitions));
                result
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.pre_rebalance(consumer, &Rebalance::Revoke(partitions));
                for partition in numbers(partitions) {
                    self.known().changed_hands(partition);
                }
                consumer.incremental_unassign(partitions)
            }
            code => Err(KafkaError::Rebalance(code.into())),
        };
        if let Err(error) = result {
            tracing::error!(%error, "rebalancing failed");
        }
    }

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
            _ => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.metrics.rebalances_total.inc();
            self.health.assigned();
            self.assignment.add(numbers(partitions));
            tracing::info!(partitions = %names(partitions), "partitions assigned");
            // librdkafka remembers that a partition was paused when it was let go, also over its return.
            let holding = self.holding.load(std::sync::atomic::Ordering::Relaxed);
            let result =
                if holding { consumer.pause(partitions) } else { consumer.resume(partitions) };
            if let Err(error) = result {
                tracing::warn!(%error, holding, "new partitions could not be paused or resumed");
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
        .map(|partition| {
            // The last stable offset: what lies behind it cannot be read yet.
            let end =
                if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
            PartitionEnd {
                partition: partition.partition,
                end,
                is_read: partition.app_offset >= end,
                committed: partition.committed_offset,
                start: partition.lo_offset,
            }
        })
        .collect()
}

/// The assigned partitions that stand still for want of a start.
fn still(statistics: &Statistics, topic: &str, assigned: &[i32]) -> BTreeSet<i32> {
    let partitions = statistics.topics.get(topic).map(|topic| &topic.partitions);
    let still = partitions.into_iter().flatten().map(|(_, partition)| partition);
    still
        .filter(|partition| partition.fetch_state == "none")
        .map(|partition| partition.partition)
        .filter(|partition| assigned.contains(partition))
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
#[derive(Default)]
pub(in crate::kafka) struct Quiet(config::Repeated);

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        config::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::PartitionEOF)) {
            return;
        }
        if self.0.is_news(&error) {
            tracing::warn!(%error, reason, "kafka, reading a range");
        }
    }
}

impl ConsumerContext for Quiet {}
