//! The consumer's callbacks: rebalances, statistics, errors. They run on the poll thread, inside `poll`.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::{Partition as PartitionStatistics, Statistics};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, UnboundedSender};
use tokio::sync::oneshot;

use super::account::Request;
use super::start_offsets;
use super::state::{Command, PollState, Reading, Stage};
use super::wait::wait_for;
use crate::kafka::config;
use crate::kafka::damage::unreadable_batch;
use crate::kafka::observe::{GroupObserver, GroupWait, PartitionEnd, SettledEvidence};
use crate::pipeline::ports::{SourceError, SourceEvent};
use crate::settings::OnGap;

/// The position of an assigned partition whose start is unknown. No log reaches it, so librdkafka reads nothing even
/// before the partition is paused.
pub(super) const UNREACHABLE_OFFSET: i64 = i64::MAX;

/// The state that the poll thread and its callbacks share. A new client shares it with the old one.
#[derive(Clone)]
pub(super) struct Context(pub(super) Arc<Shared>);

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

pub(super) struct Shared {
    pub(super) state: Mutex<PollState>,
    /// Only the poll thread takes commands.
    pub(super) commands: Mutex<Receiver<Command>>,
    pub(super) events: Sender<SourceEvent>,
    pub(super) observer: Arc<dyn GroupObserver>,
    pub(super) settled: Arc<dyn SettledEvidence>,
    /// The channel of requests about the account; `None` only in unit tests.
    pub(super) requests: Option<UnboundedSender<Request>>,
    /// The prefix of the owner of this process's claims; no other process has the same.
    pub(super) token: String,
    pub(super) group: String,
    pub(super) topic: Arc<str>,
    pub(super) revoke_timeout: Duration,
    /// The session timeout: how long the coordinator may be away before it is reported.
    pub(super) session: Duration,
    pub(super) on_gap: OnGap,
    pub(super) repeated: config::ErrorFilter,
    pub(super) last_message: config::LastBrokerMessage,
}

