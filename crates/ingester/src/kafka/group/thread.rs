//! The poll thread: an operating system thread that owns the consumer and does nothing that waits for a database.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use tokio::sync::{mpsc, oneshot};

use super::callbacks::Context;
use super::commit::{Assignment, CommitQueue};
use crate::daemon::health::Health;
use crate::daemon::lag::Lag;
use crate::daemon::metrics::IngesterMetrics;
use crate::kafka::config;
use crate::kafka::ffi::{self, TopicIds};
use crate::kafka::record_arena::RecordArena;
use crate::pipeline::ports::{SourceError, SourceEvent};
use crate::settings::Settings;

/// Records handed over at once: enough that the hand-over costs nothing, few enough to pass within a millisecond.
pub(in crate::kafka) const CHUNK_RECORDS: usize = 512;
/// A hand-over of large records ends with the one that reaches this many bytes: what waits is not counted yet against
/// `limits.max_buffered_bytes`, and must stay small beside it.
pub(crate) const CHUNK_BYTES: usize = 512 * 1024;
/// Hand-overs that may wait.
const CHANNEL_EVENTS: usize = 4;
/// How long one poll waits for a record; bounds how late a stop is seen.
const POLL: Duration = Duration::from_millis(50);
/// No two commits are nearer than this, however many dead letters there are.
const HURRY: Duration = Duration::from_millis(10);
/// How often the topic's id is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long the loop may be busy before the partitions are paused. Pausing throws away what librdkafka has fetched, so
/// a moment's delay is not worth it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The running poll thread.
pub(crate) struct PollThread {
    stop: Arc<AtomicBool>,
    drained: std::sync::mpsc::Sender<()>,
    ended: oneshot::Receiver<()>,
    _thread: JoinHandle<()>,
}

impl PollThread {
    /// Asks it to read no more. The channel closes when everything read has been handed over.
    pub(crate) fn stop_reading(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Everything handed over is written: commit it and leave the group. Returns when that is done.
    pub(crate) async fn close(self) {
        self.stop_reading();
        // A send fails, and a receive too, when the thread has ended already, which is what is waited for.
        let _ = self.drained.send(());
        let _ = self.ended.await;
    }
}

/// What the poll thread is given.
pub(crate) struct Shared {
    pub(crate) progress: Arc<CommitQueue>,
    pub(crate) health: Arc<Health>,
    pub(crate) lag: Arc<Lag>,
    pub(crate) metrics: Arc<IngesterMetrics>,
    pub(crate) assignment: Arc<Assignment>,
}

/// Starts reading. Returns the thread and the one way out of it.
///
/// # Errors
/// When librdkafka refuses a setting, by name.
pub(crate) fn start(
    settings: &Settings,
    shared: Shared,
) -> KafkaResult<(PollThread, mpsc::Receiver<SourceEvent>)> {
    let (events, receiver) = mpsc::channel(CHANNEL_EVENTS);
    let context = Context {
        pending: Default::default(),
        events,
        progress: shared.progress,
        health: shared.health,
        lag: shared.lag,
        assignment: shared.assignment,
        topic: settings.kafka.topic.as_str().into(),
        metrics: shared.metrics,
        runtime: tokio::runtime::Handle::current(),
        revoke_timeout: settings.kafka.revoke_timeout,
        holding: AtomicBool::new(false),
        on_gap: settings.kafka.on_gap,
        known: Default::default(),
        repeated: Default::default(),
        last_trouble: Default::default(),
        failed: Default::default(),
    };
    let consumer: BaseConsumer<Context> =
        config::consumer(settings).create_with_context(context)?;
    consumer.subscribe(&[&settings.kafka.topic])?;
    let stop = Arc::new(AtomicBool::new(false));
    let (drained, when_drained) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel();
    let poller = Poller {
        copier: RefCell::new(RecordArena::new(consumer.context().topic.clone())),
        consumer,
        stop: stop.clone(),
        commit_interval: settings.kafka.commit_interval,
        committed: Instant::now(),
        grace: settings.shutdown.grace,
        last_epoch: Cell::new(None),
    };
    let thread = std::thread::Builder::new()
        .name("kafka-poll".into())
        .spawn(move || {
            poller.run(&when_drained);
            let _ = end.send(());
        })
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok((PollThread { stop, drained, ended, _thread: thread }, receiver))
}

struct Poller {
    consumer: BaseConsumer<Context>,
    copier: RefCell<RecordArena>,
    stop: Arc<AtomicBool>,
    commit_interval: Duration,
    committed: Instant,
    grace: Duration,
    /// Partition and leader epoch of the last record.
    last_epoch: Cell<Option<(i32, i32)>>,
}

impl Poller {
    fn run(mut self, when_drained: &std::sync::mpsc::Receiver<()>) {
        let context = self.consumer.context().clone();
        let mut looked = Instant::now();
        let ids = TopicIds::new(self.consumer.client(), &context.topic);
        while !self.stop.load(Ordering::Relaxed) {
            context.health.poll_beat();
            if !self.read() || !self.starts(ids.as_ref(), &mut looked) {
                break;
            }
            self.commit();
        }
        // Everything read is handed over, then the loop is told that nothing follows.
        while !context.hand_over(Duration::from_millis(100)) && !context.events.is_closed() {
            context.health.poll_beat();
        }
        let failed = context.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = context.send(failed.map_or(SourceEvent::Ended, SourceEvent::Failed), self.grace);
        let _ = when_drained.recv_timeout(self.grace);
        context.commit(&self.consumer, CommitMode::Sync);
        // Its queue must be gone before the client is.
        drop(ids);
        // Leaves the group; what the revocation callback would wait for is done.
        drop(self);
    }

