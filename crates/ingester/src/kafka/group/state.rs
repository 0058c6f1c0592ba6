//! The poll thread's state: the assigned partitions, the offsets to commit, the pending records.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::account::{Answer, Claim};
use super::commit_queue::CommitQueue;
use super::start_offsets::{Gap, LogPosition, Refusal};
use crate::kafka::commit_metadata::CommitMetadata;
use crate::kafka::observe::GroupWait;
use crate::pipeline::ports::{Chunk, SourceError, WrittenOffsets};
use crate::record::Record;

/// A command to the poll thread from the rest of the ingester.
#[derive(Debug)]
pub(super) enum Command {
    /// Everything before these offsets is written.
    Written(WrittenOffsets),
    /// Commit as soon as possible.
    CommitSoon,
    /// The database's answer about the account.
    Account(Box<Answer>),
    /// Read nothing more, but stay in the group.
    Halt,
    /// Read nothing more, send what was read, and end.
    Stop,
    /// Commit and leave the group.
    Close,
}

/// The mutable state of the poll thread and of librdkafka's callbacks.
///
/// It has one lock, because the callbacks (rebalances, statistics, errors) get the consumer's context by a shared
/// reference. They run on the poll thread too, inside `poll`: so the lock is never contended, and it must not be held
/// during a call to librdkafka.
#[derive(Debug, Default)]
pub(super) struct PollState {
    pub(super) commits: CommitQueue,
    pub(super) partitions: BTreeMap<i32, Partition>,
    /// Known facts about the partitions' logs, also of revoked partitions.
    pub(super) logs: BTreeMap<i32, KnownLog>,
    /// Records that were read but not sent yet, by the assignment under which they were read.
    pub(super) pending: VecDeque<Chunk>,
    /// The stage that the commands have set.
    pub(super) stage: Stage,
    pub(super) halted: bool,
    pub(super) commit_soon: bool,
    /// A request to store positions in the account is not answered yet.
    pub(super) is_storing: bool,
    /// Positions were stored in the account and may be committed.
    pub(super) commit_stored: bool,
    /// Partitions whose account does not have the position that was stored last.
    pub(super) doubted: BTreeSet<i32>,
    /// The loop takes no records: all partitions are paused.
    pub(super) is_full: bool,
    /// The cluster's id, if the broker has one.
    pub(super) cluster: Option<String>,
    /// The broker reports that the topic does not exist.
    pub(super) topic_is_missing: bool,
    /// librdkafka stopped reading a partition; the next statistics show which.
    pub(super) is_position_refused: bool,
    /// The offsets that librdkafka refused, and the reasons; it does not name the partitions.
    pub(super) refusals: Vec<(i64, Refusal)>,
    /// The first offsets of unreadable batches; librdkafka does not name the partitions.
    pub(super) unreadable: BTreeSet<i64>,
    /// The gaps that were reported, by partition, until an offset after them is committed.
    pub(super) reported_gaps: BTreeMap<i32, Gap>,
    /// The partitions whose leaders did not answer.
    pub(super) asked_last: AskedLast,
    /// The earliest time of the next attempt to find start offsets; `None`: now.
    pub(super) ask_at: Option<Instant>,
    /// librdkafka's message about why the group refuses this member.
    pub(super) group_error: Option<String>,
    /// The time at which the present client was created; `None` for the first.
    pub(super) client_since: Option<Instant>,
    /// The time since which the group has had no coordinator, according to the statistics of a connected broker.
    pub(super) coordinator_away: Option<Instant>,
    /// The topic's id as this client learned it first.
    pub(super) topic_id: Option<String>,
    /// Whether the topic has another id now.
    pub(super) is_recreated: bool,
    /// Whether the partitions were lost with the membership and none has been assigned since.
    pub(super) is_lost: bool,
    /// The time since which the group has refused this client for good, although it may accept another.
    pub(super) refused_for_good: Option<Instant>,
    /// The time since which no broker has been connected.
    pub(super) unconnected: Option<Instant>,
    /// The time since which the member has been joining without a partition.
    pub(super) joining: Option<Instant>,
    /// Under KIP-848, whether the broker has accepted the member: librdkafka reports it only if it has partitions.
    pub(super) is_accepted: bool,
    /// The time since which each partition has had no leader.
    pub(super) leaderless: BTreeMap<i32, Instant>,
    /// The conditions that were reported to the observer and have not ended.
    pub(super) reported_waits: BTreeSet<GroupWait>,
    /// Whether the broker has ever allowed a read: a right that is missing later was revoked and may come back.
    pub(super) was_allowed: bool,
    /// The reason why the source must end.
    pub(super) failed: Option<SourceError>,
}

/// How far the poll thread is to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Read.
    #[default]
    Read,
    /// Send the records that were read.
    Stop,
    /// Leave the group.
    Close,
}