impl Context {
    pub(super) fn state(&self) -> MutexGuard<'_, PollState> {
        self.state.lock()
    }

    /// Applies the commands that came since the last call, and returns the state after them.
    pub(super) fn apply_commands(&self) -> MutexGuard<'_, PollState> {
        let mut state = self.state();
        while let Ok(command) = self.commands.lock().try_recv() {
            state.apply(command);
        }
        state
    }

    /// Sends the pending records to the loop, and waits up to `timeout` for space in the channel. `false` if the time
    /// was not enough: the unsent records stay pending.
    pub(super) fn send_pending(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(chunk) = self.state().pending.pop_front() else { return true };
            self.observer.read(&chunk.records);
            let left = deadline.saturating_duration_since(Instant::now());
            match self.send(SourceEvent::Records(chunk), left) {
                Ok(()) => {}
                Err(Some(SourceEvent::Records(chunk))) => {
                    self.state().pending.push_front(chunk);
                    return false;
                }
                // The loop has ended: the records are dropped, and read again after the committed offset.
                Err(_) => return true,
            }
        }
    }

    /// Sends an event to the loop. `Err(Some(event))` if the channel had no space in time, `Err(None)` if the loop has
    /// ended.
    pub(super) fn send(
        &self,
        event: SourceEvent,
        timeout: Duration,
    ) -> Result<(), Option<SourceEvent>> {
        let event = match self.events.try_send(event) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(self.close_after_loop()),
            Err(TrySendError::Full(event)) => event,
        };
        match wait_for(self.events.reserve(), timeout) {
            Some(Ok(permit)) => {
                permit.send(event);
                Ok(())
            }
            Some(Err(_)) => Err(self.close_after_loop()),
            None => Err(Some(event)),
        }
    }

    /// Called after the loop has ended: sets the stage so that the member leaves the group. Returns `None`.
    fn close_after_loop(&self) -> Option<SourceEvent> {
        self.state().stage = Stage::Close;
        None
    }

    /// Called before a revocation. A lost assignment is not drained, because it has another owner already.
    fn prepare_revocation(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) {
        if partitions.is_empty() {
            return;
        }
        self.observer.revoking();
        let lost = consumer.assignment_lost();
        tracing::info!(topic = %self.topic, ?partitions, lost, "partitions revoked");
        if lost {
            self.state().is_lost = true;
        } else {
            self.drain(consumer);
        }
    }

    /// Before a revocation: waits until the records that were read are written, and commits, within the time limit. The
    /// next owner reads the rest again, which the merge makes harmless.
    fn drain(&self, consumer: &BaseConsumer<Self>) {
        let deadline = Instant::now() + self.revoke_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        let (done, answer) = oneshot::channel();
        let drained = self.send_pending(left())
            && match self.send(SourceEvent::Revoking { done }, left()) {
                Ok(()) => wait_for(answer, left()).is_some(),
                // The loop has ended: nothing more will be written, and all written offsets have been reported.
                Err(None) => true,
                Err(Some(_)) => false,
            };
        if !drained {
            tracing::warn!(
                "not everything that was read could be written in time; it is read again"
            );
        }
        drop(self.apply_commands());
        self.commit_and_wait(consumer, left().max(MIN_COMMIT_TIMEOUT));
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> KafkaResult<()> {
        {
            let mut state = self.state();
            state.is_lost = false;
            state.assign(partitions);
        }
        let list =
            self.list(partitions.iter().map(|&partition| (partition, UNREACHABLE_OFFSET)))?;
        // Paused twice: librdkafka keeps the pause of a partition over an assignment, but only for a partition that it
        // already knew.
        consumer.pause(&list)?;
        consumer.incremental_assign(&list)?;
        consumer.pause(&list)
    }

    /// Removes partitions that this member no longer owns.
    pub(super) fn revoke(&self, partitions: &[i32]) {
        self.state().revoke(partitions);
        partitions.iter().for_each(|&partition| self.settled.revoked(partition));
    }

    /// A list of the topic's partitions with these offsets.
    pub(super) fn list(
        &self,
        offsets: impl IntoIterator<Item = (i32, i64)>,
    ) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        Ok(list)
    }

    /// Reports whether any broker is connected; if none is, with librdkafka's latest error.
    fn report_connection(&self, statistics: &Statistics) -> bool {
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.state().unconnected = None;
            self.observer.has(GroupWait::Broker);
            return true;
        }
        self.state().unconnected.get_or_insert_with(Instant::now);
        let trouble = self.last_message.text().unwrap_or_else(|| connection_states(statistics));
        let reason = format!("no broker is connected: {trouble}");
        if self.observer.waits_for(GroupWait::Broker, reason) {
            tracing::warn!(trouble, "no broker is connected; it is tried again until one is");
        }
        false
    }

    /// Reports a missing topic, until a partition is assigned or the topic's id is known again.
    fn report_topic(&self) {
        let is_missing = {
            let mut state = self.state();
            state.topic_is_missing &= state.partitions.is_empty();
            state.topic_is_missing
        };
        let reason = is_missing.then(|| format!("there is no topic {}", self.topic));
        self.show(GroupWait::Topic, reason);
    }

    /// Commits a changed evidence fingerprint even when no record of the partition is read.
    fn commit_changed_evidence(&self) {
        let read = self.state().partitions_that(|partition| partition.reading == Reading::Reads);
        for number in read {
            let fingerprint = self.settled.fingerprint(number);
            let mut state = self.state();
            let committed =
                state.partitions.get(&number).map(|partition| partition.settled_by.clone());
            if committed.is_some_and(|committed| committed != fingerprint) {
                state.commits.repeat(number);
            }
        }
    }

    /// Reports the ends of all assigned partitions, and updates the state from their statistics.
    fn report_ends(&self, partitions: &HashMap<i32, PartitionStatistics>) {
        let mut state = self.state();
        for chunk in &state.pending {
            self.observer.read(&chunk.records);
        }
        let assigned: Vec<(i32, Reading)> = state
            .partitions
            .iter()
            .map(|(&number, partition)| (number, partition.reading))
            .collect();
        let mut ends = Vec::with_capacity(assigned.len());
        for (number, reading) in assigned {
            let found = partitions.get(&number).filter(|_| reading == Reading::Reads);
            // Otherwise the partition is about to change its log, and this may be the end of the new one.
            let latest = found.map(|found| found.hi_offset).filter(|&end| end >= 0);
            if let Some(end) = latest {
                state.log(number).saw_end(end);
                state.was_allowed = true;
            }
            // Just after a cut the statistics may have the end of the old log for a moment.
            let end = latest.or(state.log(number).end());
            let committed = found.map_or(-1, |found| found.committed_offset);
            if state.commits.shown(number, committed) {
                state.reported_gaps.remove(&number);
            }
            ends.push(PartitionEnd {
                partition: number,
                end,
                is_read: found.is_some_and(|found| end.is_some_and(|end| found.app_offset >= end)),
                committed,
                start: found.map_or(-1, |found| found.lo_offset),
            });
        }
        let stalled = partitions.values().filter(|partition| partition.fetch_state == "none");
        if std::mem::take(&mut state.is_position_refused) {
            state.refused(stalled.map(|partition| partition.partition));
        }
        drop(state);
        self.observer.ends(&ends);
    }
}

