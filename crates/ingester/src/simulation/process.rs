//! A process of the ingester: the real loop, writer, retries and observers with the simulated table and dead-letter
//! topic. The writes of a killed process end with it, except those that the database continues.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::{EventIdentity, Publication};
use parking_lot::Mutex;
use service::metrics::Registry;
use store::{Error, PublicationWriter, Recorded, Retrying, WaitCause};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::schedule::Kind;
use super::world::{Shared, TableMode, WriteFault, evaluator};
use crate::daemon::health::Health;
use crate::daemon::lag::Lag;
use crate::daemon::metrics::IngesterMetrics;
use crate::daemon::observer::{LiveObserver, Waits};
use crate::daemon::rejection_limit::RejectionLimit;
use crate::decode::rejection::Rejection;
use crate::kafka::CommitQueue;
use crate::pipeline::ports::{
    DeadLetters, RowStore, SourceControl, SourceEvent, Undelivered, WrittenOffsets,
};
use crate::pipeline::write::{Delivery, Writer};
use crate::pipeline::{BatchLimits, Ingest, IngestError};
use crate::record::Record;

/// Small limits, so that batches fill, writes overlap and reading stops within a schedule.
const LIMITS: BatchLimits = BatchLimits {
    max_rows: 8,
    max_bytes: 1 << 20,
    linger: Duration::from_millis(20),
    in_flight: 3,
    max_buffered_bytes: 24 << 10,
};
/// The number of events that may wait for the loop.
const CHANNEL_EVENTS: usize = 2;

thread_local! {
    /// Shared by the schedules of a thread: creating the metrics takes longer than a schedule.
    static METRICS: Arc<IngesterMetrics> =
        Arc::new(IngesterMetrics::create(&Registry::new(), "simulated").unwrap());
}

/// Whether a process is alive, and the state of its writes.
#[derive(Debug, Default)]
pub(super) struct Life {
    is_over: AtomicBool,
    /// The database continues the statements of the process after its death.
    writes_go_on: AtomicBool,
    /// Writes that are not in the table yet (`before`), and those that are but have not returned (`after`).
    pub(super) before: AtomicU32,
    pub(super) after: AtomicU32,
    pub(super) has_endless_write: AtomicBool,
    has_served: AtomicBool,
}

impl Life {
    async fn goes_on(&self) {
        if self.is_over.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a write has ever succeeded.
    pub(super) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    pub(super) fn writes(&self) -> u32 {
        self.before.load(Ordering::Relaxed) + self.after.load(Ordering::Relaxed)
    }
}

pub(super) struct Process {
    pub(super) life: Arc<Life>,
    pub(super) events: mpsc::Sender<SourceEvent>,
    pub(super) queue: Queue,
    pub(super) health: Arc<Health>,
    pub(super) running: JoinHandle<Result<(), IngestError>>,
}

/// The real queue of written offsets, as the poll thread uses it.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Mutex<CommitQueue>>);

impl Queue {
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut CommitQueue) -> T) -> T {
        act(&mut self.0.lock())
    }
}

impl SourceControl for Queue {
    fn written(&self, offsets: &WrittenOffsets) {
        self.with(|queue| {
            for (partition, offset) in offsets.iter() {
                queue.written(partition, offset);
            }
        });
    }

    fn commit_soon(&self) {}

    fn halt(&self) {}
}

impl Process {
    pub(super) fn start(world: &Shared) -> Self {
        let life = Arc::new(Life::default());
        let metrics = METRICS.with(Arc::clone);
        let health = Arc::new(Health::new(Duration::ZERO, metrics.paused.clone()));
        let waits = Arc::new(Waits { health: health.clone(), metrics: metrics.clone() });
        let queue = Queue::default();
        let control: Arc<dyn SourceControl> = Arc::new(queue.clone());
        let limit = RejectionLimit::new(0, health.clone(), control.clone());
        let table = Table { world: world.clone(), life: life.clone(), batches: Arc::default() };
        let batches = table.batches.clone();
        let store = Retrying::new(Arc::new(table), waits.clone()).outlasting_refusals();
        let topic = DeadLetterTopic { world: world.clone(), life: life.clone() };
        let writer = Writer {
            rows: Arc::new(Rows { world: world.clone(), store, batches }),
            dead_letters: Some(Delivery { topic: Box::new(topic), observer: waits }),
        };
        let evaluator = evaluator();
        let ingest = Ingest {
            evidence: Box::new(evaluator.history.clone()),
            evaluator,
            writer: Arc::new(writer),
            observer: Box::new(LiveObserver::new(
                metrics,
                Arc::new(Lag::default()),
                control,
                limit,
            )),
            limits: LIMITS,
        };
        let (events, source) = mpsc::channel(CHANNEL_EVENTS);
        let running = tokio::spawn(ingest.run(source));
        Self { life, events, queue, health, running }
    }

    /// Kills the process. `writes_go_on`: the database still executes the statements that it has.
    pub(super) fn kill(self, writes_go_on: bool) {
        self.life.writes_go_on.store(writes_go_on, Ordering::Relaxed);
        self.life.is_over.store(true, Ordering::Relaxed);
        self.running.abort();
    }
}

/// The batches that are being written, each as the events of its rows.
type Batches = Arc<Mutex<VecDeque<Vec<EventIdentity>>>>;

