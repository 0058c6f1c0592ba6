//! The world outside of the ingester: a topic with its group, a table and a dead-letter topic, with the checks of the
//! invariants. The first violation fails the schedule.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use enrich::{ExitHistory, TfaRules, TorRules};
use model::{EventIdentity, Position, Publication, PublicationId};
use parking_lot::Mutex;
use store::{Account, Advance, DatabaseId, Recorded, TablePosition, WaitCause};

use super::rng::Rng;
use super::schedule::Kind;
use super::topic::{Expected, Log, Made};
use crate::decode::DecodeRules;
use crate::pipeline::evaluate::{Evaluator, Outcome};
use crate::record::Record;

/// The number of partitions of the topic.
pub(super) const PARTITIONS: i32 = 3;

static TOPIC: LazyLock<Arc<str>> = LazyLock::new(|| "events".into());
static EVALUATOR: LazyLock<Evaluator> = LazyLock::new(|| Evaluator {
    decode: DecodeRules {
        ecosystem: "npm".into(),
        event_type: "published".into(),
        max_event_bytes: 1 << 10,
    },
    history: Arc::new(ExitHistory::new(TorRules::default())),
    tfa: TfaRules::default(),
    generation: 0,
});

/// The evaluator of every process.
pub(super) fn evaluator() -> Evaluator {
    EVALUATOR.clone()
}

/// A committed offset of the group, with the topic id in its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) next: i64,
    pub(super) epoch: Option<i32>,
    pub(super) topic_id: u32,
    /// The partition's stamp (see `World::stamps`) when the commit was sent.
    stamp: u32,
}

/// A commit on its way to the coordinator.
#[derive(Debug, Clone)]
pub(super) struct CommitRequest {
    generation: u64,
    partition: i32,
    to: Committed,
}

/// How the table answers all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableMode {
    Serves,
    Away,
    Refuses,
}

/// A fault of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteFault {
    /// The write fails and changes nothing.
    Fails(WaitCause),
    /// The write succeeds, but the answer is lost.
    AnswerLost,
    /// The write takes up to eight seconds.
    Slow,
    /// The write never ends.
    Endless,
}

/// An earlier state of the table, to be restored.
#[derive(Debug, Clone)]
pub(super) struct Backup {
    rows: BTreeMap<PublicationId, Publication>,
    in_table: Vec<bool>,
    accounts: Accounts,
}

/// By topic id and partition.
type Accounts = BTreeMap<(u32, i32), Account>;

#[derive(Debug)]
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) made: Vec<Made>,
    by_identity: HashMap<EventIdentity, usize>,
    pub(super) topic_id: u32,
    pub(super) logs: Vec<Log>,
    pub(super) committed: Vec<Option<Committed>>,
    /// The group's generation; the group refuses commits of an earlier one.
    pub(super) generation: u64,
    pub(super) is_coordinator_silent: bool,
    rows: BTreeMap<PublicationId, Publication>,
    accounts: Accounts,
    /// The number of the table's database; it changes when the table is restored.
    database: u32,
    /// By partition, how often the table or the log went back.
    stamps: Vec<u32>,
    pub(super) mode: TableMode,
    /// Faults of the next writes, the last first.
    pub(super) faults: Vec<(WriteFault, Kind)>,
    pub(super) dead_letters_away: bool,
    pub(super) lost_acknowledgements: u32,
    /// How often each kind happened.
    pub(super) kinds: Vec<u64>,
    pub(super) violation: Option<String>,
}

