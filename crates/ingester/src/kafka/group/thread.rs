//! The poll thread: an operating system thread that owns the consumer and does nothing that waits for a database.

use std::cell::RefCell;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use store::Positions;
use tokio::sync::{mpsc, oneshot};

use super::callbacks::{Context, Shared};
use super::state::{Command, PollState, Reading, Stage};
use super::{account, claims};
use crate::kafka::config;
use crate::kafka::ffi::{self, TopicIds};
use crate::kafka::inspect;
use crate::kafka::observe::{GroupObserver, GroupWait, SettledEvidence};
use crate::kafka::record_arena::RecordArena;
use crate::pipeline::ports::{SourceControl, SourceError, SourceEvent, WrittenOffsets};
use crate::settings::Settings;

/// Records handed over at once: enough that the hand-over costs nothing, few enough to pass within a millisecond.
pub(in crate::kafka) const CHUNK_RECORDS: usize = 512;
/// A hand-over of large records ends with the one that reaches this many bytes: what waits is not counted yet against
/// `limits.max_buffered_bytes`, and must stay small beside it.
pub(crate) const CHUNK_BYTES: usize = 512 * 1024;
/// Hand-overs that may wait.
const CHANNEL_EVENTS: usize = 4;
/// How long one poll waits for a record; bounds how late a command is seen.
const POLL: Duration = Duration::from_millis(50);
/// No two commits are nearer than this, however many dead letters there are.
const SOON: Duration = Duration::from_millis(10);
/// How often the topic's id is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often the membership is asked for; as often as librdkafka's statistics come.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long the loop may be busy before the partitions are paused. Pausing throws away what librdkafka has fetched, so
/// a moment's delay is not worth it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the last commit may take.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// What is said to the poll thread; it listens between two polls.
#[derive(Debug)]
pub(crate) struct PollControl(Sender<Command>);

impl PollControl {
    /// When the thread has ended, which is what the last commands are for, nobody listens any more.
    fn say(&self, command: Command) {
        let _ = self.0.send(command);
    }
}

impl SourceControl for PollControl {
    fn written(&self, offsets: &WrittenOffsets) {
        self.say(Command::Written(offsets.clone()));
    }

    fn commit_soon(&self) {
        self.say(Command::CommitSoon);
    }

    fn halt(&self) {
        self.say(Command::Halt);
    }
}

/// The running poll thread. When this is dropped, the thread commits what is written, leaves the group and ends.
pub(crate) struct PollThread {
    control: Arc<PollControl>,
    ended: Option<oneshot::Receiver<()>>,
    _thread: JoinHandle<()>,
}

impl PollThread {
    /// For who writes the records.
    pub(crate) fn control(&self) -> Arc<PollControl> {
        self.control.clone()
    }

    /// Asks it to read no more. The channel closes when everything read has been handed over.
    pub(crate) fn stop_reading(&self) {
        self.control.say(Command::Stop);
    }

    /// Commits what is written and leaves the group. Returns when that is done.
    pub(crate) async fn close(mut self) {
        self.control.say(Command::Close);
        if let Some(ended) = self.ended.take() {
            // A failure says that the thread has ended already.
            let _ = ended.await;
        }
    }
}

impl Drop for PollThread {
    fn drop(&mut self) {
        self.control.say(Command::Close);
    }
}

/// Who is told what the member of the group does.
pub(crate) struct Observers {
    pub(crate) group: Arc<dyn GroupObserver>,
    pub(crate) settled: Arc<dyn SettledEvidence>,
    /// The table's own account; none where none is kept.
    pub(crate) positions: Option<Arc<dyn Positions>>,
}

/// Joins the group and starts reading. Returns the thread and the one way out of it. Needs a runtime, for what asks the
/// database.
///
/// # Errors
/// When librdkafka refuses a setting, by name.
pub(crate) fn start(
    settings: &Settings,
    observers: Observers,
) -> KafkaResult<(PollThread, mpsc::Receiver<SourceEvent>)> {
    let (events, receiver) = mpsc::channel(CHANNEL_EVENTS);
    let (say, commands) = std::sync::mpsc::channel();
    let requests = observers.positions.map(|positions| {
        let (requests, asked) = mpsc::unbounded_channel();
        tokio::spawn(claims::keep(positions, asked, say.clone()));
        requests
    });
    let context = Context(Arc::new(Shared {
        state: Mutex::new(PollState::new(commands)),
        events,
        observer: observers.group,
        settled: observers.settled,
        requests,
        token: account::token(),
        group: settings.kafka.group.clone(),
        topic: settings.kafka.topic.as_str().into(),
        revoke_timeout: settings.kafka.revoke_timeout,
        session: session(settings),
        on_gap: settings.kafka.on_gap,
        repeated: Default::default(),
    }));
    let client = config::consumer(settings);
    let consumer: BaseConsumer<Context> = client.create_with_context(context)?;
    consumer.subscribe(&[&settings.kafka.topic])?;
    let (end, ended) = oneshot::channel();
    let poller = Poller {
        arena: RefCell::new(RecordArena::new(consumer.context().topic.clone())),
        consumer,
        client,
        commit_interval: settings.kafka.commit_interval,
        committed: Instant::now(),
        stored: Instant::now(),
        looked: Instant::now(),
        is_broker_assigned: settings.kafka.is_broker_assigned(),
        asked_membership: Instant::now(),
        grace: settings.shutdown.grace,
        user: settings.kafka.client.get("sasl.username").map_or("(none)", |user| user).to_owned(),
        group: settings.kafka.group.clone(),
        probe: inspect::probe(settings),
    };
    let thread = std::thread::Builder::new()
        .name("kafka-poll".into())
        .spawn(move || {
            poller.run();
            // Nobody may wait for it.
            let _ = end.send(());
        })
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    let control = Arc::new(PollControl(say));
    Ok((PollThread { control, ended: Some(ended), _thread: thread }, receiver))
}