/// The store for the loop. It keeps track of the batches in flight.
struct Rows {
    world: Shared,
    store: Retrying<Table>,
    batches: Batches,
}

#[async_trait]
impl RowStore for Rows {
    async fn write(&self, rows: &[Publication]) -> Result<store::Written, Error> {
        self.world.lock().batched(rows);
        let batch: Vec<_> = rows.iter().map(|row| row.identity).collect();
        let with = |act: &dyn Fn(&mut VecDeque<Vec<EventIdentity>>)| {
            act(&mut self.batches.lock());
        };
        with(&|batches| batches.push_back(batch.clone()));
        let written = self.store.write(rows).await;
        with(&|batches| {
            let place = batches.iter().position(|other| *other == batch);
            place.map(|place| batches.remove(place));
        });
        written
    }

    fn is_serial(&self) -> bool {
        false
    }
}

struct Table {
    world: Shared,
    life: Arc<Life>,
    batches: Batches,
}

impl Table {
    /// Checks that all rows of a statement are consecutive rows of one batch.
    fn check(&self, rows: &[Publication]) {
        let asked: Vec<_> = rows.iter().map(|row| row.identity).collect();
        let batches = self.batches.lock();
        let is_part = |batch: &Vec<EventIdentity>| {
            asked.is_empty() || batch.windows(asked.len()).any(|part| part == asked)
        };
        if !batches.iter().any(is_part) {
            self.world.lock().violated("rows are written outside of their batch");
        }
    }

    fn mode(&self) -> Result<(), Error> {
        match self.world.lock().mode {
            TableMode::Serves => Ok(()),
            TableMode::Away => Err(Error::Transient("connection refused".into())),
            TableMode::Refuses => Err(Error::Fatal("permission denied".into())),
        }
    }

    async fn takes(&self, fault: Option<WriteFault>) {
        let most = if fault == Some(WriteFault::Slow) { 8_000 } else { 40 };
        let takes = self.world.lock().rng.below(most);
        tokio::time::sleep(Duration::from_millis(takes)).await;
    }

    /// Writes the rows, unless the process is dead and the database does not continue.
    fn apply(&self, rows: &[Publication]) -> Result<Recorded, Error> {
        let is_over = self.life.is_over.load(Ordering::Relaxed);
        if is_over && !self.life.writes_go_on.load(Ordering::Relaxed) {
            return Ok(Recorded::default());
        }
        let mut world = self.world.lock();
        if world.refuses(rows) {
            return Err(Error::Data("violates a constraint".into()));
        }
        Ok(world.record(rows))
    }
}

#[async_trait]
impl PublicationWriter for Table {
    async fn record(&self, rows: &[Publication]) -> Result<Recorded, Error> {
        self.life.goes_on().await;
        self.check(rows);
        self.mode()?;
        let fault = self.world.lock().next_fault();
        if let Some(WriteFault::Fails(cause)) = fault {
            self.takes(None).await;
            return Err(error(cause));
        }
        if fault == Some(WriteFault::Endless) {
            self.life.has_endless_write.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
        self.life.before.fetch_add(1, Ordering::Relaxed);
        self.takes(fault).await;
        self.life.before.fetch_sub(1, Ordering::Relaxed);
        let recorded = self.apply(rows);
        self.life.after.fetch_add(1, Ordering::Relaxed);
        self.takes(None).await;
        self.life.after.fetch_sub(1, Ordering::Relaxed);
        self.life.goes_on().await;
        match recorded {
            Ok(_) if fault == Some(WriteFault::AnswerLost) => Err(error(WaitCause::Away)),
            Ok(recorded) => {
                self.life.has_served.store(true, Ordering::Relaxed);
                Ok(recorded)
            }
            Err(error) => Err(error),
        }
    }

    async fn probe(&self) -> Result<(), Error> {
        self.life.goes_on().await;
        self.mode()
    }
}

fn error(cause: WaitCause) -> Error {
    match cause {
        WaitCause::Away => Error::Transient("connection reset".into()),
        WaitCause::Refused => Error::Fatal("permission denied".into()),
        WaitCause::Conflict => Error::Conflict("deadlock detected".into()),
        WaitCause::TimeLimit => Error::TimedOut("statement timeout".into()),
        WaitCause::Busy => Error::Busy("no free connection".into()),
    }
}

struct DeadLetterTopic {
    world: Shared,
    life: Arc<Life>,
}

#[async_trait]
impl DeadLetters for DeadLetterTopic {
    async fn deliver(&self, _: &Rejection, record: &Record) -> Result<(), Undelivered> {
        self.life.goes_on().await;
        let takes = self.world.lock().rng.below(20);
        tokio::time::sleep(Duration::from_millis(takes)).await;
        self.life.goes_on().await;
        let undelivered = || Undelivered {
            position: record.position.clone(),
            reason: "no acknowledgement".into(),
        };
        let mut world = self.world.lock();
        if world.dead_letters_away {
            return Err(undelivered());
        }
        let is_lost = world.lost_acknowledgements > 0;
        if is_lost {
            world.lost_acknowledgements -= 1;
            world.happened(Kind::AcknowledgementLost);
        }
        world.dead_letter(record, !is_lost);
        if is_lost { Err(undelivered()) } else { Ok(()) }
    }
}
