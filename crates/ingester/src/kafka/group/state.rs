//! What the poll thread knows: the partitions that are assigned, what is to be committed, what is pending.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::account::{Answer, Claim};
use super::commit::CommitQueue;
use super::start_offsets::{Gap, LogPosition, Refusal};
use crate::kafka::commit_metadata::CommitMetadata;
use crate::kafka::observe::GroupWait;
use crate::pipeline::ports::{Chunk, SourceError, WrittenOffsets};
use crate::record::Record;

/// What the rest of the ingester says to the poll thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Everything before these offsets is written.
    Written(WrittenOffsets),
    /// Commit as soon as possible.
    CommitSoon,
    /// What the database says of the account.
    Account(Box<Answer>),
    /// Read nothing more, and stay in the group.
    Halt,
    /// Read nothing more, hand over what was read, and end.
    Stop,
    /// Commit and leave the group.
    Close,
}

/// Everything that changes, of the poll thread and of librdkafka's callbacks.
///
/// There is one lock around it because the callbacks (rebalances, statistics, errors) get the consumer's context by a
/// shared reference. They run on the poll thread too, inside `poll`: so nobody ever waits for the lock, and it must not
/// be held over a call of librdkafka's.
#[derive(Debug)]
pub(super) struct PollState {
    pub(super) commands: Receiver<Command>,
    pub(super) commits: CommitQueue,
    /// The partitions that are assigned.
    pub(super) partitions: BTreeMap<i32, Partition>,
    /// What is remembered of partitions, the revoked ones too.
    pub(super) logs: BTreeMap<i32, KnownLog>,
    /// Records that were read and not yet handed over, by the assignment they were read under.
    pub(super) pending: VecDeque<Chunk>,
    /// How far the commands have led.
    pub(super) stage: Stage,
    pub(super) halted: bool,
    pub(super) commit_soon: bool,
    /// Positions are being written into the account.
    pub(super) is_storing: bool,
    /// Positions were written into the account, and may be committed.
    pub(super) commit_stored: bool,
    /// Partitions whose account does not say what was written last.
    pub(super) doubted: BTreeSet<i32>,
    /// The loop takes nothing: no partition is read.
    pub(super) is_full: bool,
    /// The cluster's id, where the broker says one.
    pub(super) cluster: Option<String>,
    /// The broker knows no such topic.
    pub(super) topic_is_missing: bool,
    /// librdkafka stopped reading some partition; the next statistics say which.
    pub(super) asked_for_start: bool,
    /// Where librdkafka refused positions, and why; it does not say of which partitions.
    pub(super) refusals: Vec<(i64, Refusal)>,
    /// The first offsets of batches that cannot be read; librdkafka does not say of which partitions.
    pub(super) unreadable: BTreeSet<i64>,
    /// Gaps that were told, by partition, until an offset behind them is committed.
    pub(super) reported: BTreeMap<i32, Gap>,
    /// When start offsets may be asked for again.
    pub(super) ask_at: Instant,
    /// What librdkafka said last about a broker.
    pub(super) trouble: String,
    /// Why the group does not take this member, in librdkafka's words.
    pub(super) group_trouble: Option<String>,
    /// Since when the group has no coordinator although a broker is connected.
    pub(super) coordinator_away: Option<Instant>,
    /// Since when no broker is connected.
    pub(super) unconnected: Option<Instant>,
    /// Since when the member has been joining, without a partition.
    pub(super) joining: Option<Instant>,
    /// Whether the broker, where it assigns, has taken the member: librdkafka says so only of one that was given something.
    pub(super) is_taken: bool,
    /// Since when partitions have no leader.
    pub(super) leaderless: BTreeMap<i32, Instant>,
    /// What the observer was told and not yet that it is over.
    pub(super) told: BTreeSet<GroupWait>,
    /// Whether the broker has let us read: a right that is missing later was taken away, and may come back.
    pub(super) was_allowed: bool,
    /// Why the source cannot go on.
    pub(super) failed: Option<SourceError>,
}

/// How far the poll thread is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Read.
    Read,
    /// Hand over what was read.
    Stop,
    /// Leave the group.
    Close,
}

/// A partition that is assigned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) reading: Reading,
    /// The start that was chosen last.
    pub(super) start: Option<LogPosition>,
    /// The offset after the last record that was read since.
    pub(super) next: Option<i64>,
    /// The evidence fingerprint that was committed last.
    pub(super) settled_by: Option<String>,
    /// Whether the account is ours.
    pub(super) claim: Claim,
    /// Where the account was doubted: the position up to which it was right.
    pub(super) proved: Option<LogPosition>,
}

impl Partition {
    /// The offset that is read next; none before the first start.
    pub(super) fn next_offset(&self) -> Option<i64> {
        self.next.or(self.start.map(|start| start.offset))
    }
}

/// Whether a partition is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// Paused: its start is not known.
    #[default]
    NoStart,
    /// Paused, and without a position that librdkafka would read from, because this one was refused.
    Refused(Refusal),
    /// Paused: its start is known, and librdkafka has not taken it yet. Since when.
    Starts(LogPosition, Instant),
    /// It is read, or paused with all others while the loop is full.
    Reads,
}

/// What is remembered of a partition's log.
#[derive(Debug, Default)]
pub(crate) struct KnownLog {
    /// The id of the topic that it is of.
    pub(crate) topic_id: Option<String>,
    /// The greatest end that was seen.
    end: Option<i64>,
    /// The offsets at which a leader epoch began, ascending.
    epochs: VecDeque<(i64, i32)>,
    /// The last offset we committed: a broker forgets the group's when it deletes a topic.
    pub(crate) committed: Option<i64>,
}

