//! The member of the group against librdkafka's own broker: the test is the loop that writes the records.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::sync::mpsc::Receiver;

use super::callbacks::Context;
use super::thread::PollThread;
use super::*;
use crate::kafka::config;
use crate::kafka::observe::{GroupObserver, GroupWait, PartitionEnd, SettledEvidence};
use crate::pipeline::ports::{
    AssignmentId, Chunk, SourceControl, SourceError, SourceEvent, WrittenOffsets,
};
use crate::record::Record;
use crate::settings::Settings;

const TOPIC: &str = "t";
const GROUP: &str = "g";
/// For anything that is waited for; afterwards something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the group told.
#[derive(Debug, Default)]
struct Seen(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    lost: u64,
    waits: Vec<String>,
    settled: BTreeMap<i32, Option<String>>,
}

impl Seen {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupObserver for Seen {
    fn polled(&self) {}
    fn membership(&self, _: &str) {}
    fn assigned(&self) {}
    fn revoking(&self) {}
    fn waits_for(&self, _: GroupWait, reason: String) -> bool {
        self.told().waits.push(reason);
        true
    }
    fn has(&self, _: GroupWait) {}
    fn lost(&self, records: u64) {
        self.told().lost += records;
    }
    fn started(&self, _: i32, _: i64, _: AssignmentId) {}
    fn forget(&self, _: i32) {}
    fn read(&self, _: &[Record]) {}
    fn ends(&self, _: &[PartitionEnd]) {}
}

impl SettledEvidence for Seen {
    fn assigned(&self, partition: i32, _: bool, fingerprint: Option<&str>) {
        self.told().settled.insert(partition, fingerprint.map(str::to_owned));
    }
    fn revoked(&self, _: i32) {}
    fn fingerprint(&self, partition: i32) -> Option<String> {
        self.told().settled.get(&partition).cloned().flatten()
    }
}

/// A broker with the topic.
struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    fn new(partitions: i32) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, partitions, 1).unwrap();
        Self(cluster)
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.kafka.brokers = self.0.bootstrap_servers();
        settings.kafka.topic = TOPIC.into();
        settings.kafka.group = GROUP.into();
        settings.kafka.revoke_timeout = Duration::from_millis(500);
        // A member that is left in the group is missed long after the test's end.
        settings.kafka.client.insert("session.timeout.ms".into(), "300000".into());
        if let Ok(debug) = std::env::var("DEBUG_KAFKA") { settings.kafka.client.insert("debug".into(), debug); }
        settings
    }

    fn member(&self) -> Member {
        let seen = std::sync::Arc::new(Seen::default());
        let observers = Observers { group: seen.clone(), settled: seen.clone() };
        let (thread, events) = start(&self.settings(), observers).unwrap();
        Member { thread, events, seen }
    }

    /// Sends so many records to a partition.
    fn produce(&self, partition: i32, count: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.0.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        for _ in 0..count {
            let record = BaseRecord::<(), _>::to(TOPIC).partition(partition).payload("x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    fn outsider(&self) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.0.bootstrap_servers()).set("group.id", GROUP);
        config.create().unwrap()
    }

    /// The group's offset of a partition.
    fn committed(&self, partition: i32) -> Option<i64> {
        let mut list = TopicPartitionList::new();
        list.add_partition(TOPIC, partition);
        let list = self.outsider().committed_offsets(list, PATIENCE).unwrap();
        list.elements()[0].offset().to_raw().filter(|offset| *offset >= 0)
    }

    /// Commits as another member did before.
    fn commit(&self, partition: i32, offset: i64, metadata: &str) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, partition, Offset::Offset(offset)).unwrap();
        list.find_partition(TOPIC, partition).unwrap().set_metadata(metadata);
        self.outsider().commit(&list, CommitMode::Sync).unwrap();
    }
}

struct Member {
    thread: PollThread,
    events: Receiver<SourceEvent>,
    seen: std::sync::Arc<Seen>,
}

impl Member {
    async fn next(&mut self) -> SourceEvent {
        let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        next.unwrap_or_else(|_| panic!("no event: {:?}", self.seen.told())).expect("an event")
    }

