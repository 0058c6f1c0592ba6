//! The poll thread: an operating system thread that owns the consumer. It does not wait for the database while it polls.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use store::Positions;
use tokio::sync::{mpsc, oneshot};

use super::callbacks::{Context, Shared};
use super::send_commit::SentCommit;
use super::state::{Command, Reading, Stage};
use super::{account, claims};
use crate::kafka::config;
use crate::kafka::ffi::{self, TopicIds};
use crate::kafka::inspect;
use crate::kafka::observe::{GroupObserver, GroupWait, SettledEvidence};
use crate::kafka::record_arena::RecordArena;
use crate::pipeline::ports::{SourceControl, SourceError, SourceEvent, WrittenOffsets};
use crate::settings::Settings;

/// Records in a chunk: enough that sending costs little, few enough to process within a millisecond.
pub(in crate::kafka) const CHUNK_RECORDS: usize = 512;
/// A chunk ends with the record that reaches this many bytes. Waiting chunks are not yet counted against
/// `limits.max_buffered_bytes`, so they must be small compared with it.
pub(crate) const CHUNK_BYTES: usize = 512 * 1024;
/// Chunks that may wait in the channel.
const CHANNEL_EVENTS: usize = 4;
/// How long a poll waits for a record; it limits the delay of a command.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);
/// The shortest time between two commits, however many dead letters there are.
const MIN_COMMIT_INTERVAL: Duration = Duration::from_millis(10);
/// The interval of the checks of the topic's id.
const TOPIC_ID_INTERVAL: Duration = Duration::from_secs(10);
/// The interval of the checks of the membership; librdkafka's statistics have the same.
const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(1);
/// How long the loop may be busy before the partitions are paused. A pause discards the records that librdkafka has
/// fetched, so a short delay is not worth a pause.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit of the last commit.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// Commands to the poll thread, which reads them between two polls.
#[derive(Debug)]
pub(crate) struct PollControl(Sender<Command>);

impl PollControl {
    /// After the thread has ended the command is dropped; the last commands only ask it to end.
    fn send(&self, command: Command) {
        let _ = self.0.send(command);
    }
}

impl SourceControl for PollControl {
    fn written(&self, offsets: &WrittenOffsets) {
        self.send(Command::Written(offsets.clone()));
    }

    fn commit_soon(&self) {
        self.send(Command::CommitSoon);
    }

    fn halt(&self) {
        self.send(Command::Halt);
    }
}

/// The handle of the poll thread. When it is dropped, the thread commits the written offsets, leaves the group and ends.
pub(crate) struct PollThread {
    control: Arc<PollControl>,
    ended: oneshot::Receiver<()>,
}

impl PollThread {
    /// The control handle for the writer of the records.
    pub(crate) fn control(&self) -> Arc<PollControl> {
        self.control.clone()
    }

    /// Tells the thread to read no more. The channel closes after everything read was sent.
    pub(crate) fn stop_reading(&self) {
        self.control.send(Command::Stop);
    }