impl KnownLog {
    /// An end was seen.
    pub(crate) fn saw_end(&mut self, end: i64) {
        self.end = self.end.max(Some(end));
    }

    /// The greatest end that was seen.
    pub(crate) fn end(&self) -> Option<i64> {
        self.end
    }

    /// A record was read that the leader of this epoch wrote.
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

    /// Nobody asks for epochs before this offset any more.
    pub(crate) fn forget_epochs_before(&mut self, next: i64) {
        while self.epochs.get(1).is_some_and(|&(first, _)| first < next) {
            self.epochs.pop_front();
        }
    }

    /// A start with an epoch says as much as a record.
    pub(crate) fn starts_at(&mut self, position: LogPosition) {
        self.epochs.clear();
        if let Some(epoch) = position.epoch {
            self.epochs.push_back((position.offset - 1, epoch));
        }
    }
}

impl PollState {
    pub(super) fn new(commands: Receiver<Command>) -> Self {
        Self {
            commands,
            commits: CommitQueue::default(),
            partitions: BTreeMap::new(),
            logs: BTreeMap::new(),
            pending: VecDeque::new(),
            stage: Stage::Read,
            halted: false,
            commit_soon: false,
            is_storing: false,
            commit_stored: false,
            doubted: BTreeSet::new(),
            is_full: false,
            cluster: None,
            topic_is_missing: false,
            asked_for_start: false,
            refusals: Vec::new(),
            unreadable: BTreeSet::new(),
            reported: BTreeMap::new(),
            ask_at: Instant::now(),
            trouble: "it says nothing yet".to_owned(),
            group_trouble: None,
            coordinator_away: None,
            unconnected: None,
            joining: None,
            is_taken: false,
            leaderless: BTreeMap::new(),
            told: BTreeSet::new(),
            was_allowed: false,
            failed: None,
        }
    }

    /// Takes in what was said since the last time.
    pub(super) fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.take_in(command);
        }
    }

    pub(super) fn take_in(&mut self, command: Command) {
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

    /// The first failure counts.
    pub(super) fn fail(&mut self, error: SourceError) {
        self.failed.get_or_insert(error);
    }

    /// Adds a record to what is pending.
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

    /// Partitions came; nothing is read of them before their starts are known.
    pub(super) fn assign(&mut self, partitions: &[i32]) {
        self.commits.assign(partitions.iter().copied());
        for &partition in partitions {
            self.partitions.insert(partition, Partition::default());
        }
        self.ask_at = Instant::now();
    }

    /// Partitions went.
    pub(super) fn revoke(&mut self, partitions: &[i32]) {
        self.commits.revoke(partitions.iter().copied());
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    /// The partitions for which this holds.
    pub(super) fn partitions_that(&self, holds: impl Fn(&Partition) -> bool) -> Vec<i32> {
        let found = self.partitions.iter().filter(|(_, partition)| holds(partition));
        found.map(|(&number, _)| number).collect()
    }

    pub(super) fn log(&mut self, partition: i32) -> &mut KnownLog {
        self.logs.entry(partition).or_default()
    }

    /// librdkafka reads these partitions no more, for want of a position in the log.
    pub(super) fn refused(&mut self, stalled: impl Iterator<Item = i32>) {
        for number in stalled {
            let Some(partition) = self.partitions.get_mut(&number) else { continue };
            if partition.reading != Reading::Reads {
                continue;
            }
            partition.reading = Reading::Refused(why(&self.refusals, partition.next_offset()));
            self.ask_at = Instant::now();
        }
        self.refusals.clear();
    }

    /// What is committed beside the offset of a partition.
    pub(super) fn metadata(&self, partition: i32) -> CommitMetadata {
        let topic_id = self.logs.get(&partition).and_then(|log| log.topic_id.clone());
        let claim = self.partitions.get(&partition).map(|partition| &partition.claim);
        let has_account = matches!(claim, Some(Claim::Held(_)));
        let cluster = self.cluster.clone();
        CommitMetadata { cluster, topic_id, has_account, ..CommitMetadata::default() }
    }
}

/// Of what librdkafka said, the reason for a partition that was read up to here: what it said of this offset, else of one
/// before it, because records that it had fetched are read after it spoke. Where several fit, the one that reads most
/// again: what is read twice is merged.
fn why(refusals: &[(i64, Refusal)], read: Option<i64>) -> Refusal {
    let is_exact = refusals.iter().any(|&(at, _)| Some(at) == read);
    let fitting = refusals.iter().filter(
        |&&(at, _)| {
            if is_exact { Some(at) == read } else { Some(at) < read }
        },
    );
    let reasons = fitting.map(|&(_, refusal)| refusal);
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
    fn a_refusal_belongs_to_the_partition_that_was_there() {
        let refusals = [(30, Refusal::Cut(10)), (40, Refusal::Cut(20)), (50, Refusal::NoSuchEpoch)];
        assert_eq!(why(&refusals, Some(30)), Refusal::Cut(10));
        assert_eq!(why(&refusals, Some(40)), Refusal::Cut(20));
        assert_eq!(why(&refusals, Some(55)), Refusal::NoSuchEpoch, "all are before it");
        assert_eq!(why(&refusals, Some(45)), Refusal::Cut(10));
        assert_eq!(why(&refusals, Some(20)), Refusal::OutOfRange, "none fits");
        assert_eq!(why(&refusals, None), Refusal::OutOfRange);
        assert_eq!(why(&[], Some(30)), Refusal::OutOfRange);
    }
}