/// The world, shared by the schedule, the member and its process.
pub(super) type Shared = Arc<Mutex<World>>;

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed ^ 0x5151),
            made: Vec::new(),
            by_identity: HashMap::new(),
            topic_id: 1,
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            committed: vec![None; usize::try_from(PARTITIONS).unwrap()],
            generation: 0,
            is_coordinator_silent: false,
            rows: BTreeMap::new(),
            accounts: Accounts::new(),
            database: 0,
            stamps: vec![0; usize::try_from(PARTITIONS).unwrap()],
            mode: TableMode::Serves,
            faults: Vec::new(),
            dead_letters_away: false,
            lost_acknowledgements: 0,
            kinds: vec![0; Kind::ALL.len()],
            violation: None,
        }
    }

    pub(super) fn happened(&mut self, kind: Kind) {
        self.kinds[kind as usize] += 1;
    }

    /// The fault of the write that begins now.
    pub(super) fn next_fault(&mut self) -> Option<WriteFault> {
        let (fault, kind) = self.faults.pop()?;
        self.happened(kind);
        Some(fault)
    }

    /// Records the first violation.
    pub(super) fn violated(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert_with(|| what.into());
    }

    pub(super) fn log(&self, partition: i32) -> &Log {
        &self.logs[usize::try_from(partition).unwrap()]
    }

    pub(super) fn log_mut(&mut self, partition: i32) -> &mut Log {
        &mut self.logs[usize::try_from(partition).unwrap()]
    }

    pub(super) fn committed(&self, partition: i32) -> Option<Committed> {
        self.committed[usize::try_from(partition).unwrap()]
    }

    /// Produces a record of a random kind. All records of a package are in one partition.
    pub(super) fn produce(&mut self) {
        let number = self.made.len();
        let package = i32::try_from(self.rng.below(9)).unwrap();
        let partition = package % PARTITIONS;
        let kind = self.rng.below(20);
        let value = match kind {
            0 => None,
            1 | 2 => Some(format!("{number} is not an event")),
            _ => Some(self.event(number, package, kind == 3)),
        };
        let offset = self.log(partition).high();
        let record = Record {
            position: Position { topic: TOPIC.clone(), partition, offset },
            timestamp: None,
            key: Some(number.to_string().into()),
            value: value.map(Into::into),
            headers: Vec::new(),
        };
        let expected = match EVALUATOR.evaluate(&record) {
            Outcome::Row(row) if kind == 3 => Expected::RefusedRow(row),
            Outcome::Row(row) => Expected::Row(row),
            Outcome::Reject(_) => Expected::Rejected,
            Outcome::Skip => Expected::Skipped,
        };
        if let Expected::Row(row) | Expected::RefusedRow(row) = &expected {
            self.by_identity.insert(row.identity, number);
        }
        self.made.push(Made {
            record,
            expected,
            is_optional: false,
            is_gone: false,
            deliveries: 0,
            batched: 0,
            is_in_table: false,
            dead_letters: 0,
            unacknowledged: 0,
        });
        self.log_mut(partition).records.push(number);
    }

    fn event(&mut self, number: usize, package: i32, is_refused: bool) -> String {
        let (version, revision) = (self.rng.below(3), self.rng.below(2));
        let (user, hour) = (self.rng.below(3), 10 + self.rng.below(3));
        let name = if is_refused { "refused" } else { "p" };
        format!(
            r#"{{"specversion":"1.0","id":"{number}","source":"s","type":"published","data":{{"package":{{"ecosystem":"npm","name":"{name}{package}","version":"{version}"}},"publishedAt":"2022-03-01T{hour}:00:00Z","revision":{revision},"actor":{{"username":"u{user}"}}}}}}"#
        )
    }

    /// Retention deletes the records before this offset.
    pub(super) fn delete_before(&mut self, partition: i32, low: i64) {
        let log = self.log_mut(partition);
        let from = log.low;
        log.low = low.max(from);
        for offset in from..low {
            let number = self.log(partition).at(offset);
            self.gone(number);
        }
    }

    /// The topic is deleted and created again, which deletes the group's offsets.
    pub(super) fn recreate_topic(&mut self) {
        for partition in 0..PARTITIONS {
            self.delete_before(partition, self.log(partition).high());
            *self.log_mut(partition) = Log::default();
        }
        self.committed.fill(None);
        self.topic_id += 1;
    }

    /// The log is truncated at `high`, as by an unclean leader election.
    pub(super) fn cut(&mut self, partition: i32, high: i64) {
        let log = self.log_mut(partition);
        let epoch = log.epoch() + 1;
        log.epochs.retain(|&(first, _)| first < high);
        log.epochs.push((high, epoch));
        let cut = log.records.split_off(usize::try_from(high).unwrap());
        self.stamps[usize::try_from(partition).unwrap()] += 1;
        cut.into_iter().for_each(|number| self.gone(number));
    }

    fn gone(&mut self, number: usize) {
        let made = &mut self.made[number];
        made.is_gone = true;
        made.is_optional |= !made.is_done();
    }

    /// Reads a record.
    pub(super) fn read(&mut self, partition: i32, offset: i64) -> Record {
        let number = self.log(partition).at(offset);
        self.made[number].deliveries += 1;
        self.made[number].record.clone()
    }

    /// The coordinator accepts a commit, or refuses it.
    pub(super) fn commit(&mut self, request: &CommitRequest) {
        let &CommitRequest { generation, partition, to } = request;
        if generation != self.generation {
            return;
        }
        let before = self.committed(partition);
        // A commit that was sent before the table or the log went back is not an error.
        if to.topic_id == self.topic_id && to.stamp == self.stamp(partition) {
            self.check_commit(partition, before, to.next);
        }
        self.committed[usize::try_from(partition).unwrap()] = Some(to);
    }

    pub(super) fn stamp(&self, partition: i32) -> u32 {
        self.stamps[usize::try_from(partition).unwrap()]
    }

    /// A commit of the present topic, sent now.
    pub(super) fn request(
        &self,
        partition: i32,
        next: i64,
        epoch: impl Into<Option<i32>>,
    ) -> CommitRequest {
        let (topic_id, stamp) = (self.topic_id, self.stamp(partition));
        let to = Committed { next, epoch: epoch.into(), topic_id, stamp };
        CommitRequest { generation: self.generation, partition, to }
    }

    /// The same commit for an earlier topic, or for a log or table that went back since.
    pub(super) fn outdated(request: CommitRequest, topic_id: u32) -> CommitRequest {
        CommitRequest { to: Committed { topic_id, stamp: u32::MAX, ..request.to }, ..request }
    }

    pub(super) fn database(&self) -> DatabaseId {
        DatabaseId(self.database.to_string())
    }

    /// Makes `owner` the owner of an account, and returns the account's position.
    pub(super) fn claim(&mut self, key: (u32, i32), owner: &str) -> Option<TablePosition> {
        let new = Account { partition: key.1, owner: owner.into(), position: None };
        let account = self.accounts.entry(key).or_insert(new);
        account.owner = owner.into();
        account.position.clone()
    }

    /// Stores a position by the store's rules, and returns the account from before.
    pub(super) fn advance(&mut self, topic_id: u32, asked: &Advance) -> Option<Account> {
        let is_same = asked.database == self.database();
        let account = self.accounts.get_mut(&(topic_id, asked.partition))?;
        let before = account.clone();
        let stood = before.position.as_ref().map(|position| position.next_offset);
        if is_same && account.owner == asked.owner && stood >= asked.at_least {
            account.position = Some(asked.to.clone());
        }
        Some(before)
    }

    /// Stores a position for another member.
    pub(super) fn put_account(&mut self, key: (u32, i32), next_offset: i64, epoch: i32) {
        if let Some(account) = self.accounts.get_mut(&key) {
            let leader_epoch = Some(epoch);
            account.position = Some(TablePosition { next_offset, leader_epoch, evidence: None });
        }
    }

    fn check_commit(&mut self, partition: i32, before: Option<Committed>, next: i64) {
        let (low, high) = (self.log(partition).low, self.log(partition).high());
        let before = before.filter(|before| {
            before.topic_id == self.topic_id && before.stamp == self.stamp(partition)
        });
        let first = before.map_or(0, |before| before.next);
        if next > high {
            self.violated(format!("{partition}: committed {next}, behind the end of the log"));
            return;
        }
        if next < first {
            self.violated(format!("{partition}: the commit moved back from {first} to {next}"));
        }
        for offset in first.max(low)..next {
            let number = self.log(partition).at(offset);
            if !self.made[number].is_done() {
                self.violated(format!(
                    "{partition}: committed {next}, and {offset} is not written"
                ));
            }
        }
    }

    /// The number of the row's record.
    fn number(&self, row: &Publication) -> Option<usize> {
        self.by_identity.get(&row.identity).copied()
    }

    /// Counts the rows as part of a batch that is written now.
    pub(super) fn batched(&mut self, rows: &[Publication]) {
        for row in rows {
            let Some(number) = self.number(row) else {
                return self.violated("a row is written that no record has");
            };
            let made = &mut self.made[number];
            made.batched += 1;
            if made.batched > made.deliveries {
                self.violated(format!("record {number} is in more batches than it was read"));
            }
        }
    }

    /// Merges the rows into the table.
    pub(super) fn record(&mut self, rows: &[Publication]) -> Recorded {
        let mut recorded = Recorded::default();
        for row in rows {
            let Some(number) = self.number(row) else { continue };
            match &self.made[number].expected {
                Expected::Row(expected) if expected == row => {}
                expected => {
                    let what = format!("record {number}: {row:?} is written for {expected:?}");
                    return {
                        self.violated(what);
                        recorded
                    };
                }
            }
            self.made[number].is_in_table = true;
            match self.rows.remove(&row.id) {
                None => {
                    recorded.inserted += 1;
                    self.rows.insert(row.id.clone(), row.clone());
                }
                Some(before) => {
                    let merged = before.clone().merge(row.clone());
                    if merged == before {
                        recorded.unchanged += 1
                    } else {
                        recorded.updated += 1
                    };
                    self.rows.insert(row.id.clone(), merged);
                }
            }
        }
        recorded
    }

    /// Whether the table refuses one of these rows for its data.
    pub(super) fn refuses(&self, rows: &[Publication]) -> bool {
        let numbers = rows.iter().filter_map(|row| self.number(row));
        numbers.into_iter().any(|it| matches!(self.made[it].expected, Expected::RefusedRow(_)))
    }

    /// The number of dead letters of rows that the table refused.
    pub(super) fn refused_rows(&self) -> u64 {
        let is_refused = |made: &&Made| {
            matches!(made.expected, Expected::RefusedRow(_)) && made.dead_letters > 0
        };
        self.made.iter().filter(is_refused).count() as u64
    }

    /// Takes in a dead letter that was written.
    pub(super) fn dead_letter(&mut self, record: &Record, is_acknowledged: bool) {
        let key = record.key.as_deref().and_then(|key| str::from_utf8(key).ok()?.parse().ok());
        let Some(made) = key.and_then(|number: usize| self.made.get_mut(number)) else {
            return self.violated("a dead letter of no record");
        };
        made.dead_letters += 1;
        made.unacknowledged += u32::from(!is_acknowledged);
        if made.record != *record {
            self.violated("a dead letter is not its record");
        }
    }

    pub(super) fn back_up(&self) -> Backup {
        let in_table = self.made.iter().map(|made| made.is_in_table).collect();
        Backup { rows: self.rows.clone(), in_table, accounts: self.accounts.clone() }
    }

    /// Restores an earlier state of the table.
    pub(super) fn put_back(&mut self, backup: Backup) {
        self.rows = backup.rows;
        self.accounts = backup.accounts;
        self.database += 1;
        self.stamps.iter_mut().for_each(|stamp| *stamp += 1);
        let in_table = backup.in_table.into_iter().chain(std::iter::repeat(false));
        for (made, is_in_table) in self.made.iter_mut().zip(in_table) {
            made.is_in_table = is_in_table;
            // The record can no longer be read again.
            made.is_optional |= made.is_gone && !made.is_done();
        }
    }

    /// Checks the invariants of the end, when everything was read.
    pub(super) fn check_end(&mut self) {
        for number in 0..self.made.len() {
            let made = &self.made[number];
            let at = &made.record.position;
            let at = format!("{number} ({} {})", at.partition, at.offset);
            if !made.is_optional && !made.is_done() {
                let what = format!("record {at} is lost: {:?}", made.expected);
                self.violated(what);
            } else if made.dead_letters > made.deliveries + made.unacknowledged {
                self.violated(format!("record {at} has too many dead letters"));
            } else if made.dead_letters > 0
                && matches!(made.expected, Expected::Row(_) | Expected::Skipped)
            {
                self.violated(format!("record {at} has a dead letter and was not rejected"));
            }
        }
        let written: Vec<_> = self
            .made
            .iter()
            .filter(|made| made.is_in_table)
            .filter_map(|made| match &made.expected {
                Expected::Row(row) => Some(row.clone()),
                _ => None,
            })
            .collect();
        let merged: BTreeMap<_, _> = model::merge_all(&written)
            .into_iter()
            .map(|row| (row.id.clone(), row.into_owned()))
            .collect();
        if merged != self.rows {
            self.violated("the rows are not what the merge rule makes of the records");
        }
    }
}
