//! Starts partitions: gets the facts, decides, and makes librdkafka seek to the start. All of this runs between two
//! polls, never inside of a callback.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::account::Claim;
use super::callbacks::{Context, UNREACHABLE_OFFSET};
use super::start_offsets::{Facts, Gap, GapCause, LogPosition, Start};
use super::state::{Partition, Reading, StartAttempt};
use crate::kafka::commit_metadata::CommitMetadata;
use crate::kafka::config;
use crate::kafka::ffi::{self, TopicIds};
use crate::kafka::observe::GroupWait;
use crate::pipeline::ports::{AssignmentId, SourceError};
use crate::settings::OnGap;

/// The time limit of one request to the broker. The poll thread blocks on it, so no partition is read meanwhile.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The delay before a request without an answer is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The group's commit for a partition.
#[derive(Debug, Clone, Default)]
struct Committed {
    position: Option<LogPosition>,
    metadata: CommitMetadata,
}

impl Context {
    /// Finds starts for the partitions without one, as far as the brokers answer, and starts those that have one.
    pub(super) fn start_partitions(&self, consumer: &BaseConsumer<Self>) {
        let (without, due) = {
            let state = self.state();
            let without = state.partitions_that(|partition| {
                matches!(partition.reading, Reading::NoStart | Reading::Refused(_))
            });
            (without, state.ask_at <= Some(Instant::now()))
        };
        if without.is_empty() {
            self.show(GroupWait::StartOffsets, None);
        } else if due {
            match self.choose_start_offsets(consumer, &without) {
                Ok(()) => self.show(GroupWait::StartOffsets, None),
                Err(reason) => self.report_unknown_start_offsets(&without, &reason),
            }
        }
        let result = self.seek_to_start_offsets(consumer);
        self.fatal(result);
    }

    fn report_unknown_start_offsets(&self, partitions: &[i32], reason: &str) {
        self.state().ask_at = Some(Instant::now() + RETRY_DELAY);
        let topic = &self.topic;
        let reason =
            format!("partitions {partitions:?} of {topic} wait for their start offsets: {reason}");
        self.show(GroupWait::StartOffsets, Some(reason));
    }