    /// The next records; revocations before them are answered at once.
    async fn records(&mut self) -> Chunk {
        loop {
            match self.next().await {
                SourceEvent::Records(chunk) => return chunk,
                SourceEvent::Revoking { done } => done.send(()).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads so many records of a partition, and returns them with their assignments.
    async fn read(&mut self, partition: i32, count: usize) -> Vec<(i64, AssignmentId)> {
        let mut all = Vec::new();
        while all.len() < count {
            let chunk = self.records().await;
            let of = chunk.records.iter().filter(|record| record.position.partition == partition);
            all.extend(of.map(|record| (record.position.offset, chunk.assignment)));
        }
        all
    }

    /// Says that a record of a partition is written.
    fn written(&self, partition: i32, (offset, assignment): (i64, AssignmentId)) {
        let mut offsets = WrittenOffsets::default();
        let position = model::Position { topic: TOPIC.into(), partition, offset };
        offsets.include(&position, assignment);
        self.thread.control().written(&offsets);
        self.thread.control().commit_soon();
    }
}

/// Waits until this holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_does_not_answer_is_asked_until_it_does() {
    let broker = Broker::new(1);
    broker.produce(0, 100);
    broker.commit(0, 50, "evidence=e");
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    broker.0.request_errors(RDKafkaApiKey::OffsetFetch, &[error; 10_000]);
    let mut member = broker.member();
    let waits = |member: &Member| member.seen.told().waits.len();
    until("three questions in vain", || waits(&member) >= 3).await;
    assert!(member.seen.told().waits[0].contains("the committed offsets are not known"));
    assert!(member.events.try_recv().is_err(), "nothing is read without a start");
    broker.0.clear_request_errors(RDKafkaApiKey::OffsetFetch);
    let read = member.read(0, 50).await;
    assert_eq!(read[0].0, 50);
    assert_eq!(member.seen.fingerprint(0).as_deref(), Some("e"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_outlives_a_revocation_does_not_set_the_group_back() {
    let broker = Broker::new(2);
    broker.produce(0, 100);
    broker.produce(1, 100);
    let mut first = broker.member();
    let (mut of_first, mut all) = (Vec::new(), 0);
    while all < 200 {
        let chunk = first.records().await;
        all += chunk.records.len();
        of_first
            .extend(chunk.records.iter().map(|record| (record.position.clone(), chunk.assignment)));
    }

    // Another member gets a partition, while nothing that the first read of it is written yet.
    let mut second = broker.member();
    let revoked = loop {
        match first.next().await {
            SourceEvent::Revoking { done } => break done,
            SourceEvent::Records(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let chunk = second.records().await;
    let partition = chunk.records[0].position.partition;
    second.written(partition, (79, chunk.assignment));
    until("the second's commit", || broker.committed(partition) == Some(80)).await;
    drop(second);

    // It comes back; then the old write ends.
    let again = first.read(partition, 20).await;
    assert_eq!(again[0].0, 80);
    drop(revoked);
    let old = of_first.iter().find(|(at, _)| at.partition == partition && at.offset == 9).unwrap();
    first.written(partition, (9, old.1));
    let other =
        of_first.iter().find(|(at, _)| at.partition != partition && at.offset == 99).unwrap();
    first.written(1 - partition, (99, other.1));
    until("the first's commit", || broker.committed(1 - partition) == Some(100)).await;
    assert_eq!(broker.committed(partition), Some(80));
    first.written(partition, again[19]);
    until("the new commit", || broker.committed(partition) == Some(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_librdkafka_does_not_take_ends_the_run() {
    let broker = Broker::new(1);
    let (events, _taken) = tokio::sync::mpsc::channel(1);
    let (_say, commands) = std::sync::mpsc::channel();
    let seen = std::sync::Arc::new(Seen::default());
    let context = Context {
        state: Mutex::new(state::PollState::new(commands)),
        events,
        observer: seen.clone(),
        settled: seen,
        topic: TOPIC.into(),
        revoke_timeout: Duration::ZERO,
        on_gap: crate::settings::OnGap::Continue,
        repeated: Default::default(),
    };
    let config = config::consumer(&broker.settings());
    let consumer: BaseConsumer<Context> = config.create_with_context(context).unwrap();
    let context = consumer.context().clone();
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition(TOPIC, 0);
    let assign = RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
    let revoke = RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS;
    let failed = || match context.state().failed.take() {
        None => 0,
        Some(error @ SourceError::Fatal(_)) => error.exit_code(),
        Some(other) => panic!("{other:?}"),
    };
    context.rebalance(&consumer, assign, &mut partitions);
    assert_eq!(failed(), 0);
    context.rebalance(&consumer, assign, &mut partitions);
    assert_eq!(failed(), 70, "it has that partition already");
    context.rebalance(&consumer, revoke, &mut partitions);
    assert_eq!(failed(), 0);
    context.rebalance(&consumer, revoke, &mut partitions);
    assert_eq!(failed(), 70, "it does not have it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_loop_ends_the_thread_and_leaves_the_group() {
    let broker = Broker::new(2);
    broker.produce(0, 10);
    broker.produce(1, 10);
    // One whose loop ends, one whose owner goes.
    for keeps_thread in [true, false] {
        let mut member = broker.member();
        member.records().await;
        let Member { thread, events, .. } = member;
        drop(events);
        let thread = keeps_thread.then_some(thread);
        let mut next = broker.member();
        // All partitions, long before the session of the one before ends.
        let mut partitions = std::collections::BTreeSet::new();
        while partitions.len() < 2 {
            let chunk = next.records().await;
            partitions.extend(chunk.records.iter().map(|record| record.position.partition));
        }
        drop(thread);
    }
}
