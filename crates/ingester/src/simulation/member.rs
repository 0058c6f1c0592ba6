//! The member of the group that reads for a process: what the poll thread does, without a thread or a client, around the
//! real queue of written offsets and the real choice of start offsets.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::process::Process;
use super::world::{CommitRequest, Committed, Shared, World, lock};
use crate::kafka::{CommitMetadata, Decision, Facts, LogPosition, Refusal};
use crate::pipeline::ports::{Chunk, SourceEvent};

/// How long a revocation waits for the loop.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a partition is read.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// None until its start is known.
    position: Option<i64>,
    /// The topic that was read last.
    topic_id: Option<u32>,
    known_end: Option<i64>,
}

pub(super) struct Member {
    world: Shared,
    pub(super) process: Process,
    places: BTreeMap<i32, Place>,
    /// Read and not handed over yet.
    pending: Option<Chunk>,
    /// Sent, and not with the coordinator yet.
    sent: Vec<CommitRequest>,
}

/// What a commit meets.
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
        Self { world: world.clone(), process, places, pending: None, sent }
    }

    pub(super) fn owns(&self, partition: i32) -> bool {
        self.places.contains_key(&partition)
    }

    /// Partitions come.
    pub(super) fn assign(&mut self, partitions: &[i32]) {
        lock(&self.world).generation += 1;
        self.process.queue.with(|queue| queue.assign(partitions.iter().copied()));
        for &partition in partitions {
            self.places.insert(partition, Place::default());
        }
        self.place();
    }

    /// Looks for starts of the partitions that have none, or whose topic is another now.
    pub(super) fn place(&mut self) {
        let world = lock(&self.world);
        if world.is_coordinator_silent {
            return;
        }
        for (&partition, place) in &mut self.places {
            let is_other = place.topic_id.is_some_and(|id| id != world.topic_id);
            if place.position.is_some() && !is_other {
                continue;
            }
            let other_log = choose(&world, partition, place, None);
            if other_log {
                self.process.queue.with(|queue| queue.assign([partition]));
            }
        }
    }

    /// Reads a few records of each partition and hands them over. `false`: the loop has ended, or takes nothing now.
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
        let mut world = lock(&self.world);
        let mut records = Vec::new();
        for (&partition, place) in &mut self.places {
            // A fetch names the topic by its id: a new topic is not read at an old position.
            if place.topic_id != Some(world.topic_id) {
                continue;
            }
            let Some(mut position) = place.position else { continue };
            let (low, high) = (world.log(partition).low, world.log(partition).high());
            if position < low || position > high {
                if choose(&world, partition, place, Some(Refusal::OutOfRange)) {
                    self.process.queue.with(|queue| queue.assign([partition]));
                }
                continue;
            }
            let end = high.min(position + i64::try_from(most).unwrap());
            while position < end {
                records.push(world.read(partition, position));
                position += 1;
            }
            place.position = Some(position);
            place.known_end = Some(high);
        }
        if !records.is_empty() {
            let assignment = self.process.queue.with(|queue| queue.assignment());
            self.pending = Some(Chunk { records, assignment });
        }
    }

    /// Whether everything was read and handed over.
    pub(super) fn is_at_end(&self) -> bool {
        let world = lock(&self.world);
        self.pending.is_none()
            && self.places.iter().all(|(&partition, place)| {
                place.topic_id == Some(world.topic_id)
                    && place.position == Some(world.log(partition).high())
            })
    }

    /// What is written is sent to the coordinator. Nothing overtakes what was sent before: it is one connection.
    pub(super) fn commit(&mut self, fate: CommitFate) {
        if fate == CommitFate::Arrives {
            self.commits_arrive();
        }
        let offsets = self.process.queue.with(|queue| queue.take());
        if offsets.is_empty() {
            return;
        }
        let mut world = lock(&self.world);
        if world.is_coordinator_silent && fate == CommitFate::Arrives {
            return self.process.queue.with(|queue| queue.not_sent(&offsets));
        }
        // Of each partition the topic that was read; they differ only while a new topic is being found.
        for (partition, next) in offsets {
            let Some(topic_id) = self.places.get(&partition).and_then(|place| place.topic_id)
            else {
                continue;
            };
            let offsets = vec![(partition, next)];
            let request = CommitRequest { generation: world.generation, topic_id, offsets };
            match fate {
                CommitFate::Arrives => world.commit(&request),
                CommitFate::Later => self.sent.push(request),
                CommitFate::Lost => {}
            }
        }
    }

    /// The coordinator gets what was sent, in order, and the member sees what the group has.
    pub(super) fn commits_arrive(&mut self) {
        let mut world = lock(&self.world);
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

    /// Partitions are revoked: what was read is written and committed, as far as the time allows.
    pub(super) async fn revoke(&mut self, partitions: &[i32]) {
        self.drain().await;
        self.commit(CommitFate::Arrives);
        self.lose(partitions);
    }

    /// Partitions are gone without a revocation: the session is over.
    pub(super) fn lose(&mut self, partitions: &[i32]) {
        lock(&self.world).generation += 1;
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

    /// Stops in order. Whether that was done within the time; it is killed otherwise.
    pub(super) async fn stop(mut self, grace: Duration) -> Result<(), String> {
        let deadline = Instant::now() + grace;
        self.drain_pending(deadline).await;
        let _ = timeout_at(deadline, self.process.events.send(SourceEvent::Ended)).await;
        let ended = timeout_at(deadline, &mut self.process.running).await;
        self.commit(CommitFate::Arrives);
        lock(&self.world).generation += 1;
        match ended {
            Ok(Ok(Ok(()))) => match service::admin::Health::ready(&*self.process.health).reason {
                Some(reason) => Err(format!("something waits after the end: {reason}")),
                None => Ok(()),
            },
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
        lock(&self.world).generation += 1;
        self.process.kill(writes_go_on);
    }
}

/// Chooses where a partition is read on; whether that is on another log.
fn choose(world: &World, partition: i32, place: &mut Place, refusal: Option<Refusal>) -> bool {
    let committed = world.committed(partition);
    let at = |offset| LogPosition { offset, epoch: None };
    let topic_id = |Committed { topic_id, .. }: Committed| topic_id.to_string();
    let mut facts = Facts {
        position: place.position.map(at),
        committed: committed.map(|committed| at(committed.next)),
        metadata: CommitMetadata { topic_id: committed.map(topic_id), ..CommitMetadata::default() },
        topic_id: Some(world.topic_id.to_string()),
        known_topic_id: place.topic_id.map(|id| id.to_string()),
        known_end: place.known_end,
        refusal,
        ..Facts::default()
    };
    let start = loop {
        match facts.decide() {
            Decision::Start(start) => break start,
            Decision::AskWatermarks => {
                facts.watermarks = Some((world.log(partition).low, world.log(partition).high()));
            }
        }
    };
    place.position = Some(start.position.offset);
    place.topic_id = Some(world.topic_id);
    start.other_log
}