/// How long the group keeps a member that it does not hear; with the broker's own protocol, its default.
fn session(settings: &Settings) -> Duration {
    let millis = settings.kafka.client.get("session.timeout.ms").and_then(|text| text.parse().ok());
    let default = if settings.kafka.is_broker_assigned() { 45_000 } else { 10_000 };
    Duration::from_millis(millis.unwrap_or(default))
}

struct Poller {
    consumer: BaseConsumer<Context>,
    /// What the consumer is made with.
    client: ClientConfig,
    arena: RefCell<RecordArena>,
    commit_interval: Duration,
    committed: Instant,
    /// When the accounts of all partitions were written last.
    stored: Instant,
    looked: Instant,
    is_broker_assigned: bool,
    asked_membership: Instant,
    grace: Duration,
    /// For messages: who reads, and in which group.
    user: String,
    group: String,
    probe: ClientConfig,
}

impl Poller {
    fn run(mut self) {
        while let Some(why) = self.serve() {
            if let Err(error) = self.make_anew(why) {
                let reason = format!("the client could not be made anew: {error}");
                self.consumer.context().state().fail(SourceError::Fatal(reason));
            }
        }
        self.finish();
    }

    /// Reads and commits. Answers why the client is to be made anew; with none nothing more is to be read.
    fn serve(&mut self) -> Option<&'static str> {
        let context = self.consumer.context().clone();
        // None for a name that no topic can have: then there is no partition either.
        let ids = TopicIds::new(self.consumer.client(), &context.topic);
        // As this client learnt it first.
        let mut topic_id = None;
        while self.goes_on() {
            context.observer.polled();
            let why = context.may_be_stuck();
            if why.is_some() {
                return why;
            }
            self.read();
            if ids.as_ref().is_some_and(|ids| self.look(ids, &mut topic_id)) {
                return Some("the topic was made again");
            }
            self.ask_membership();
            if !context.state().unreadable.is_empty() {
                context.pass_unreadable(&self.consumer, &self.probe);
            }
            context.start_doubted(&self.consumer);
            context.start_partitions(&self.consumer);
            self.commit();
        }
        // The queue of `ids` is gone before the client is.
        None
    }

    /// What librdkafka 2.12 knows once it keeps. It asks again who the coordinator is, but takes the address that it had of that
    /// broker: when the broker has moved and something else accepts connections there, it never comes back. It ignores who
    /// leads a partition of a topic that was made again, for the leader's epoch is lower than the old topic's. And once, after
    /// a broker behind a proxy was restarted, it tried no broker any more.
    fn make_anew(&mut self, why: &str) -> KafkaResult<()> {
        tracing::warn!("{why}: the kafka client is made anew");
        let context = self.consumer.context().as_ref().clone();
        {
            let mut state = context.state();
            (state.coordinator_away, state.unconnected) = (None, None);
        }
        // The one before leaves the group when it is dropped here.
        self.consumer = self.client.create_with_context(context)?;
        self.consumer.subscribe(&[&self.consumer.context().topic])
    }

    fn goes_on(&self) -> bool {
        let context = self.consumer.context();
        let mut state = context.state();
        state.obey();
        !state.is_stopping() && state.failed.is_none() && !context.events.is_closed()
    }

    /// Hands over what was read and says that nothing follows, waits until it is written, commits it and leaves the group.
    fn finish(self) {
        let context = self.consumer.context().clone();
        let is_closing = || {
            let mut state = context.state();
            state.obey();
            state.stage == Stage::Close
        };
        while !is_closing() && !context.hand_over(POLL) {
            context.observer.polled();
        }
        let failed = context.state().failed.take();
        let last = failed.map_or(SourceEvent::Ended, SourceEvent::Failed);
        let patience = if is_closing() { Duration::ZERO } else { self.grace };
        // Who does not take it in time is not there.
        let _ = context.send(last, patience);
        let deadline = Instant::now() + self.grace;
        while !is_closing() && !context.events.is_closed() && Instant::now() < deadline {
            context.observer.polled();
            std::thread::sleep(POLL);
        }
        context.state().obey();
        context.commit_and_wait(&self.consumer, LAST_COMMIT);
        // Dropping the consumer leaves the group.
    }

    /// Commits what is written, when it is time or somebody asked for it.
    fn commit(&mut self) {
        let context = self.consumer.context();
        let waited = self.committed.elapsed();
        let is_due = {
            let mut state = context.state();
            waited >= self.commit_interval
                || (waited >= SOON && std::mem::take(&mut state.commit_soon))
        };
        if is_due {
            self.committed = Instant::now();
            // Those that did not move too, from time to time: the database may have gone back.
            let all = self.stored.elapsed() >= account::IDLE;
            if context.ask_to_store(all) && all {
                self.stored = Instant::now();
            }
        }
        if is_due || std::mem::take(&mut context.state().commit_stored) {
            context.commit(&self.consumer);
        }
    }

    /// Asks from time to time for the topic's id; answers whether the topic is another one than it was.
    fn look(&mut self, ids: &TopicIds, first: &mut Option<String>) -> bool {
        let mut is_another = false;
        if let Some(Ok(Some(id))) = ids.answer(Duration::ZERO) {
            let is_read_as_of_another = self.consumer.context().is_read_as_of_another(&id);
            is_another = is_read_as_of_another || first.get_or_insert(id.clone()) != &id;
        }
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            ids.ask(LOOK_EVERY);
            self.try_again();
        }
        is_another
    }

    /// Asks whether the broker has taken the member, where librdkafka's statistics do not say so.
    fn ask_membership(&mut self) {
        if self.is_broker_assigned && self.asked_membership.elapsed() >= ASK_EVERY {
            self.asked_membership = Instant::now();
            let generation = ffi::generation(self.consumer.client());
            self.consumer.context().state().is_taken = generation > 0;
        }
    }

    /// Whether rights that were taken away are back: librdkafka says only once that they are missing.
    fn try_again(&self) {
        let context = self.consumer.context();
        let is_refused = {
            let state = context.state();
            state.told.contains(&GroupWait::Permission) && state.group_trouble.is_none()
        };
        if is_refused && inspect::may_read(&self.probe, &context.topic) {
            context.show(GroupWait::Permission, None);
        }
    }

    /// Reads until there is nothing more at once or a chunk is full, and hands it over.
    fn read(&mut self) {
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
                    if !self.is_recoverable(&error) {
                        return;
                    }
                    // librdkafka goes on behind a damaged batch: what comes from there is not read before the gap is said.
                    if !self.consumer.context().state().unreadable.is_empty() {
                        break;
                    }
                }
                None => break,
            }
        }
        let context = self.consumer.context();
        if !context.hand_over(PATIENCE) || context.state().halted {
            self.pause();
        }
    }

    /// Takes a record out of librdkafka's memory; answers how many bytes it holds in ours.
    fn keep(&self, message: &BorrowedMessage<'_>) -> usize {
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

    /// The loop takes nothing, or nothing more: pause, keep polling so that the group knows we live, resume when it
    /// takes again.
    fn pause(&mut self) {
        let context = self.consumer.context().clone();
        context.state().is_full = true;
        self.all(BaseConsumer::pause);
        while self.goes_on() && (!context.hand_over(POLL) || context.state().halted) {
            context.observer.polled();
            self.commit();
            match self.consumer.poll(POLL) {
                // A partition that was started this moment, before it was paused.
                Some(Ok(message)) => {
                    self.keep(&message);
                }
                Some(Err(error)) => {
                    self.is_recoverable(&error);
                }
                None => {}
            }
        }
        context.state().is_full = false;
        self.all(BaseConsumer::resume);
    }

    /// Of the partitions that have a start.
    fn all(
        &self,
        act: fn(&BaseConsumer<Context>, &rdkafka::TopicPartitionList) -> KafkaResult<()>,
    ) {
        let context = self.consumer.context();
        let read = context.state().partitions_that(|of| of.reading == Reading::Reads);
        let list = context.list(read.into_iter().map(|partition| (partition, 0)));
        if let Err(error) = list.and_then(|list| act(&self.consumer, &list)) {
            tracing::warn!(%error, "partitions could not be paused or resumed");
        }
    }

    /// Whether an error of `poll` leaves anything to poll for. Most are news of something librdkafka is mending.
    fn is_recoverable(&self, error: &KafkaError) -> bool {
        use RDKafkaErrorCode as Code;
        let context = self.consumer.context();
        match error {
            // With the broker's own protocol librdkafka calls it fatal.
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
                context.state().asked_for_start = true;
                return true;
            }
            _ => {}
        }
        // The same error comes with every refresh of the metadata, as for a topic that is not there yet.
        if context.repeated.is_news(error) {
            tracing::warn!(%error, "reading from kafka; it goes on by itself");
        }
        true
    }

    /// The broker does not let us read. Before anything was read that is for an operator to mend; a right that was taken
    /// away later may come back, and a supervisor would not start us again by then.
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

    /// What the user may not do, in words.
    fn refusal(&self, code: RDKafkaErrorCode) -> String {
        let what = match code {
            RDKafkaErrorCode::GroupAuthorizationFailed => format!("use the group {}", self.group),
            _ => format!("read the topic {}", self.consumer.context().topic),
        };
        format!("user {} may not {what}: {code}", self.user)
    }
}