/// The state of an assigned partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) reading: Reading,
    /// The latest start.
    pub(super) start: Option<LogPosition>,
    /// The offset after the last record read since that start.
    pub(super) next: Option<i64>,
    /// The evidence fingerprint in the latest commit.
    pub(super) settled_by: Option<String>,
    /// Whether this member has claimed the account.
    pub(super) claim: Claim,
    /// The position up to which the account was correct, if it was doubted.
    pub(super) proved: Option<LogPosition>,
}

impl Partition {
    /// The next offset to read; `None` before the first start.
    pub(super) fn next_offset(&self) -> Option<i64> {
        self.next.or(self.start.map(|start| start.offset))
    }
}

/// Whether a partition is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// Paused: the start is unknown.
    #[default]
    NoStart,
    /// Paused, because librdkafka refused the position.
    Refused(Refusal),
    /// Paused: the start is known, but librdkafka has not begun there yet.
    Starts(LogPosition, StartAttempt),
    /// It is being read, or it is paused with all others while the loop is full.
    Reads,
}

/// When librdkafka began to start a partition, and how long that may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StartAttempt {
    since: Instant,
    timeout: Duration,
}

impl StartAttempt {
    /// The timeout of the first attempt, and the longest timeout. librdkafka first stops the old fetch. If it has sent
    /// a fetch at `UNREACHABLE_OFFSET` before the pause, the broker's answer stops the partition, which then never
    /// starts by itself.
    const FIRST_TIMEOUT: Duration = Duration::from_millis(500);
    pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        Self { since: Instant::now(), timeout: Self::FIRST_TIMEOUT }
    }

    /// The timeout, if it has passed. Then the next attempt begins, with twice that timeout.
    pub(super) fn timed_out(&mut self) -> Option<Duration> {
        let timeout = self.timeout;
        if self.since.elapsed() <= timeout {
            return None;
        }
        *self = Self { since: Instant::now(), timeout: (timeout * 2).min(Self::MAX_TIMEOUT) };
        Some(timeout)
    }
}

/// Known facts about a partition's log.
#[derive(Debug, Default)]
pub(crate) struct KnownLog {
    /// The id of the log's topic.
    pub(crate) topic_id: Option<String>,
    /// The largest end seen.
    end: Option<i64>,
    /// The offsets at which a leader epoch began, ascending.
    epochs: VecDeque<(i64, i32)>,
    /// The last offset that this process committed: the broker forgets the group's when it deletes a topic.
    pub(crate) committed: Option<i64>,
}

impl KnownLog {
    /// Updates the largest end seen.
    pub(crate) fn saw_end(&mut self, end: i64) {
        self.end = self.end.max(Some(end));
    }

    /// The largest end seen.
    pub(crate) fn end(&self) -> Option<i64> {
        self.end
    }

    /// Adds the leader epoch of a record that was read.
    pub(crate) fn saw_epoch(&mut self, offset: i64, epoch: i32) {
        if self.epochs.back().is_none_or(|&(_, last)| last != epoch) {
            self.epochs.push_back((offset, epoch));
        }
    }

    /// The epoch of the record before this offset.
    pub(crate) fn epoch_before(&self, next: i64) -> Option<i32> {
        let before = self.epochs.iter().rev().find(|&&(first, _)| first < next);
        before.map(|&(_, epoch)| epoch)
    }

    /// Removes the epochs that are not needed for offsets from `next` on.
    pub(crate) fn forget_epochs_before(&mut self, next: i64) {
        while self.epochs.get(1).is_some_and(|&(first, _)| first < next) {
            self.epochs.pop_front();
        }
    }

    /// Resets the epochs to that of a start: it describes the record before the start.
    pub(crate) fn starts_at(&mut self, position: LogPosition) {
        self.epochs.clear();
        if let Some(epoch) = position.epoch {
            self.epochs.push_back((position.offset - 1, epoch));
        }
    }
}

/// Partitions whose leaders did not answer, in the order of the last requests. They are asked after all others, because
/// the poll thread waits for each answer.
#[derive(Debug, Default)]
pub(super) struct AskedLast(Vec<i32>);

impl AskedLast {
    /// `partition` was asked; `others` have the same leader. It comes behind them, because it may be the only one that gets no
    /// answer.
    pub(super) fn add(&mut self, partition: i32, others: &[i32]) {
        self.0.retain(|known| *known != partition && !others.contains(known));
        self.0.extend(others.iter().filter(|other| **other != partition));
        self.0.push(partition);
    }

    pub(super) fn remove(&mut self, partition: i32) {
        self.0.retain(|&known| known != partition);
    }

    pub(super) fn sort<T>(&self, partitions: &mut [(i32, T)]) {
        partitions.sort_by_key(|(partition, _)| self.0.iter().position(|known| known == partition));
    }
}

