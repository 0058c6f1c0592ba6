//! The group member against a real broker; the test takes the place of the loop that writes the records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use testkit::{Kafka, NetworkFault, Proxy, eventually, unique};
use tokio::sync::mpsc::Receiver;

use super::callbacks::{Context, Shared};
use super::thread::PollThread;
use super::*;
use crate::kafka::config;
use crate::kafka::observe::{GroupObserver, GroupWait, PartitionEnd, SettledEvidence};
use crate::pipeline::ports::{
    AssignmentId, Chunk, SourceControl, SourceError, SourceEvent, WrittenOffsets,
};
use crate::record::Record;
use crate::settings::{OnGap, Settings};

/// The time limit of every wait; after it the test fails.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than any of these tests, so that a member that does not leave the group is noticed.
const SESSION: &str = "300000";
/// Kafka's API keys of OffsetCommit and OffsetFetch requests.
const OFFSET_COMMIT: u16 = 8;
const OFFSET_FETCH: u16 = 9;

/// Records the calls to the observers.
#[derive(Debug, Default)]
struct Seen(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    polled: u32,
    lost: u64,
    waits: Vec<String>,
    kept_out: Option<String>,
    settled_by: Option<String>,
}

impl Seen {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock()
    }
}

impl GroupObserver for Seen {
    fn polled(&self) {
        self.calls().polled += 1;
    }
    fn membership(&self, _: &str) {}
    fn assigned(&self) {}
    fn revoking(&self) {}
    fn waits_for(&self, what: GroupWait, reason: String) -> bool {
        match what {
            GroupWait::StartOffsets => self.calls().waits.push(reason),
            GroupWait::Membership => self.calls().kept_out = Some(reason),
            _ => {}
        }
        true
    }
    fn has(&self, _: GroupWait) {}
    fn lost(&self, records: u64) {
        self.calls().lost += records;
    }
    fn went_back(&self, _: u64) {}

    fn committed_replay(&self, _: i64) {}
    fn last_replay(&self) -> Option<i64> {
        None
    }
    fn started(&self, _: i32, _: i64, _: AssignmentId) {}
    fn read(&self, _: &[Record]) {}
    fn ends(&self, _: &[PartitionEnd]) {}
}

impl SettledEvidence for Seen {
    fn assigned(&self, _: i32, _: bool, fingerprint: Option<&str>) {
        self.calls().settled_by = fingerprint.map(str::to_owned);
    }
    fn revoked(&self, _: i32) {}
    fn fingerprint(&self, _: i32) -> Option<String> {
        self.calls().settled_by.clone()
    }
}

/// A topic and a group for one test.
struct Scene {
    brokers: String,
    topic: String,
}

impl Scene {
    async fn new(brokers: String, name: &str, partitions: i32) -> Self {
        let topic = unique(name);
        testkit::topic(&brokers, &topic, partitions, &[]).await;
        Self { brokers, topic }
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.kafka.brokers.clone_from(&self.brokers);
        settings.kafka.topic.clone_from(&self.topic);
        settings.kafka.group.clone_from(&self.topic);
        settings.kafka.revoke_timeout = Duration::from_millis(500);
        // The tests say when.
        settings.kafka.commit_interval = TIMEOUT;
        settings.kafka.client.insert("session.timeout.ms".into(), SESSION.into());
        settings
    }

    fn member_of(&self, brokers: &str) -> Member {
        let mut settings = self.settings();
        settings.kafka.brokers = brokers.to_owned();
        Member::of(&settings)
    }

    fn member(&self) -> Member {
        self.member_of(&self.brokers)
    }

    /// Sends `count` records to a partition.
    async fn produce(&self, partition: i32, count: usize) {
        let record = |_| testkit::Record {
            partition: Some(partition),
            value: Some("x".into()),
            ..testkit::Record::default()
        };
        testkit::produce(&self.brokers, &self.topic, (0..count).map(record)).await;
    }

    fn outsider(&self) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("group.id", &self.topic);
        config.create().unwrap()
    }

    fn partition(&self, partition: i32, offset: Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, offset).unwrap();
        list
    }

    /// The group's committed offset of a partition.
    fn committed(&self, partition: i32) -> Option<i64> {
        let list = self.partition(partition, Offset::Invalid);
        let list = self.outsider().committed_offsets(list, TIMEOUT).unwrap();
        list.elements()[0].offset().to_raw().filter(|offset| *offset >= 0)
    }

    /// Commits like an earlier member.
    fn commit(&self, partition: i32, offset: i64, metadata: &str) {
        let list = self.partition(partition, Offset::Offset(offset));
        list.find_partition(&self.topic, partition).unwrap().set_metadata(metadata);
        self.outsider().commit(&list, CommitMode::Sync).unwrap();
    }
}