/// The states of the connections to the brokers, for as long as librdkafka has sent no message about a broker.
fn connection_states(statistics: &Statistics) -> String {
    let brokers = statistics.brokers.values().filter(|broker| broker.source != "internal");
    let brokers = brokers.filter(|broker| broker.source != "logical");
    let brokers = brokers.map(|broker| format!("{} is in the state {}", broker.name, broker.state));
    brokers.collect::<Vec<_>>().join(", ")
}

/// The minimum time to wait for a commit, even when the time of a revocation is over.
const MIN_COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.last_message.line(facility, message);
        config::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        let is_connected = self.report_connection(&statistics);
        if let Some(group) = &statistics.cgrp {
            self.show_group(group, is_connected);
        }
        self.report_topic();
        let partitions = statistics.topics.get(&*self.topic).map(|topic| &topic.partitions);
        let none = HashMap::new();
        let partitions = partitions.unwrap_or(&none);
        self.show_leaders(partitions);
        self.report_ends(partitions);
        self.commit_changed_evidence();
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if config::is_out_of_range(&error) {
            // `poll` returns this error too, but without the text.
            self.state().refusals.extend(start_offsets::refusal(reason));
            return;
        }
        if let Some(offset) = unreadable_batch(reason) {
            self.state().unreadable.insert(offset);
        }
        if error.rdkafka_error_code().is_some_and(config::is_group_refusal) {
            self.state().group_error = Some(reason.to_owned());
        }
        // All brokers down, or a host that does not resolve: librdkafka retries by itself.
        if self.repeated.is_new(&error) {
            tracing::warn!(%error, reason, "kafka");
        }
        self.last_message.error(&error, reason);
    }
}

impl ConsumerContext for Context {
    /// Partitions are assigned paused and without a position; their starts are chosen later. The run ends if librdkafka
    /// cannot assign or unassign them, because the group believes that it did.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let numbers: Vec<i32> =
            partitions.elements().iter().map(|element| element.partition()).collect();
        let result = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(topic = %self.topic, partitions = ?numbers, "partitions assigned");
                let result = self.assign(consumer, &numbers);
                self.observer.assigned();
                result
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.prepare_revocation(consumer, &numbers);
                self.revoke(&numbers);
                consumer.incremental_unassign(partitions)
            }
            code => Err(KafkaError::Rebalance(code.into())),
        };
        if let Err(error) = result {
            tracing::error!(%error, partitions = ?numbers, "rebalancing failed");
            let reason = format!("it did not take the group's assignment: {error}");
            self.state().fail(SourceError::Fatal(reason));
        }
    }
}
