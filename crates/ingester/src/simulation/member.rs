//! The group member that reads for a process: the poll thread's logic without a thread or a client, with the real queue
//! of written offsets and the real choice of start offsets.

use std::collections::BTreeMap;
use std::time::Duration;

use service::admin::{Health as _, Readiness, State};
use store::{Advance, DatabaseId, TablePosition};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::process::{Process, Queue};
use super::world::{CommitRequest, Committed, Shared, TableMode, World};
use crate::kafka::commit_metadata::CommitMetadata;
use crate::kafka::{AdvanceResult, Facts, KnownLog, LogPosition, Refusal, evaluate_advance};
use crate::pipeline::ports::{Chunk, SourceEvent};

/// How long a revocation waits for the loop.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a partition's reader.
#[derive(Debug, Default)]
struct Place {
    /// `None` until the start is known.
    position: Option<i64>,
    start: Option<LogPosition>,
    /// The topic that was read last.
    topic_id: Option<u32>,
    log: KnownLog,
    /// The leader epoch under which the position was last valid.
    validated: Option<i32>,
    account: Option<ClaimedAccount>,
    /// The world's stamp of the partition when the account was last written.
    stamp: u32,
    /// The position up to which the account was correct, if it was doubted.
    proved: Option<LogPosition>,
}

/// A claimed account.
#[derive(Debug)]
struct ClaimedAccount {
    topic_id: u32,
    owner: String,
    database: DatabaseId,
    position: Option<TablePosition>,
    at_least: Option<i64>,
    /// How often it was found to have another owner.
    foreign: u32,
}

pub(super) struct Member {
    world: Shared,
    pub(super) process: Process,
    places: BTreeMap<i32, Place>,
    /// Records that were read but not sent yet.
    pending: Option<Chunk>,
    /// Commits that were sent but have not arrived at the coordinator.
    sent: Vec<CommitRequest>,
    claims: u64,
}

/// The fate of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitFate {
    Arrives,
    Later,
    Lost,
}

impl Member {
    pub(super) fn join(world: &Shared) -> Self {
        let process = Process::start(world);
        let (places, sent) = (BTreeMap::new(), Vec::new());
        // Different members must have different owner tokens.
        let claims = world.lock().rng.below(1 << 40) << 20;
        Self { world: world.clone(), process, places, pending: None, sent, claims }
    }

    pub(super) fn owns(&self, partition: i32) -> bool {
        self.places.contains_key(&partition)
    }

    /// Assigns partitions.
    pub(super) fn assign(&mut self, partitions: &[i32]) {
        self.world.lock().generation += 1;
        self.process.queue.with(|queue| queue.assign(partitions.iter().copied()));
        for &partition in partitions {
            self.places.insert(partition, Place::default());
        }
        self.choose_start_offsets();
    }

    /// Chooses starts for partitions that have none, or whose topic was created again.
    pub(super) fn choose_start_offsets(&mut self) {
        let world = self.world.lock();
        if world.is_coordinator_silent {
            return;
        }
        let mut world = world;
        for (&partition, place) in &mut self.places {
            let is_other = place.topic_id.is_some_and(|id| id != world.topic_id);
            if place.position.is_some() && !is_other && place.proved.is_none() {
                continue;
            }
            self.claims += 1;
            if claim(&mut world, partition, place, self.claims) {
                choose_start(&world, partition, place, &self.process.queue, None);
            }
        }
    }

    /// Reads up to `most` records of each partition and sends them. `false`: the loop has ended, or takes no records now.
    pub(super) fn poll(&mut self, most: u64) -> bool {
        if self.pending.is_none() {
            self.read(most);
        }
        let Some(chunk) = self.pending.take() else { return true };
        match self.process.events.try_send(SourceEvent::Records(chunk)) {
            Ok(()) => true,
            Err(error) => {
                if let SourceEvent::Records(chunk) = error.into_inner() {
                    self.pending = Some(chunk);
                }
                false
            }
        }
    }