struct Member {
    thread: PollThread,
    events: Receiver<SourceEvent>,
    seen: Arc<Seen>,
    topic: Arc<str>,
}

impl Member {
    fn of(settings: &Settings) -> Self {
        let seen = Arc::new(Seen::default());
        let observers = Observers { group: seen.clone(), settled: seen.clone(), positions: None };
        let (thread, events) = start(settings, observers).unwrap();
        Self { thread, events, seen, topic: settings.kafka.topic.as_str().into() }
    }

    async fn next(&mut self) -> SourceEvent {
        let next = tokio::time::timeout(TIMEOUT, self.events.recv()).await;
        next.unwrap_or_else(|_| panic!("no event: {:?}", self.seen.calls())).expect("an event")
    }

    /// The next records; answers revocations that come before them.
    async fn records(&mut self) -> Chunk {
        loop {
            match self.next().await {
                SourceEvent::Records(chunk) => return chunk,
                SourceEvent::Revoking { done } => done.send(()).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads `count` records, and returns partition, offset and assignment of each.
    async fn read(&mut self, count: usize) -> Vec<(i32, i64, AssignmentId)> {
        let mut all = Vec::new();
        while all.len() < count {
            let chunk = self.records().await;
            let at = chunk.records.iter().map(|record| &record.position);
            all.extend(at.map(|at| (at.partition, at.offset, chunk.assignment)));
        }
        all
    }

    /// Reports that a record is written, and asks for its commit.
    fn written(&self, record: (i32, i64, AssignmentId)) {
        self.written_uncommitted(record);
        self.thread.control().commit_soon();
    }

    fn written_uncommitted(&self, (partition, offset, assignment): (i32, i64, AssignmentId)) {
        let mut offsets = WrittenOffsets::default();
        let position = model::Position { topic: self.topic.clone(), partition, offset };
        offsets.include(&position, assignment);
        self.thread.control().written(&offsets);
    }
}

/// An old build waited twenty seconds for the coordinator and then let librdkafka choose: offset 50 of another topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_does_not_answer_is_asked_until_it_does() {
    const LONGER_THAN_IT_WAITED: usize = 7;
    let proxy = Proxy::start();
    let kafka = Kafka::builder().listener("PROXIED", "PLAINTEXT", Some(proxy.port())).start();
    proxy.forward_to(&kafka.listener("PROXIED"));
    let scene = Scene::new(kafka.brokers(), "coordinator", 1).await;
    scene.produce(0, 100).await;
    scene.commit(0, 50, "evidence=e topic-id=AAAAAAAAAAAAAAAAAAAAAA");
    // What was not read of the other topic is a gap, which ends a member that must stop at one.
    let mut settings = scene.settings();
    settings.kafka.on_gap = OnGap::Stop;
    let event = Member::of(&settings).next().await;
    assert!(matches!(event, SourceEvent::Failed(SourceError::Gap(_))), "{event:?}");
    proxy.set(NetworkFault::RequestsLost(OFFSET_FETCH));
    let mut member = scene.member_of(&proxy.address());
    eventually("questions in vain", TIMEOUT, async || {
        member.seen.calls().waits.len() >= LONGER_THAN_IT_WAITED
    })
    .await;
    let reason = member.seen.calls().waits[0].clone();
    assert!(reason.contains("the committed offsets are not known"), "{reason}");
    assert!(member.events.try_recv().is_err(), "nothing is read without a start");
    proxy.set(NetworkFault::None);
    let read = member.read(100).await;
    assert_eq!(read[0].1, 0, "the first record of the new topic");
}

/// A question to a leader that does not answer takes two seconds of the poll thread.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_answer_keeps_no_other_partition_back() {
    const AWAY: i32 = 100;
    let cluster = MockCluster::new(2).unwrap();
    cluster.coordinator(MockCoordinator::Group("t".to_owned()), 1).unwrap();
    cluster.create_topic("t", AWAY + 1, 1).unwrap();
    for partition in 0..AWAY {
        cluster.partition_leader("t", partition, Some(2)).unwrap();
    }
    cluster.partition_leader("t", AWAY, Some(1)).unwrap();
    let scene = Scene { brokers: cluster.bootstrap_servers(), topic: "t".to_owned() };
    scene.produce(AWAY, 1).await;
    cluster.broker_round_trip_time(2, TIMEOUT * 10).unwrap();
    let mut member = scene.member();
    assert_eq!(member.read(1).await[0].0, AWAY);
}

/// A mirror copies the group's commits to a cluster whose topic has another id; the offset was translated.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_mirror_copied_is_a_start_and_no_gap() {
    let theirs = "cluster=theirs topic-id=AAAAAAAAAAAAAAAAAAAAAA account=kept replay=3";
    for (metadata, start, lost) in [(theirs, 50, 0), ("topic-id=AAAAAAAAAAAAAAAAAAAAAA", 0, 0)] {
        let scene = Scene::new(testkit::kafka().brokers(), "mirrored", 1).await;
        scene.produce(0, 100).await;
        scene.commit(0, 50, metadata);
        let mut member = scene.member();
        let read = member.read(usize::try_from(100 - start).unwrap()).await;
        assert_eq!((read[0].1, member.seen.calls().lost), (start, lost), "{metadata}");
    }
}

