//! The poll thread: an operating system thread that owns the consumer and does nothing that waits for a database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::Position;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::sync::{mpsc, oneshot};

use super::client;
use super::consumer::Context;
use super::source::{Assignment, Progress, SourceError, SourceEvent};
use crate::envelope::{Envelope, Header};
use crate::health::Health;
use crate::lag::Lag;
use crate::metrics::IngesterMetrics;
use crate::settings::Settings;

/// Records handed over at once: enough that the hand-over costs nothing, few enough to pass within a millisecond.
pub(super) const CHUNK_RECORDS: usize = 512;
/// Hand-overs that may wait.
const CHANNEL_EVENTS: usize = 4;
/// How long one poll waits for a record; bounds how late a stop is seen.
const POLL: Duration = Duration::from_millis(50);
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
    pub(crate) progress: Arc<Progress>,
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
    };
    let consumer: BaseConsumer<Context> =
        client::consumer(settings).create_with_context(context)?;
    consumer.subscribe(&[&settings.kafka.topic])?;
    let stop = Arc::new(AtomicBool::new(false));
    let (drained, when_drained) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel();
    let poller = Poller {
        consumer,
        topic: settings.kafka.topic.as_str().into(),
        stop: stop.clone(),
        commit_interval: settings.kafka.commit_interval,
        grace: settings.shutdown.grace,
        last_error: None,
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
    topic: Arc<str>,
    stop: Arc<AtomicBool>,
    commit_interval: Duration,
    grace: Duration,
    last_error: Option<(RDKafkaErrorCode, Instant)>,
}

impl Poller {
    fn run(mut self, when_drained: &std::sync::mpsc::Receiver<()>) {
        let context = self.consumer.context().clone();
        let mut committed = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            context.health.poll_beat();
            if !self.read() {
                break;
            }
            if committed.elapsed() >= self.commit_interval {
                committed = Instant::now();
                context.commit(&self.consumer, CommitMode::Async);
            }
        }
        // Everything read is handed over, then the loop is told that nothing follows.
        while !context.hand_over(Duration::from_millis(100)) && !context.events.is_closed() {
            context.health.poll_beat();
        }
        let _ = context.send(SourceEvent::Ended, self.grace);
        let _ = when_drained.recv_timeout(self.grace);
        context.commit(&self.consumer, CommitMode::Sync);
        // Leaves the group; what the revocation callback would wait for is done.
        drop(self);
    }

    /// Reads until there is nothing more at once or a chunk is full, and hands it over. `false` when the source ended.
    fn read(&mut self) -> bool {
        let mut timeout = POLL;
        let mut count = 0;
        while count < CHUNK_RECORDS {
            match self.consumer.poll(timeout) {
                Some(Ok(message)) => {
                    let envelope = envelope(&self.topic, &message);
                    let context = self.consumer.context();
                    context.pending.lock().unwrap_or_else(PoisonError::into_inner).push(envelope);
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
        self.consumer.context().hand_over(PATIENCE) || self.hold()
    }

    /// The loop takes nothing: pause, keep polling so that the group knows we live, resume when it takes again.
    fn hold(&mut self) -> bool {
        let context = self.consumer.context().clone();
        context.holding.store(true, Ordering::Relaxed);
        self.all(BaseConsumer::pause);
        let mut going_on = true;
        while going_on && !context.hand_over(POLL) && !self.stop.load(Ordering::Relaxed) {
            context.health.poll_beat();
            match self.consumer.poll(POLL) {
                // A partition that was assigned this moment, before it was paused.
                Some(Ok(message)) => {
                    let envelope = envelope(&self.topic, &message);
                    context.pending.lock().unwrap_or_else(PoisonError::into_inner).push(envelope);
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
    fn carry_on(&mut self, error: &KafkaError) -> bool {
        let failed = match error {
            KafkaError::MessageConsumptionFatal(code) => Some(SourceError::Fatal(code.to_string())),
            KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed),
            ) => Some(SourceError::NotAllowed(code.to_string())),
            _ => None,
        };
        if let Some(failed) = failed {
            let _ = self.consumer.context().send(SourceEvent::Failed(failed), PATIENCE);
            return false;
        }
        // The same error comes with every refresh of the metadata, as for a topic that is not there yet.
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let repeated = self
            .last_error
            .is_some_and(|(last, at)| last == code && at.elapsed() < Duration::from_secs(60));
        if !repeated {
            self.last_error = Some((code, Instant::now()));
            tracing::warn!(%error, "reading from kafka; it goes on by itself");
        }
        true
    }
}

pub(super) fn envelope(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Envelope {
    let header = |header: rdkafka::message::Header<'_, &[u8]>| Header {
        name: header.key.to_owned(),
        value: header.value.map(<[u8]>::to_vec),
    };
    Envelope {
        position: Position {
            topic: topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: message
            .headers()
            .map(|headers| headers.iter().map(header).collect())
            .unwrap_or_default(),
    }
}
