//! What is outside of the ingester: a topic with its group, a table and a dead-letter topic; and what must always hold
//! of them. Every broken promise is kept as the violation that fails the schedule.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use enrich::{ExitHistory, TfaRules, TorRules};
use model::{EventIdentity, Position, Publication, PublicationId};
use store::{Recorded, WaitCause};

use super::rng::Rng;
use crate::decode::DecodeRules;
use crate::pipeline::evaluate::{Evaluator, Outcome};
use crate::record::Record;

/// Partitions of the topic.
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

/// The rules of every process.
pub(super) fn evaluator() -> Evaluator {
    EVALUATOR.clone()
}

/// What must become of a record.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Row(Publication),
    /// A row that the table refuses for its data.
    RefusedRow(Publication),
    Rejected,
    Skipped,
}

/// A record that was ever in the topic, and what became of it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) expected: Expected,
    /// Retention, or the end of its topic, took it before it was written: it need not be written any more.
    pub(super) is_optional: bool,
    /// How often it was read, by whoever.
    pub(super) deliveries: u32,
    /// How often it was in a batch that was written.
    pub(super) batched: u32,
    /// Whether its row is in the table, or merged there.
    pub(super) is_in_table: bool,
    pub(super) dead_letters: u32,
    /// Dead letters that were written and not acknowledged.
    pub(super) unacknowledged: u32,
}

impl Made {
    /// Whether an offset behind it may be committed.
    fn is_done(&self) -> bool {
        match self.expected {
            Expected::Row(_) => self.is_in_table,
            Expected::RefusedRow(_) | Expected::Rejected => self.dead_letters > 0,
            Expected::Skipped => self.deliveries > 0,
        }
    }
}

/// A partition: the records that it holds, by their offset.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) low: i64,
    /// The record at each offset from 0, those that are deleted among them.
    records: Vec<usize>,
}

impl Log {
    pub(super) fn high(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap()
    }

    pub(super) fn at(&self, offset: i64) -> usize {
        self.records[usize::try_from(offset).unwrap()]
    }
}

/// An offset of the group, and the topic id that its metadata names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) next: i64,
    pub(super) topic_id: u32,
}

/// A commit on its way to the coordinator.
#[derive(Debug, Clone)]
pub(super) struct CommitRequest {
    pub(super) generation: u64,
    pub(super) topic_id: u32,
    pub(super) offsets: Vec<(i32, i64)>,
}

/// How the table answers everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableMode {
    Serves,
    Away,
    Refuses,
}

/// What happens to one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteFault {
    /// It fails, and nothing is written.
    Fails(WaitCause),
    /// It is written, and the answer is lost.
    AnswerLost,
    /// It takes some seconds.
    Slow,
    /// It never ends.
    Endless,
}

/// The table as it was, to be put back.
#[derive(Debug, Clone)]
pub(super) struct Backup {
    rows: BTreeMap<PublicationId, Publication>,
    in_table: Vec<bool>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) made: Vec<Made>,
    by_identity: HashMap<EventIdentity, usize>,
    pub(super) topic_id: u32,
    pub(super) logs: Vec<Log>,
    pub(super) committed: Vec<Option<Committed>>,
    /// The group's generation: it refuses commits of an earlier one.
    pub(super) generation: u64,
    pub(super) is_coordinator_silent: bool,
    rows: BTreeMap<PublicationId, Publication>,
    pub(super) mode: TableMode,
    pub(super) faults: Vec<WriteFault>,
    pub(super) dead_letters_away: bool,
    pub(super) lost_acknowledgements: u32,
    pub(super) violation: Option<String>,
}

/// The world, shared by the schedule, the source and the processes.
pub(super) type Shared = Arc<Mutex<World>>;

pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

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
            mode: TableMode::Serves,
            faults: Vec::new(),
            dead_letters_away: false,
            lost_acknowledgements: 0,
            violation: None,
        }
    }

    /// Keeps the first broken promise.
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

    /// Produces a record of a random kind. A package stays in one partition.
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
            Outcome::Skip(_) => Expected::Skipped,
        };
        if let Expected::Row(row) | Expected::RefusedRow(row) = &expected {
            self.by_identity.insert(row.identity, number);
        }
        self.made.push(Made {
            record,
            expected,
            is_optional: false,
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

    /// Retention deletes records up to this offset.
    pub(super) fn delete_before(&mut self, partition: i32, low: i64) {
        let log = self.log_mut(partition);
        let from = log.low;
        log.low = low.max(from);
        for offset in from..low {
            let number = self.log(partition).at(offset);
            self.gone(number);
        }
    }

    /// The topic is deleted and made again, and with it the group's offsets.
    pub(super) fn recreate_topic(&mut self) {
        for partition in 0..PARTITIONS {
            self.delete_before(partition, self.log(partition).high());
            *self.log_mut(partition) = Log::default();
        }
        self.committed.fill(None);
        self.topic_id += 1;
    }

    /// A log loses its end, as after an unclean leader election, and grows again.
    pub(super) fn cut(&mut self, partition: i32, high: i64) {
        let cut = self.log_mut(partition).records.split_off(usize::try_from(high).unwrap());
        cut.into_iter().for_each(|number| self.gone(number));
    }

    fn gone(&mut self, number: usize) {
        let made = &mut self.made[number];
        made.is_optional |= !made.is_done();
    }

    /// A record is read.
    pub(super) fn read(&mut self, partition: i32, offset: i64) -> Record {
        let number = self.log(partition).at(offset);
        self.made[number].deliveries += 1;
        self.made[number].record.clone()
    }

    /// The coordinator takes a commit, or refuses it.
    pub(super) fn commit(&mut self, request: &CommitRequest) {
        if request.generation != self.generation {
            return;
        }
        for &(partition, next) in &request.offsets {
            let to = Committed { next, topic_id: request.topic_id };
            let before = self.committed(partition);
            if request.topic_id == self.topic_id {
                self.check_commit(partition, before, next);
            }
            self.committed[usize::try_from(partition).unwrap()] = Some(to);
        }
    }

    fn check_commit(&mut self, partition: i32, before: Option<Committed>, next: i64) {
        let (low, high) = (self.log(partition).low, self.log(partition).high());
        let before = before.filter(|before| before.topic_id == self.topic_id);
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

    /// The record whose row this is.
    fn number(&self, row: &Publication) -> Option<usize> {
        self.by_identity.get(&row.identity).copied()
    }

    /// The rows are in a batch that is written from now on.
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

    /// Whether the table refuses a row of these for its data.
    pub(super) fn refuses(&self, rows: &[Publication]) -> bool {
        let numbers = rows.iter().filter_map(|row| self.number(row));
        numbers.into_iter().any(|it| matches!(self.made[it].expected, Expected::RefusedRow(_)))
    }

    /// How many rows became dead letters because the table refused them.
    pub(super) fn refused_rows(&self) -> u64 {
        let is_refused = |made: &&Made| {
            matches!(made.expected, Expected::RefusedRow(_)) && made.dead_letters > 0
        };
        self.made.iter().filter(is_refused).count() as u64
    }

    /// A dead letter is written.
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
        Backup { rows: self.rows.clone(), in_table }
    }

    /// The table is put back to an earlier state.
    pub(super) fn put_back(&mut self, backup: Backup) {
        self.rows = backup.rows;
        let in_table = backup.in_table.into_iter().chain(std::iter::repeat(false));
        for (made, is_in_table) in self.made.iter_mut().zip(in_table) {
            made.is_in_table = is_in_table;
        }
    }

    /// What must hold when everything was read to its end.
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