/// The address of the brokers leads to the other cluster from one moment to the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_takes_over_is_read_from_the_commits_that_a_mirror_copied() {
    let proxy = Proxy::start();
    let start = || Kafka::builder().listener("PROXIED", "PLAINTEXT", Some(proxy.port())).start();
    let (first, second) = (start(), start());
    proxy.forward_to(&first.listener("PROXIED"));
    let ours = Scene::new(first.brokers(), "taken-over", 1).await;
    let theirs = Scene { brokers: second.brokers(), topic: ours.topic.clone() };
    testkit::topic(&theirs.brokers, &theirs.topic, 1, &[]).await;
    theirs.produce(0, 80).await;
    let copied = "cluster=first topic-id=AAAAAAAAAAAAAAAAAAAAAA account=kept";
    theirs.commit(0, 80, copied);
    ours.produce(0, 100).await;
    let mut member = ours.member_of(&proxy.address());
    let read = member.read(100).await;
    member.written(read[99]);
    eventually("a commit", TIMEOUT, async || ours.committed(0) == Some(100)).await;

    proxy.forward_to(&second.listener("PROXIED"));
    proxy.cut();
    theirs.produce(0, 5).await;
    let read = member.read(5).await;
    assert_eq!((read[0].1, member.seen.calls().lost), (80, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_does_not_stop_the_watchdog() {
    let proxy = Proxy::start();
    let kafka = Kafka::builder().listener("PROXIED", "PLAINTEXT", Some(proxy.port())).start();
    proxy.forward_to(&kafka.listener("PROXIED"));
    let scene = Scene::new(kafka.brokers(), "watched", 1).await;
    scene.produce(0, 10).await;
    let mut member = scene.member_of(&proxy.address());
    let read = member.read(10).await;
    proxy.set(NetworkFault::RequestsLost(OFFSET_COMMIT));
    member.written_uncommitted(read[9]);
    // It is asked to commit and to leave the group.
    drop(member.thread);
    let before = member.seen.calls().polled;
    eventually("beats", TIMEOUT, async || member.seen.calls().polled >= before + 8).await;
}

/// librdkafka starts an assigned partition only at a moment without unanswered commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_partition_is_read_on_although_commits_are_answered_slowly() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.coordinator(MockCoordinator::Group("t".to_owned()), 1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    cluster.partition_leader("t", 0, Some(2)).unwrap();
    let scene = Scene { brokers: cluster.bootstrap_servers(), topic: "t".to_owned() };
    let mut settings = scene.settings();
    settings.kafka.commit_interval = Duration::from_millis(100);
    let mut member = Member::of(&settings);
    scene.produce(0, 1_000).await;
    let read = member.read(1_000).await;
    cluster.broker_round_trip_time(1, Duration::from_millis(500)).unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Fetch,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE],
    );
    scene.produce(0, 1).await;
    // Each commit is sent before the last one is answered.
    for record in read {
        member.written_uncommitted(record);
        let next = tokio::time::timeout(settings.kafka.commit_interval / 2, member.records());
        if let Ok(chunk) = next.await {
            assert_eq!(chunk.records[0].position.offset, 1_000);
            return;
        }
    }
    panic!("the partition is not read on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_outlives_a_revocation_does_not_set_the_group_back() {
    let scene = Scene::new(testkit::kafka().brokers(), "outlives", 2).await;
    scene.produce(0, 100).await;
    scene.produce(1, 100).await;
    let mut first = scene.member();
    let read = first.read(200).await;

    // Another member gets a partition before any record that the first member read of it is written.
    let mut second = scene.member();
    let taking = tokio::spawn(async move {
        let chunk = second.records().await;
        (second, chunk)
    });
    let SourceEvent::Revoking { done } = first.next().await else { panic!("a revocation") };
    let (second, chunk) = taking.await.unwrap();
    let moved = chunk.records[0].position.partition;
    second.written((moved, 79, chunk.assignment));
    eventually("its commit", TIMEOUT, async || scene.committed(moved) == Some(80)).await;
    drop(second);

    // The partition comes back, and then the old write ends.
    let reread = first.read(20).await;
    assert_eq!(reread[0].1, 80);
    drop(done);
    let find =
        |partition, offset| *read.iter().find(|(p, o, _)| (*p, *o) == (partition, offset)).unwrap();
    first.written(find(moved, 9));
    first.written(find(1 - moved, 99));
    eventually("a commit", TIMEOUT, async || scene.committed(1 - moved) == Some(100)).await;
    assert_eq!(scene.committed(moved), Some(80));
    first.written(reread[19]);
    eventually("a commit", TIMEOUT, async || scene.committed(moved) == Some(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_librdkafka_does_not_take_ends_the_run() {
    let scene = Scene::new(testkit::kafka().brokers(), "not-taken", 1).await;
    let (events, _taken) = tokio::sync::mpsc::channel(1);
    let (_sender, commands) = std::sync::mpsc::channel();
    let seen = Arc::new(Seen::default());
    let context = Context(Arc::new(Shared {
        state: Mutex::default(),
        commands: Mutex::new(commands),
        events,
        observer: seen.clone(),
        settled: seen,
        requests: None,
        token: String::new(),
        group: scene.topic.clone(),
        topic: scene.topic.as_str().into(),
        revoke_timeout: Duration::ZERO,
        session: Duration::from_secs(10),
        on_gap: OnGap::Continue,
        repeated: Default::default(),
        last_message: Default::default(),
    }));
    let config = config::consumer(&scene.settings());
    let consumer: BaseConsumer<Context> = config.create_with_context(context).unwrap();
    let context = consumer.context().clone();
    let mut partitions = scene.partition(0, Offset::Invalid);
    let mut rebalance = |code| {
        context.rebalance(&consumer, code, &mut partitions);
        match context.state().failed.take() {
            None => 0,
            Some(error @ SourceError::Fatal(_)) => error.exit_code(),
            Some(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(rebalance(RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS), 0);
    assert_eq!(rebalance(RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS), 70, "it has it");
    assert_eq!(rebalance(RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS), 0);
    assert_eq!(rebalance(RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS), 70, "it has not");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_loop_ends_the_thread_and_leaves_the_group() {
    let scene = Scene::new(testkit::kafka().brokers(), "leaves", 2).await;
    scene.produce(0, 10).await;
    scene.produce(1, 10).await;
    // First only the loop ends, then everything is dropped.
    for keeps_thread in [true, false] {
        let mut member = scene.member();
        member.records().await;
        let Member { thread, events, .. } = member;
        let thread = keeps_thread.then_some(thread);
        drop(events);
        // The next member gets all partitions long before the session of the previous member ends.
        let mut next = scene.member();
        let read = next.read(20).await;
        let partitions: BTreeSet<i32> = read.iter().map(|(partition, ..)| *partition).collect();
        assert_eq!(partitions.len(), 2);
        drop(thread);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_member_that_keeps_us_out_is_a_reason() {
    let scene = Scene::new(testkit::kafka().brokers(), "kept-out", 1).await;
    scene.produce(0, 1).await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &scene.brokers).set("group.id", &scene.topic);
    let foreign: BaseConsumer =
        config.set("partition.assignment.strategy", "range").create().unwrap();
    foreign.subscribe(&[&scene.topic]).unwrap();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let (joined, is_joined) = tokio::sync::oneshot::channel();
    let polling = std::thread::spawn(move || {
        let mut joined = Some(joined);
        while left.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            foreign.poll(Duration::from_millis(50));
            if foreign.assignment().unwrap().count() > 0
                && let Some(joined) = joined.take()
            {
                joined.send(()).unwrap();
            }
        }
    });
    is_joined.await.unwrap();
    let mut member = scene.member();
    let reason = eventually("a reason", TIMEOUT, async || member.seen.calls().kept_out.clone());
    let reason = reason.await;
    assert!(reason.contains("Inconsistent group protocol"), "{reason}");
    drop(leave);
    polling.join().unwrap();
    member.records().await;
}