impl PollState {
    /// Applies a command to the state.
    pub(super) fn apply(&mut self, command: Command) {
        match command {
            Command::Written(offsets) => {
                for (partition, offset) in offsets.iter() {
                    if !self.commits.written(partition, offset) {
                        tracing::debug!(
                            partition,
                            next = offset.next,
                            "written after the partition was revoked: not committed"
                        );
                    }
                }
            }
            Command::CommitSoon => self.commit_soon = true,
            Command::Account(answer) => self.account_answered(*answer),
            Command::Halt => self.halted = true,
            Command::Stop => self.stage = self.stage.max(Stage::Stop),
            Command::Close => self.stage = Stage::Close,
        }
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_stopping(&self) -> bool {
        self.stage >= Stage::Stop
    }

    /// Whether the topic's present id is not the one that this client learned first. Start offsets are then left to the next
    /// client, because this one also keeps the id of the cluster that it found first.
    pub(super) fn is_another_topic(&mut self, id: &str) -> bool {
        self.is_recreated |= self.topic_id.get_or_insert_with(|| id.to_owned()) != id;
        self.is_recreated
    }

    /// Compares the topic's present id with the known ones. If it is not the id that this client learned first, or the
    /// id under which its partitions are read, the client has to be replaced.
    pub(super) fn topic_has(&mut self, id: &str) {
        // A member without partitions learns only here that the topic exists.
        self.topic_is_missing = false;
        self.is_another_topic(id);
        for number in self.partitions_that(|partition| partition.next_offset().is_some()) {
            let known = &mut self.log(number).topic_id;
            self.is_recreated |= known.get_or_insert_with(|| id.to_owned()) != id;
        }
        for (number, log) in &mut self.logs {
            // Another member reads this log now. If the topic is created again, what is lost is not known here.
            if log.topic_id.as_deref() == Some(id) && !self.partitions.contains_key(number) {
                (log.end, log.committed) = (None, None);
            }
        }
    }

    /// Whether the group may accept another client although librdkafka calls the error fatal. Under KIP-848 every refusal is
    /// fatal. And after a session timeout librdkafka 2.12 sends the commits that waited for the coordinator without the member
    /// id: the broker then takes a member with a `group.instance.id` for a second one of that name.
    pub(super) fn is_for_this_client(&self, code: RDKafkaErrorCode) -> bool {
        use RDKafkaErrorCode as Code;
        match code {
            Code::UnreleasedInstanceId | Code::GroupMaxSizeReached => true,
            Code::FencedInstanceId => self.is_lost,
            Code::GroupAuthorizationFailed => self.was_allowed,
            _ => false,
        }
    }

    /// Sets the reason to end; the first one stays.
    pub(super) fn fail(&mut self, error: SourceError) {
        self.failed.get_or_insert(error);
    }

    /// Adds a record to the pending records.
    pub(super) fn push(&mut self, record: Record) {
        let assignment = self.commits.assignment();
        let partition = record.position.partition;
        if let Some(owned) = self.partitions.get_mut(&partition) {
            owned.next = Some(record.position.offset + 1);
        }
        match self.pending.back_mut() {
            Some(chunk) if chunk.assignment == assignment => chunk.records.push(record),
            _ => self.pending.push_back(Chunk { records: vec![record], assignment }),
        }
    }

    /// Adds assigned partitions. They are not read until their starts are known.
    pub(super) fn assign(&mut self, partitions: &[i32]) {
        self.commits.assign(partitions.iter().copied());
        for &partition in partitions {
            self.partitions.insert(partition, Partition::default());
        }
        self.ask_at = None;
    }

    /// Removes revoked partitions.
    pub(super) fn revoke(&mut self, partitions: &[i32]) {
        self.commits.revoke(partitions.iter().copied());
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    /// The partitions whose state satisfies the predicate.
    pub(super) fn partitions_that(&self, predicate: impl Fn(&Partition) -> bool) -> Vec<i32> {
        let found = self.partitions.iter().filter(|(_, partition)| predicate(partition));
        found.map(|(&number, _)| number).collect()
    }

    pub(super) fn log(&mut self, partition: i32) -> &mut KnownLog {
        self.logs.entry(partition).or_default()
    }

    /// Marks partitions that librdkafka has stopped reading because their position was refused.
    pub(super) fn refused(&mut self, stalled: impl Iterator<Item = i32>) {
        for number in stalled {
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            if partition.reading != Reading::Reads {
                continue;
            }
            partition.reading =
                Reading::Refused(matching_refusal(&self.refusals, partition.next_offset()));
            self.ask_at = None;
        }
        self.refusals.clear();
    }

    /// The values for the metadata of a partition's commit.
    pub(super) fn metadata(&self, partition: i32) -> CommitMetadata {
        let topic_id = self.logs.get(&partition).and_then(|log| log.topic_id.clone());
        let claim = self.partitions.get(&partition).map(|partition| &partition.claim);
        let has_account = matches!(claim, Some(Claim::Owned(_)));
        let cluster = self.cluster.clone();
        CommitMetadata { cluster, topic_id, has_account, ..CommitMetadata::default() }
    }
}

/// Finds the refusal of a partition that was read up to `read`: librdkafka refuses exactly the position where it would read on.
/// Without one the broker is asked about the partition's own position. A refusal at another offset belongs to another
/// partition, or to a position that was not reached yet.
fn matching_refusal(refusals: &[(i64, Refusal)], read: Option<i64>) -> Refusal {
    let fitting = refusals.iter().filter(|&&(at, _)| Some(at) == read);
    let reasons = fitting.map(|&(_, refusal)| refusal);
    // Of two partitions at the same offset the one that reads the most again counts: a merge makes a second read harmless.
    let by_loss = |refusal: &Refusal| match *refusal {
        Refusal::NoSuchEpoch => i64::MIN,
        Refusal::Cut(at) => at,
        Refusal::OutOfRange => i64::MAX,
    };
    reasons.min_by_key(by_loss).unwrap_or(Refusal::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_the_epoch_of_the_record_before_it() {
        let mut log = KnownLog::default();
        for (offset, epoch) in [(10, 1), (11, 1), (15, 2), (16, 2), (20, 3)] {
            log.saw_epoch(offset, epoch);
        }
        assert_eq!(log.epoch_before(10), None);
        assert_eq!(log.epoch_before(12), Some(1));
        assert_eq!(log.epoch_before(15), Some(1));
        log.forget_epochs_before(15);
        assert_eq!(log.epoch_before(15), Some(1));
        log.forget_epochs_before(17);
        assert_eq!(log.epoch_before(16), Some(2));
        assert_eq!(log.epoch_before(30), Some(3));
        log.starts_at(LogPosition { offset: 7, epoch: Some(2) });
        assert_eq!((log.epoch_before(7), log.epoch_before(6)), (Some(2), None));
        log.starts_at(LogPosition::unproved(7));
        assert_eq!(log.epoch_before(7), None);
    }

    #[test]
    fn a_leader_that_does_not_answer_is_asked_last() {
        let order = |last: &AskedLast| {
            let mut asked = [(0, ()), (1, ()), (2, ()), (3, ()), (4, ())];
            last.sort(&mut asked);
            asked.map(|(partition, ())| partition)
        };
        let mut last = AskedLast::default();
        last.add(0, &[0, 1]);
        assert_eq!(order(&last), [2, 3, 4, 1, 0]);
        last.add(3, &[]);
        assert_eq!(order(&last), [2, 4, 1, 0, 3]);
        last.add(0, &[0, 1]);
        assert_eq!(order(&last), [2, 4, 3, 1, 0]);
        last.remove(0);
        assert_eq!(order(&last), [0, 2, 4, 3, 1]);
    }

    #[test]
    fn what_another_member_reads_is_not_known_to_be_lost() {
        let mut state = PollState::default();
        state.assign(&[0, 1, 2]);
        for number in 0..3 {
            let log = state.log(number);
            (log.topic_id, log.committed) = (Some("old".to_owned()), Some(60));
            log.saw_end(100);
        }
        state.revoke(&[1]);
        state.topic_has("old");
        // The broker takes the partitions of a deleted topic away; nobody else has them before it is created again.
        state.revoke(&[0]);
        state.topic_has("new");
        let known = |number| {
            let log = &state.logs[&number];
            (log.topic_id.as_deref(), log.committed, log.end())
        };
        assert_eq!(known(0), (Some("old"), Some(60), Some(100)));
        assert_eq!(known(1), (Some("old"), None, None));
        assert_eq!(known(2), (Some("old"), Some(60), Some(100)));
    }

    #[test]
    fn a_refusal_belongs_to_the_partition_that_was_there() {
        let refusals = [(30, Refusal::Cut(10)), (40, Refusal::Cut(20)), (50, Refusal::NoSuchEpoch)];
        assert_eq!(matching_refusal(&refusals, Some(30)), Refusal::Cut(10));
        assert_eq!(matching_refusal(&refusals, Some(40)), Refusal::Cut(20));
        for other in [20, 45, 55] {
            assert_eq!(matching_refusal(&refusals, Some(other)), Refusal::OutOfRange, "{other}");
        }
        assert_eq!(matching_refusal(&refusals, None), Refusal::OutOfRange);
        assert_eq!(matching_refusal(&[], Some(30)), Refusal::OutOfRange);
    }
}