    fn read(&mut self, most: u64) {
        let mut world = self.world.lock();
        let mut records = Vec::new();
        for (&partition, place) in &mut self.places {
            // A fetch has the topic's id: a new topic is not read at an old position.
            if place.topic_id != Some(world.topic_id) || place.proved.is_some() {
                continue;
            }
            let Some(mut position) = place.position else { continue };
            let (low, high) = (world.log(partition).low, world.log(partition).high());
            if let Some(refusal) = refused(&world, partition, place) {
                if !world.is_coordinator_silent {
                    choose_start(&world, partition, place, &self.process.queue, Some(refusal));
                }
                continue;
            }
            debug_assert!((low..=high).contains(&position));
            let end = high.min(position + i64::try_from(most).unwrap());
            while position < end {
                place.log.saw_epoch(position, world.log(partition).epoch_at(position));
                records.push(world.read(partition, position));
                position += 1;
            }
            place.position = Some(position);
            place.validated = Some(world.log(partition).epoch());
            place.log.saw_end(high);
        }
        if !records.is_empty() {
            let assignment = self.process.queue.with(|queue| queue.assignment());
            self.pending = Some(Chunk { records, assignment });
        }
    }

    /// Whether everything was read and sent.
    pub(super) fn is_at_end(&self) -> bool {
        let world = self.world.lock();
        self.pending.is_none()
            && self.places.iter().all(|(&partition, place)| {
                place.topic_id == Some(world.topic_id)
                    && place.proved.is_none()
                    && place.position == Some(world.log(partition).high())
                    && refused(&world, partition, place).is_none()
                    && place.account.as_ref().is_some_and(|account| {
                        account.foreign == 0 && account.database == world.database()
                    })
            })
    }

    /// Commits the written offsets. A commit cannot overtake an earlier one, because they use one connection.
    pub(super) fn commit(&mut self, fate: CommitFate) {
        if fate == CommitFate::Arrives {
            self.commits_arrive();
        }
        self.store(false);
        let offsets = self.process.queue.with(|queue| queue.take());
        if offsets.is_empty() {
            return;
        }
        let mut world = self.world.lock();
        if world.is_coordinator_silent && fate == CommitFate::Arrives {
            return self.process.queue.with(|queue| queue.not_sent(&offsets));
        }
        // Each partition is committed for the topic that was read; they differ only while a new topic is being detected.
        for (partition, next) in offsets {
            let Some(topic_id) = self.places.get(&partition).and_then(|place| place.topic_id)
            else {
                continue;
            };
            let Some(place) = self.places.get(&partition) else { continue };
            let mut request = world.request(partition, next, place.log.epoch_before(next));
            let is_cut = place.validated != Some(world.log(partition).epoch());
            if is_cut || place.stamp != world.stamp(partition) || topic_id != world.topic_id {
                request = World::outdated(request, topic_id);
            }
            match fate {
                CommitFate::Arrives => world.commit(&request),
                CommitFate::Later => self.sent.push(request),
                CommitFate::Lost => {}
            }
        }
    }