    /// Commits the written offsets and leaves the group. Returns when both are done.
    pub(crate) async fn close(mut self) {
        self.control.send(Command::Close);
        // A receive error means that the thread has ended already.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for PollThread {
    fn drop(&mut self) {
        self.control.send(Command::Close);
    }
}

/// The observers of the group member's state.
pub(crate) struct Observers {
    pub(crate) group: Arc<dyn GroupObserver>,
    pub(crate) settled: Arc<dyn SettledEvidence>,
    /// The table's account of positions; `None` only in unit tests.
    pub(crate) positions: Option<Arc<dyn Positions>>,
}

/// Joins the group and starts to read. Returns the thread's handle and the channel of its records. Must be called in a
/// runtime, which runs the requests to the database.
///
/// # Errors
/// When librdkafka refuses a setting; the error names it.
pub(crate) fn start(
    settings: &Settings,
    observers: Observers,
) -> KafkaResult<(PollThread, mpsc::Receiver<SourceEvent>)> {
    let (events, receiver) = mpsc::channel(CHANNEL_EVENTS);
    let (sender, commands) = std::sync::mpsc::channel();
    let requests = observers.positions.map(|positions| {
        let (requests, asked) = mpsc::unbounded_channel();
        tokio::spawn(claims::answer_requests(positions, asked, sender.clone()));
        requests
    });
    let context = Context(Arc::new(Shared {
        state: Mutex::default(),
        commands: Mutex::new(commands),
        events,
        observer: observers.group,
        settled: observers.settled,
        requests,
        token: account::token(),
        group: settings.kafka.group.clone(),
        topic: settings.kafka.topic.as_str().into(),
        revoke_timeout: settings.kafka.revoke_timeout,
        session: settings.kafka.session_timeout(),
        on_gap: settings.kafka.on_gap,
        repeated: Default::default(),
        last_message: Default::default(),
    }));
    let client = config::consumer(settings);
    let consumer: BaseConsumer<Context> = client.create_with_context(context)?;
    consumer.subscribe(&[&settings.kafka.topic])?;
    let (end, ended) = oneshot::channel();
    let poller = Poller {
        sent: None,
        arena: RefCell::new(RecordArena::new(consumer.context().topic.clone())),
        consumer,
        client,
        commit_interval: settings.kafka.commit_interval,
        committed: Instant::now(),
        is_commit_due: false,
        stored: Instant::now(),
        topic_id_asked: Instant::now(),
        is_broker_assigned: settings.kafka.is_broker_assigned(),
        asked_membership: Instant::now(),
        grace: settings.shutdown.grace,
        user: settings.kafka.client.get("sasl.username").map_or("(none)", |user| user).to_owned(),
        probe: inspect::probe(settings),
    };
    std::thread::Builder::new()
        .name("kafka-poll".into())
        .spawn(move || {
            poller.run();
            // The receiver may be gone.
            let _ = end.send(());
        })
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    let control = Arc::new(PollControl(sender));
    Ok((PollThread { control, ended }, receiver))
}

struct Poller {
    /// The last commit. Declared before the consumer, because the consumer must outlive it.
    sent: Option<SentCommit>,
    consumer: BaseConsumer<Context>,
    /// The settings of the consumer.
    client: ClientConfig,
    arena: RefCell<RecordArena>,
    commit_interval: Duration,
    committed: Instant,
    /// Offsets are to be committed as soon as the last commit is answered.
    is_commit_due: bool,
    /// When the positions of all partitions were stored last.
    stored: Instant,
    topic_id_asked: Instant,
    is_broker_assigned: bool,
    asked_membership: Instant,
    grace: Duration,
    /// For messages.
    user: String,
    probe: ClientConfig,
}

impl Poller {
    fn run(mut self) {
        while let Some(why) = self.serve() {
            if let Err(error) = self.recreate_client(why) {
                let reason = format!("a new kafka client could not be created: {error}");
                self.consumer.context().state().fail(SourceError::Fatal(reason));
            }
        }
        self.finish();
    }

    /// Reads and commits. Returns the reason to recreate the client, or `None` when the thread must end.
    fn serve(&mut self) -> Option<&'static str> {
        let context = self.consumer.context().clone();
        // `None` for a name that no topic can have: then there is no partition either.
        let ids = TopicIds::new(self.consumer.client(), &context.topic);
        while self.is_running() {
            context.observer.polled();
            let why = context.stuck_reason();
            if why.is_some() {
                return why;
            }
            self.read();
            if let Some(ids) = &ids {
                self.check_topic_id(ids);
            }
            self.ask_membership();
            if !context.state().unreadable.is_empty() {
                context.skip_unreadable(&self.consumer, &self.probe);
            }
            context.start_doubted(&self.consumer);
            context.start_partitions(&self.consumer);
            self.commit();
        }
        // `ids` is dropped here, before the client.
        None
    }

    /// Replaces the client, because librdkafka 2.12 keeps wrong facts. It asks for the coordinator again but keeps that
    /// broker's old address: if the broker moved and another program accepts connections there, librdkafka never
    /// recovers. It ignores the leaders of a topic that was created again, because their epochs are lower than the old
    /// topic's. And once, after the restart of a broker behind a proxy, it tried no broker again.
    fn recreate_client(&mut self, why: &str) -> KafkaResult<()> {
        tracing::warn!("{why}: a new kafka client is created");
        let context = self.consumer.context().as_ref().clone();
        {
            // The conditions that were reported stay reported until the new client sees their end.
            let mut state = context.state();
            state.client_since = Some(Instant::now());
            (state.topic_id, state.is_recreated) = (None, false);
            state.refused_for_good = None;
        }
        self.sent = None;
        // The assignment drops the old client, which leaves the group.
        self.consumer = self.client.create_with_context(context)?;
        // After a fatal error the old client reports no revocation.
        let context = self.consumer.context();
        let left = context.state().partitions_that(|_| true);
        context.revoke(&left);
        self.consumer.subscribe(&[&self.consumer.context().topic])
    }