    /// Ends the run if librdkafka fails, because the group believes that these partitions are being read.
    pub(super) fn fatal<T>(&self, result: KafkaResult<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(%error, "librdkafka did not take a start");
                self.state().fail(SourceError::Fatal(format!("it did not take a start: {error}")));
                None
            }
        }
    }

    /// # Errors
    /// The reason why a partition has no start yet. The other partitions were started.
    fn choose_start_offsets(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Result<(), String> {
        let cluster = consumer.client().fetch_cluster_id(REQUEST_TIMEOUT);
        self.state().cluster.clone_from(&cluster);
        let topic_id = if config::is_in_process(cluster.as_deref()) {
            Ok(None)
        } else {
            TopicIds::of(consumer.client(), &self.topic, REQUEST_TIMEOUT)
        };
        let topic_id = topic_id.map_err(|error| format!("the topic's id is not known: {error}"))?;
        if topic_id.as_deref().is_some_and(|id| self.state().is_another_topic(id)) {
            return Err("the topic was created again".to_owned());
        }
        let (partitions, mut result) = self.claimed(partitions, topic_id.as_deref());
        if partitions.is_empty() {
            self.state().ask_at = Some(Instant::now() + RETRY_DELAY);
            // The next poll loop iteration takes the database's answer, if it has come by then.
            return result;
        }
        let committed = self.committed(consumer, &partitions)?;
        let mut asked: Vec<_> = partitions.into_iter().zip(committed).collect();
        self.state().asked_last.sort(&mut asked);
        let began = Instant::now();
        for (partition, committed) in asked {
            self.observer.polled();
            if began.elapsed() >= REQUEST_TIMEOUT {
                // The partitions that have a start are started before the others are asked.
                break;
            }
            let facts = committed.and_then(|committed| {
                let now = (cluster.clone(), topic_id.clone());
                let facts = self.facts(partition, committed, now).ok_or("it was revoked")?;
                self.decide(consumer, partition, facts)
            });
            match facts {
                Ok((facts, start)) => self.start(consumer, partition, &facts, start),
                Err(error) => result = Err(format!("partition {partition}: {error}")),
            }
        }
        result
    }

    /// The group's commits, in the order of the partitions. The group is asked only for partitions without a position:
    /// the others need not wait for the coordinator.
    fn committed(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Result<Vec<Result<Committed, String>>, String> {
        let mut wanted = TopicPartitionList::new();
        {
            let state = self.state();
            for number in partitions {
                let partition = state.partitions.get(number);
                if partition.is_some_and(|partition| partition.next_offset().is_none()) {
                    wanted.add_partition(&self.topic, *number);
                }
            }
        }
        let answer = if wanted.count() == 0 {
            wanted
        } else {
            let answer = consumer.committed_offsets(wanted, REQUEST_TIMEOUT);
            answer.map_err(|error| format!("the committed offsets are not known: {error}"))?
        };
        let epochs = ffi::leader_epochs(&answer);
        Ok(partitions.iter().map(|&number| self.of_partition(&answer, &epochs, number)).collect())
    }

    fn of_partition(
        &self,
        answer: &TopicPartitionList,
        epochs: &[Option<i32>],
        partition: i32,
    ) -> Result<Committed, String> {
        let elements = answer.elements();
        let found =
            elements.iter().zip(epochs).find(|(element, _)| element.partition() == partition);
        let Some((element, &epoch)) = found else { return Ok(Committed::default()) };
        element.error().map_err(|error| error.to_string())?;
        let position = match element.offset() {
            Offset::Offset(offset) => Some(LogPosition { offset, epoch }),
            _ => None,
        };
        Ok(Committed { position, metadata: CommitMetadata::parse(element.metadata()) })
    }

    fn facts(
        &self,
        number: i32,
        committed: Committed,
        (cluster, topic_id): (Option<String>, Option<String>),
    ) -> Option<Facts> {
        let mut state = self.state();
        let partition = state.partitions.get(&number)?.clone();
        let Partition { reading, start, next, proved, claim, .. } = partition;
        let is_account_kept = matches!(claim, Claim::Owned(_));
        // After a gap the known end belongs to the new log, but a start at the group's position belongs to the old one.
        let is_replaced = next.is_none() && state.reported_gaps.contains_key(&number);
        // During reading the account is behind, so it counts only at the first start and after a doubt.
        let is_asked = start.is_none() || proved.is_some();
        let owned = match claim {
            Claim::Owned(owned) if is_asked => owned.position,
            _ => None,
        };
        let log = state.log(number);
        let position = match next {
            Some(offset) => Some(LogPosition { offset, epoch: log.epoch_before(offset) }),
            None => start,
        };
        let refusal = if let Reading::Refused(refusal) = reading { Some(refusal) } else { None };
        Some(Facts {
            position,
            committed: committed.position.or(log.committed.map(LogPosition::unproved).filter(
                |_| {
                    // The broker forgets the group's offsets when it deletes a topic: ours shows what was lost.
                    log.topic_id.is_some() && topic_id.is_some() && log.topic_id != topic_id
                },
            )),
            account: owned.as_ref().map(|position| LogPosition {
                offset: position.next_offset,
                epoch: position.leader_epoch,
            }),
            is_account_kept,
            evidence: owned.and_then(|position| position.evidence),
            proved,
            metadata: committed.metadata,
            cluster,
            topic_id,
            known_topic_id: log.topic_id.clone(),
            watermarks: None,
            known_end: log.end().filter(|_| !is_replaced),
            refusal,
            validated: next.is_none() && start.is_some_and(|start| start.epoch.is_some()),
        })
    }

    fn decide(
        &self,
        consumer: &BaseConsumer<Self>,
        partition: i32,
        mut facts: Facts,
    ) -> Result<(Facts, Start), String> {
        if let Some(start) = facts.decide() {
            return Ok((facts, start));
        }
        let watermarks = consumer.fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT);
        match &watermarks {
            Ok(_) => self.state().asked_last.remove(partition),
            Err(error) if error.rdkafka_error_code().is_some_and(config::is_no_answer) => {
                let others = self.with_same_leader(consumer, partition);
                self.state().asked_last.add(partition, &others);
            }
            Err(_) => self.state().asked_last.add(partition, &[]),
        }
        facts.watermarks =
            Some(watermarks.map_err(|error| format!("its ends are not known: {error}"))?);
        let start = facts.decide().ok_or("its ends do not decide")?;
        Ok((facts, start))
    }

    /// The partition and the others with the same leader.
    fn with_same_leader(&self, consumer: &BaseConsumer<Self>, partition: i32) -> Vec<i32> {
        let metadata = consumer.fetch_metadata(Some(&self.topic), REQUEST_TIMEOUT).ok();
        let topics = metadata.iter().flat_map(Metadata::topics);
        let all: Vec<_> = topics.flat_map(MetadataTopic::partitions).collect();
        let Some(own) = all.iter().find(|one| one.id() == partition) else {
            return vec![partition];
        };
        all.iter().filter(|one| one.leader() == own.leader()).map(|one| one.id()).collect()
    }

    /// Carries out a decision. From now on all facts about the partition describe the log that it will read.
    pub(super) fn start(
        &self,
        consumer: &BaseConsumer<Self>,
        number: i32,
        facts: &Facts,
        start: Start,
    ) {
        if let Some(gap) = start.gap
            && !self.report(number, gap)
        {
            return;
        }
        let was_refused = facts.refusal.is_some();
        if was_refused && self.fatal(self.reassign(consumer, number)).is_none() {
            return;
        }
        let assignment = self.apply_start(number, facts, start);
        if let Some(note) = start.note {
            self.log_note(number, note);
        }
        if let Some(last) = facts.metadata.replay.filter(|_| !facts.is_mirrored()) {
            self.observer.committed_replay(last);
        }
        let is_recreated = start.gap.is_some_and(|gap| gap.cause == GapCause::Recreated);
        if facts.position.is_none() || facts.proved.is_some() || is_recreated {
            let has_position = facts.committed.is_some() || facts.account.is_some();
            let has_history = (has_position || facts.proved.is_some()) && !is_recreated;
            self.settled.assigned(number, has_history, facts.settled_by(start.note).as_deref());
        }
        if facts.position.is_none() && facts.committed.is_none() && start.gap.is_none() {
            let place = if facts.account.is_some() {
                "where the table's account is"
            } else {
                "from the first record"
            };
            tracing::info!(
                topic = %self.topic, partition = number, offset = start.position.offset,
                "the group has no committed offset: reading {place}"
            );
        }
        self.observer.started(number, start.position.offset, assignment);
    }

    /// Sets the partition's state for the start; returns the assignment of its records.
    fn apply_start(&self, number: i32, facts: &Facts, start: Start) -> AssignmentId {
        let mut state = self.state();
        let written = facts.written_before(start, state.commits.written_before(number));
        if start.other_log {
            state.commits.assign([number]);
            state.logs.remove(&number);
        }
        let log = state.log(number);
        log.topic_id.clone_from(&facts.topic_id);
        log.starts_at(start.position);
        let at = start.position.offset;
        let mut claim = state
            .partitions
            .get(&number)
            .map(|partition| partition.claim.clone())
            .unwrap_or_default();
        if let Claim::Owned(owned) = &mut claim {
            // Records that are read again are written again, so the account may go back to this offset.
            let stood = owned.position.as_ref().map(|position| position.next_offset.min(at));
            owned.at_least = stood.filter(|_| !start.other_log);
        }
        let partition = Partition {
            reading: Reading::Starts(start.position, StartAttempt::new()),
            start: Some(start.position),
            next: None,
            settled_by: facts.settled_by(start.note),
            claim,
            proved: None,
        };
        state.partitions.insert(number, partition);
        state.commits.starts_after(number, written);
        if facts.is_written_before(start) {
            let is_committed = facts.committed == Some(start.position)
                && (facts.metadata.has_account || !facts.is_account_kept);
            state.commits.starts_as_written(number, at, is_committed);
        }
        if let Some(skipped) = facts.skipped(start) {
            state.commits.starts_after_gap(number, skipped);
        }
        state.commits.assignment()
    }

    /// Assigns the partition again. After librdkafka has stopped reading it for good, only a new assignment starts it.
    fn reassign(&self, consumer: &BaseConsumer<Self>, partition: i32) -> KafkaResult<()> {
        let list = self.list([(partition, UNREACHABLE_OFFSET)])?;
        consumer.pause(&list)?;
        consumer.incremental_unassign(&list)?;
        consumer.incremental_assign(&list)?;
        consumer.pause(&list)
    }

    /// Makes librdkafka go to the chosen starts by a seek: the broker checks the epoch of a seek, but not that of an
    /// assignment.
    fn seek_to_start_offsets(&self, consumer: &BaseConsumer<Self>) -> KafkaResult<()> {
        let starting: Vec<(i32, LogPosition)> = {
            let state = self.state();
            let starting =
                state.partitions.iter().filter_map(|(&number, partition)| {
                    match partition.reading {
                        Reading::Starts(position, _) => Some((number, position)),
                        _ => None,
                    }
                });
            starting.collect()
        };
        if starting.is_empty() {
            return Ok(());
        }
        let mut list = self.list(starting.iter().map(|&(number, at)| (number, at.offset)))?;
        ffi::set_leader_epochs(&mut list, |partition, _| {
            starting.iter().find(|(number, ..)| *number == partition)?.1.epoch
        });
        let sought = match consumer.seek_partitions(list, REQUEST_TIMEOUT) {
            Ok(sought) => sought,
            // The next poll loop iteration tries again.
            Err(KafkaError::Seek(error)) => {
                tracing::debug!(error, "partitions do not start yet");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut read = Vec::new();
        for element in sought.elements() {
            let number = element.partition();
            match element.error() {
                Ok(()) => read.push(number),
                Err(error) => match self.start_timed_out(number) {
                    None => tracing::debug!(%error, partition = number, "not started yet"),
                    Some(timeout) => {
                        if timeout >= StartAttempt::MAX_TIMEOUT {
                            tracing::warn!(%error, partition = number, "librdkafka does not start a partition; it is assigned again");
                        }
                        self.reassign(consumer, number)?;
                    }
                },
            }
        }
        self.resume(consumer, &read)
    }

    /// The timeout of librdkafka's present attempt to start the partition, if it has passed.
    fn start_timed_out(&self, number: i32) -> Option<Duration> {
        match &mut self.state().partitions.get_mut(&number)?.reading {
            Reading::Starts(_, attempt) => attempt.timed_out(),
            _ => None,
        }
    }

    /// Marks the partitions as being read, and resumes them unless the loop is full.
    fn resume(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> KafkaResult<()> {
        let is_full = {
            let mut state = self.state();
            for number in partitions {
                if let Some(partition) = state.partitions.get_mut(number) {
                    partition.reading = Reading::Reads;
                }
            }
            state.is_full
        };
        if is_full || partitions.is_empty() {
            return Ok(());
        }
        consumer.resume(&self.list(partitions.iter().map(|&partition| (partition, 0)))?)
    }

    /// Logs and counts a gap, once. Returns `false` where `kafka.on_gap` ends the run.
    fn report(&self, partition: i32, gap: Gap) -> bool {
        let reported = self.state().reported_gaps.get(&partition).copied();
        let Some(unreported) = gap.beyond(reported) else { return self.on_gap != OnGap::Stop };
        self.state().reported_gaps.insert(partition, gap);
        let gap = unreported;
        let topic = &self.topic;
        let what = match gap.cause {
            GapCause::Retention => "the broker deleted records before they were read",
            GapCause::Recreated => {
                "the topic was created again: the ingester reads it from its first record, and the unread records of the deleted topic are lost"
            }
            GapCause::CutSomewhere => {
                "the log was cut: the ingester reads it from its first record, and the unread records of the old log are lost"
            }
            GapCause::Unreadable => {
                "a batch is damaged on the broker's disk, or unpacked larger than receive.message.max.bytes in kafka.client allows: the ingester continues after the batch"
            }
            GapCause::Cut => {
                "the log was cut and other records took the place of those cut off: the ingester continues from the cut"
            }
        };
        let records =
            gap.range.map_or(0, |(from, to)| to.saturating_sub(from).max(0).cast_unsigned());
        self.observer.lost(records);
        let range = match gap.range {
            Some((from, to)) => format!("offsets {from} to {}", to - 1),
            None => "an unknown range".to_owned(),
        };
        tracing::error!(%topic, partition, records, range, "{what}");
        if self.on_gap == OnGap::Stop {
            self.state().fail(SourceError::Gap(format!(
                "{what}: partition {partition} of {topic}, {range}; kafka.on_gap = \"continue\" reads on, and \
                 `kafka-consumer-groups --reset-offsets` chooses another place"
            )));
        }
        self.on_gap != OnGap::Stop
    }
}