    /// Stores the written offsets in the account; with `all` also those that did not change.
    pub(super) fn store(&mut self, all: bool) {
        let mut world = self.world.lock();
        if world.mode != TableMode::Serves {
            return;
        }
        for (partition, since, next) in self.process.queue.with(|queue| queue.to_store(all)) {
            let Some(place) = self.places.get_mut(&partition) else { continue };
            let leader_epoch = place.log.epoch_before(next);
            let Some(account) = place.account.as_mut().filter(|_| place.proved.is_none()) else {
                continue;
            };
            let asked = Advance {
                partition,
                owner: account.owner.clone(),
                database: account.database.clone(),
                at_least: account.at_least,
                to: TablePosition { next_offset: next, leader_epoch, evidence: None },
            };
            let before = world.advance(account.topic_id, &asked);
            match evaluate_advance(&asked, &world.database(), before.as_ref()) {
                // The answer is lost; the position is stored again later.
                AdvanceResult::Stored if world.rng.below(10) == 0 => {}
                AdvanceResult::Stored => {
                    account.at_least = Some(next);
                    account.foreign = 0;
                    place.stamp = world.stamp(partition);
                    self.process.queue.with(|queue| queue.stored(partition, since, next));
                }
                AdvanceResult::Foreign if account.foreign < 2 => account.foreign += 1,
                AdvanceResult::Foreign | AdvanceResult::Doubted => {
                    let stored = self.process.queue.with(|queue| queue.stored_at(partition));
                    let stored = stored.map(|offset| LogPosition {
                        offset,
                        epoch: place.log.epoch_before(offset),
                    });
                    place.proved = stored.or(place.start);
                    self.process.queue.with(|queue| queue.assign([partition]));
                }
            }
        }
    }

    /// The pending commits arrive at the coordinator in order, and the member sees the group's offsets.
    pub(super) fn commits_arrive(&mut self) {
        let mut world = self.world.lock();
        if world.is_coordinator_silent {
            return;
        }
        for request in self.sent.drain(..) {
            world.commit(&request);
        }
        for &partition in self.places.keys() {
            let committed = world.committed(partition);
            let shown =
                committed.filter(|it| it.topic_id == world.topic_id).map_or(-1_001, |it| it.next);
            self.process.queue.with(|queue| queue.shown(partition, shown));
        }
    }

    /// Revokes partitions: the records that were read are written and committed, as far as the time allows.
    pub(super) async fn revoke(&mut self, partitions: &[i32]) {
        self.drain().await;
        self.commit(CommitFate::Arrives);
        self.lose(partitions);
    }

    /// Takes partitions away without a revocation, as after the end of the session.
    pub(super) fn lose(&mut self, partitions: &[i32]) {
        self.world.lock().generation += 1;
        self.process.queue.with(|queue| queue.revoke(partitions.iter().copied()));
        for partition in partitions {
            self.places.remove(partition);
        }
    }

    async fn drain(&mut self) {
        let deadline = Instant::now() + REVOKE_TIMEOUT;
        if let Some(chunk) = self.pending.take() {
            let Ok(room) = timeout_at(deadline, self.process.events.reserve()).await else {
                self.pending = Some(chunk);
                return;
            };
            match room {
                Ok(room) => room.send(SourceEvent::Records(chunk)),
                Err(_) => return,
            }
        }
        let (done, answer) = oneshot::channel();
        let revoking = self.process.events.send(SourceEvent::Revoking { done });
        if let Ok(Ok(())) = timeout_at(deadline, revoking).await {
            let _ = timeout_at(deadline, answer).await;
        }
    }

    /// Stops in order. Returns an error if it did not end in time (it is then killed) or ended with a problem.
    pub(super) async fn stop(mut self, grace: Duration) -> Result<(), String> {
        let deadline = Instant::now() + grace;
        self.drain_pending(deadline).await;
        let _ = timeout_at(deadline, self.process.events.send(SourceEvent::Ended)).await;
        let ended = timeout_at(deadline, &mut self.process.running).await;
        self.commit(CommitFate::Arrives);
        self.world.lock().generation += 1;
        match ended {
            Ok(Ok(Ok(()))) => {
                let Readiness { state, reason, .. } = self.process.health.ready();
                match reason.filter(|_| state == State::Paused) {
                    Some(reason) => Err(format!("something waits after the end: {reason}")),
                    None => Ok(()),
                }
            }
            Ok(Ok(Err(error))) => Err(format!("the loop ended with {error}")),
            Ok(Err(error)) => Err(format!("the loop panicked: {error}")),
            Err(_) => {
                self.process.kill(false);
                Err("the loop does not end".into())
            }
        }
    }