    /// Applies the commands that came. Returns whether to go on reading.
    fn is_running(&self) -> bool {
        let context = self.consumer.context();
        let state = context.apply_commands();
        !state.is_stopping() && state.failed.is_none() && !context.events.is_closed()
    }

    /// Sends the records that were read and the last event, waits until they are written, commits and leaves the group.
    fn finish(self) {
        let context = self.consumer.context().clone();
        let is_closing = || context.apply_commands().stage == Stage::Close;
        while !is_closing() && !context.send_pending(POLL_TIMEOUT) {
            context.observer.polled();
        }
        let failed = context.state().failed.take();
        let last = failed.map_or(SourceEvent::Ended, SourceEvent::Failed);
        let timeout = if is_closing() { Duration::ZERO } else { self.grace };
        // If the receiver does not take the event in time, it is gone.
        let _ = context.send(last, timeout);
        let deadline = Instant::now() + self.grace;
        while !is_closing() && !context.events.is_closed() && Instant::now() < deadline {
            context.observer.polled();
            std::thread::sleep(POLL_TIMEOUT);
        }
        drop(context.apply_commands());
        context.commit_and_wait(&self.consumer, LAST_COMMIT);
        // Dropping the consumer leaves the group.
    }

    /// Commits the written offsets, when the interval is over or a commit was requested.
    fn commit(&mut self) {
        let context = self.consumer.context();
        let waited = self.committed.elapsed();
        let is_due = {
            let mut state = context.state();
            waited >= self.commit_interval
                || (waited >= MIN_COMMIT_INTERVAL && std::mem::take(&mut state.commit_soon))
        };
        if is_due {
            self.committed = Instant::now();
            // From time to time also positions that did not move, to detect a database that went back in time.
            let all = self.stored.elapsed() >= account::IDLE_STORE_INTERVAL;
            if context.ask_to_store(all) && all {
                self.stored = Instant::now();
            }
        }
        self.is_commit_due |= is_due || std::mem::take(&mut context.state().commit_stored);
        if self.is_commit_due && !self.sent.as_ref().is_some_and(SentCommit::is_unanswered) {
            self.is_commit_due = false;
            self.sent = context.commit(&self.consumer);
        }
    }

    /// Checks the topic's id from time to time.
    fn check_topic_id(&mut self, ids: &TopicIds) {
        if let Some(Ok(Some(id))) = ids.answer(Duration::ZERO) {
            self.consumer.context().state().topic_has(&id);
        }
        if self.topic_id_asked.elapsed() >= TOPIC_ID_INTERVAL {
            self.topic_id_asked = Instant::now();
            ids.ask(TOPIC_ID_INTERVAL);
            self.check_rights();
        }
    }

    /// Asks whether the broker has accepted the member, because librdkafka's statistics do not show this under KIP-848.
    fn ask_membership(&mut self) {
        if self.is_broker_assigned && self.asked_membership.elapsed() >= MEMBERSHIP_INTERVAL {
            self.asked_membership = Instant::now();
            let generation = ffi::generation(self.consumer.client());
            self.consumer.context().state().is_accepted = generation > 0;
        }
    }

    /// Checks whether missing rights were granted again, because librdkafka reports only once that they are missing.
    fn check_rights(&self) {
        let context = self.consumer.context();
        let is_refused = {
            let state = context.state();
            state.reported_waits.contains(&GroupWait::Permission) && state.group_error.is_none()
        };
        if is_refused && inspect::may_read(&self.probe, &context.topic) {
            context.show(GroupWait::Permission, None);
        }
    }

    /// Reads until no record is available or a chunk is full, then sends the chunk.
    fn read(&mut self) {
        let mut timeout = POLL_TIMEOUT;
        let (mut count, mut bytes) = (0, 0);
        while count < CHUNK_RECORDS && bytes < CHUNK_BYTES {
            match self.consumer.poll(timeout) {
                Some(Ok(message)) => {
                    bytes += self.copy(&message);
                    count += 1;
                    timeout = Duration::ZERO;
                }
                Some(Err(error)) => {
                    if !self.is_recoverable(&error) {
                        return;
                    }
                    // librdkafka continues after a damaged batch: report the gap before its records are read.
                    if !self.consumer.context().state().unreadable.is_empty() {
                        break;
                    }
                }
                None => break,
            }
        }
        let context = self.consumer.context();
        if !context.send_pending(SEND_TIMEOUT) || context.state().halted {
            self.pause();
        }
    }