    /// Commits what is written, when it is time or somebody asked for it.
    fn commit(&mut self) {
        let context = self.consumer.context();
        let waited = self.committed.elapsed();
        if waited >= self.commit_interval || (waited >= HURRY && context.progress.is_hurried()) {
            self.committed = Instant::now();
            context.commit(&self.consumer, CommitMode::Async);
        }
    }

    /// Gives partitions that stand still a new start, and looks from time to time whether the topic is still the same.
    /// `false` when the source ended.
    fn starts(&self, ids: Option<&TopicIds>, looked: &mut Instant) -> bool {
        let context = self.consumer.context().clone();
        let still = std::mem::take(&mut context.known().still);
        // What is on its way belongs to the log as it was, and must be over before another is read.
        if !still.is_empty() && !context.drain(&self.consumer) {
            context.known().asked_for_start = true;
        } else if !still.is_empty()
            && let Err(error) = context.restart(&self.consumer, &still)
        {
            tracing::warn!(%error, "partitions have no start yet; it is tried again");
            context.known().asked_for_start = true;
        }
        let new = ids.and_then(|ids| ids.answer(Duration::ZERO)).flatten();
        if let Some(id) = new {
            if context.is_new(Some(&id)) {
                // The next look at the id tries again what fails here.
                if context.drain(&self.consumer)
                    && let Err(error) = context.made_again(&self.consumer, id)
                {
                    tracing::warn!(%error, "the topic was made again and cannot be read yet; it is tried again");
                }
            } else {
                context.known().topic_id = Some(id);
            }
        }
        if looked.elapsed() >= LOOK_EVERY {
            *looked = Instant::now();
            if let Some(ids) = ids {
                ids.ask(LOOK_EVERY);
            }
        }
        context.failed.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Reads until there is nothing more at once or a chunk is full, and hands it over. `false` when the source ended.
    fn read(&mut self) -> bool {
        let mut timeout = POLL;
        let (mut count, mut bytes) = (0, 0);
        while count < CHUNK_RECORDS && bytes < CHUNK_BYTES {
            match self.consumer.poll(timeout) {
                Some(Ok(message)) => {
                    bytes += self.keep(&message);
                    count += 1;
                    timeout = Duration::ZERO;
                }
                Some(Err(error)) => {
                    if !self.carry_on(&error) {
                        return false;
                    }
                }
                None => break,
            }
        }
        let context = self.consumer.context();
        (context.hand_over(PATIENCE) && !context.progress.is_halted()) || self.hold()
    }

    /// Takes a record out of librdkafka's memory; answers how many bytes it holds in ours.
    fn keep(&self, message: &BorrowedMessage<'_>) -> usize {
        let context = self.consumer.context();
        if let Some(epoch) = ffi::leader_epoch(message) {
            let place = (message.partition(), epoch);
            // Records come in runs of a partition, and epochs change with leaders.
            if self.last_epoch.replace(Some(place)) != Some(place) {
                context.known().epoch(message.partition(), message.offset(), epoch);
            }
        }
        let record = self.copier.borrow_mut().copy(message);
        let size = record.size();
        context.pending.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        size
    }

    /// The loop takes nothing, or nothing more: pause, keep polling so that the group knows we live, resume when it
    /// takes again.
    fn hold(&mut self) -> bool {
        let context = self.consumer.context().clone();
        context.holding.store(true, Ordering::Relaxed);
        self.all(BaseConsumer::pause);
        let mut going_on = true;
        while going_on
            && !self.stop.load(Ordering::Relaxed)
            && (!context.hand_over(POLL) || context.progress.is_halted())
        {
            context.health.poll_beat();
            self.commit();
            match self.consumer.poll(POLL) {
                // A partition that was assigned this moment, before it was paused.
                Some(Ok(message)) => {
                    self.keep(&message);
                }
                Some(Err(error)) => going_on = self.carry_on(&error),
                None => {}
            }
        }
        context.holding.store(false, Ordering::Relaxed);
        self.all(BaseConsumer::resume);
        going_on
    }

    fn all(
        &self,
        act: fn(&BaseConsumer<Context>, &rdkafka::TopicPartitionList) -> KafkaResult<()>,
    ) {
        if let Err(error) = self.consumer.assignment().and_then(|owned| act(&self.consumer, &owned))
        {
            tracing::warn!(%error, "partitions could not be paused or resumed");
        }
    }

    /// Whether an error of `poll` leaves anything to poll for. Most are news of something librdkafka is mending.
    fn carry_on(&self, error: &KafkaError) -> bool {
        let failed = match error {
            KafkaError::MessageConsumptionFatal(code) => Some(SourceError::Fatal(code.to_string())),
            KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed),
            ) => Some(SourceError::NotAllowed(code.to_string())),
            _ => None,
        };
        let context = self.consumer.context();
        if failed.is_some() {
            *context.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
            return false;
        }
        if let KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) = error {
            context.known().asked_for_start = true;
            return true;
        }
        if let KafkaError::MessageConsumption(
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
        ) = error
        {
            context.known().topic_is_missing = true;
        }
        // The same error comes with every refresh of the metadata, as for a topic that is not there yet.
        if context.repeated.is_news(error) {
            tracing::warn!(%error, "reading from kafka; it goes on by itself");
        }
        true
    }
}