    async fn drain_pending(&mut self, deadline: Instant) {
        if let Some(chunk) = self.pending.take() {
            let _ =
                timeout_at(deadline, self.process.events.send(SourceEvent::Records(chunk))).await;
        }
    }

    /// Dies.
    pub(super) fn kill(self, writes_go_on: bool) {
        self.world.lock().generation += 1;
        self.process.kill(writes_go_on);
    }
}

/// Claims the account of a partition for the present topic. `false`: the table does not answer.
fn claim(world: &mut World, partition: i32, place: &mut Place, number: u64) -> bool {
    if world.mode != TableMode::Serves {
        return false;
    }
    let (topic_id, owner) = (world.topic_id, number.to_string());
    let position = world.claim((topic_id, partition), &owner);
    let database = world.database();
    place.account =
        Some(ClaimedAccount { topic_id, owner, database, position, at_least: None, foreign: 0 });
    true
}

/// The reason why the log does not have the position, if it does not. Like a broker it checks the epoch, if there is one
/// and the leader has changed.
fn refused(world: &World, partition: i32, place: &Place) -> Option<Refusal> {
    let (position, log) = (place.position?, world.log(partition));
    let epoch = match place.start {
        Some(start) if start.offset == position => start.epoch,
        _ => place.log.epoch_before(position),
    };
    if place.validated != Some(log.epoch())
        && let Some(epoch) = epoch
        && log.end_of(epoch) < position
    {
        return Some(Refusal::Cut(log.end_of(epoch)));
    }
    let is_within = (log.low..=log.high()).contains(&position);
    (!is_within).then_some(Refusal::OutOfRange)
}

/// Chooses the next position to read of a partition.
fn choose_start(
    world: &World,
    partition: i32,
    place: &mut Place,
    queue: &Queue,
    refusal: Option<Refusal>,
) {
    let committed = world.committed(partition);
    let is_first = place.position.is_none() || place.proved.is_some();
    let account = place.account.as_ref().and_then(|account| account.position.clone());
    let topic_id = |Committed { topic_id, .. }: Committed| topic_id.to_string();
    let metadata = CommitMetadata {
        topic_id: committed.map(topic_id),
        has_account: true,
        ..CommitMetadata::default()
    };
    let mut facts = Facts {
        position: place
            .position
            .map(|offset| LogPosition { offset, epoch: place.log.epoch_before(offset) }),
        committed: committed.map(|it| LogPosition { offset: it.next, epoch: it.epoch }),
        account: account
            .filter(|_| is_first)
            .map(|it| LogPosition { offset: it.next_offset, epoch: it.leader_epoch }),
        is_account_kept: true,
        proved: place.proved,
        metadata,
        topic_id: Some(world.topic_id.to_string()),
        known_topic_id: place.topic_id.map(|id| id.to_string()),
        known_end: place.log.end(),
        refusal,
        ..Facts::default()
    };
    let start = loop {
        if let Some(start) = facts.decide() {
            break start;
        }
        facts.watermarks = Some((world.log(partition).low, world.log(partition).high()));
    };
    let at = start.position.offset;
    let known = queue.with(|queue| queue.written_before(partition));
    let written = facts.written_before(start, known);
    if start.other_log {
        queue.with(|queue| queue.assign([partition]));
        place.log = KnownLog::default();
    }
    place.log.starts_at(start.position);
    if let Some(account) = &mut place.account {
        let stood = account.position.as_ref().map(|position| position.next_offset.min(at));
        account.at_least = stood.filter(|_| !start.other_log);
    }
    queue.with(|queue| {
        queue.starts_after(partition, written);
        if facts.is_written_before(start) {
            queue.starts_as_written(partition, at, facts.committed == Some(start.position));
        }
        if let Some(skipped) = facts.skipped(start) {
            queue.starts_after_gap(partition, skipped);
        }
    });
    (place.position, place.start) = (Some(at), Some(start.position));
    (place.topic_id, place.proved, place.validated) = (Some(world.topic_id), None, None);
}