    /// Copies a record out of librdkafka's memory; returns its size in bytes.
    fn copy(&self, message: &BorrowedMessage<'_>) -> usize {
        let context = self.consumer.context();
        let record = self.arena.borrow_mut().copy(message);
        let size = record.size();
        let mut state = context.state();
        if let Some(epoch) = ffi::leader_epoch(message) {
            state.log(message.partition()).saw_epoch(message.offset(), epoch);
        }
        state.push(record);
        size
    }

    /// Pauses all partitions while the loop takes no records, and keeps polling so that the group sees a living member.
    /// Resumes when the loop takes records again.
    fn pause(&mut self) {
        let context = self.consumer.context().clone();
        context.state().is_full = true;
        self.for_each_read(BaseConsumer::pause);
        while self.is_running() && (!context.send_pending(POLL_TIMEOUT) || context.state().halted) {
            context.observer.polled();
            self.commit();
            match self.consumer.poll(POLL_TIMEOUT) {
                // A record of a partition that was started just before the pause.
                Some(Ok(message)) => {
                    self.copy(&message);
                }
                Some(Err(error)) => {
                    self.is_recoverable(&error);
                }
                None => {}
            }
        }
        context.state().is_full = false;
        self.for_each_read(BaseConsumer::resume);
    }

    /// Applies `act` to all partitions that are being read.
    fn for_each_read(
        &self,
        act: fn(&BaseConsumer<Context>, &rdkafka::TopicPartitionList) -> KafkaResult<()>,
    ) {
        let context = self.consumer.context();
        let read = context.state().partitions_that(|partition| partition.reading == Reading::Reads);
        let list = context.list(read.into_iter().map(|partition| (partition, 0)));
        if let Err(error) = list.and_then(|list| act(&self.consumer, &list)) {
            tracing::warn!(%error, "partitions could not be paused or resumed");
        }
    }

    /// Whether polling can go on after this error. librdkafka recovers from most errors by itself.
    fn is_recoverable(&self, error: &KafkaError) -> bool {
        use RDKafkaErrorCode as Code;
        let context = self.consumer.context();
        match error {
            KafkaError::MessageConsumptionFatal(code)
                if context.state().is_for_this_client(*code) =>
            {
                context.state().refused_for_good.get_or_insert_with(Instant::now);
                return *code == Code::GroupAuthorizationFailed && self.is_refused(*code);
            }
            // With the broker's own protocol (KIP-848) librdkafka calls this error fatal.
            KafkaError::MessageConsumptionFatal(code @ Code::GroupAuthorizationFailed) => {
                let reason = self.refusal(*code);
                context.state().fail(SourceError::NotAllowed(reason));
                return false;
            }
            KafkaError::MessageConsumptionFatal(code) => {
                context.state().fail(SourceError::Fatal(code.to_string()));
                return false;
            }
            KafkaError::MessageConsumption(
                code @ (Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed),
            ) => return self.is_refused(*code),
            KafkaError::MessageConsumption(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                context.state().topic_is_missing = true;
            }
            error if config::is_out_of_range(error) => {
                context.state().is_position_refused = true;
                return true;
            }
            _ => {}
        }
        // librdkafka repeats the error with every refresh of the metadata, for example for a missing topic.
        if context.repeated.is_new(error) {
            tracing::warn!(%error, "reading from kafka failed; librdkafka retries by itself");
        }
        true
    }

    /// Handles a missing right. Before the first read it is a configuration error, so the run ends. A right that was
    /// revoked later may come back, and a supervisor might not start the process again by then.
    fn is_refused(&self, code: RDKafkaErrorCode) -> bool {
        let context = self.consumer.context();
        let reason = self.refusal(code);
        if !context.state().was_allowed {
            context.state().fail(SourceError::NotAllowed(reason));
            return false;
        }
        context.show(GroupWait::Permission, Some(reason));
        true
    }

    /// A message that names the missing right.
    fn refusal(&self, code: RDKafkaErrorCode) -> String {
        let context = self.consumer.context();
        let what = match code {
            RDKafkaErrorCode::GroupAuthorizationFailed => {
                format!("use the group {}", context.group)
            }
            _ => format!("read the topic {}", context.topic),
        };
        format!("user {} may not {what}: {code}", self.user)
    }
}
