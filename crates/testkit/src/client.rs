//! A Kafka client for tests: topics, producing and consuming.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use crate::wait::{eventually, wait_until};

/// Timeout of one request, long enough for a broker that elects leaders and loads groups after a restart.
const REQUEST: Duration = Duration::from_secs(10);
/// Timeout of a whole call. After it something is broken.
const CALL: Duration = Duration::from_secs(60);

/// A record to produce. A missing field (`..Record::default()`) is null, or the choice of the broker or the partitioner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The partition; chosen by the key when `None`.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; a tombstone when `None`.
    pub value: Option<Vec<u8>>,
    /// The headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970; the current time when `None`.
    pub timestamp: Option<i64>,
}

/// A record as stored in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970; `None` when the record has no timestamp.
    pub timestamp: Option<i64>,
}

impl ConsumedRecord {
    /// The last header of this name, as text; `None` when it is missing or null.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(known, _)| known == name)?;
        Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
    }
}

/// Creates a topic with its configuration (for example `("retention.ms", "-1")`) and the cluster's default number of
/// replicas. Waits until each partition has a leader.
pub async fn topic(brokers: &str, name: &str, partitions: i32, config: &[(&str, &str)]) {
    make(brokers, name, (partitions, TopicReplication::Fixed(-1)), config).await;
}

/// Creates a topic with the given replicas for each partition; the first one is the preferred leader. Waits until each
/// partition has a leader.
pub async fn topic_on(brokers: &str, name: &str, replicas: &[&[i32]], config: &[(&str, &str)]) {
    let partitions = i32::try_from(replicas.len()).expect("a topic has few partitions");
    make(brokers, name, (partitions, TopicReplication::Variable(replicas)), config).await;
}

async fn make(
    brokers: &str,
    name: &str,
    (partitions, replication): (i32, TopicReplication<'_>),
    config: &[(&str, &str)],
) {
    let new = NewTopic { name, num_partitions: partitions, replication, config: config.to_vec() };
    let results =
        admin(brokers).create_topics([&new], &patient()).await.expect("the broker answers");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("cannot create topic {topic}: {code}"));
    }
    let wanted = usize::try_from(partitions).expect("a topic has a positive number of partitions");
    let (brokers, name) = (brokers.to_owned(), name.to_owned());
    blocking(move || {
        let consumer = consumer(&brokers, "testkit");
        wait_until(&format!("leaders of topic {name}"), CALL, || {
            leaders(&consumer, &name) == Some(wanted)
        });
    })
    .await;
}

/// The leader and the replicas of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionState {
    /// The id of the leading broker; below 0 when there is none.
    pub leader: i32,
    /// The ids of the brokers with in-sync replicas.
    pub in_sync: Vec<i32>,
    /// The ids of the brokers with replicas.
    pub replicas: Vec<i32>,
}

/// The states of a topic's partitions, in their order, from any broker's metadata. Empty when no broker answers.
pub async fn partition_states(brokers: &str, topic: &str) -> Vec<PartitionState> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    blocking(move || {
        let metadata = consumer(&brokers, "testkit").fetch_metadata(Some(&topic), REQUEST).ok();
        let partitions = metadata.iter().flat_map(|metadata| metadata.topics()[0].partitions());
        let sorted = |brokers: &[i32]| {
            let mut brokers = brokers.to_vec();
            brokers.sort_unstable();
            brokers
        };
        let states = partitions.map(|partition| PartitionState {
            leader: partition.leader(),
            in_sync: sorted(partition.isr()),
            replicas: sorted(partition.replicas()),
        });
        states.collect()
    })
    .await
}

/// Deletes the topic and waits until the broker no longer knows it.
pub async fn delete_topic(brokers: &str, name: &str) {
    let results =
        admin(brokers).delete_topics(&[name], &patient()).await.expect("the broker answers");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("cannot delete topic {topic}: {code}"));
    }
    let (brokers, name) = (brokers.to_owned(), name.to_owned());
    blocking(move || {
        let consumer = consumer(&brokers, "testkit");
        wait_until(&format!("the end of topic {name}"), CALL, || {
            leaders(&consumer, &name) == Some(0)
        });
    })
    .await;
}

/// Increases the topic's number of partitions to `count`.
pub async fn add_partitions(brokers: &str, name: &str, count: usize) {
    let more = NewPartitions { topic_name: name, new_partition_count: count, assignment: None };
    let results = admin(brokers).create_partitions([&more], &patient()).await;
    for result in results.expect("the broker answers") {
        result.unwrap_or_else(|(topic, code)| panic!("cannot widen topic {topic}: {code}"));
    }
}

/// Replaces the topic's own configuration by this one.
pub async fn configure_topic(brokers: &str, name: &str, config: &[(&str, &str)]) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(name));
    let change = config.iter().fold(change, |change, (key, value)| change.set(key, value));
    let results = admin(brokers).alter_configs([&change], &patient()).await;
    for result in results.expect("the broker answers") {
        result.unwrap_or_else(|(_, code)| panic!("cannot configure topic {name}: {code}"));
    }
}

/// Deletes the records of a partition before an offset, as retention does.
pub async fn delete_records(brokers: &str, topic: &str, partition: i32, before: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, partition, Offset::Offset(before))
        .expect("a partition can be listed");
    let deleted = admin(brokers).delete_records(&offsets, &patient()).await;
    for element in deleted.expect("the broker answers").elements() {
        element.error().unwrap_or_else(|error| panic!("cannot delete records: {error}"));
    }
}

/// Deletes a consumer group and its offsets, once the session of its last member has ended.
pub async fn delete_group(brokers: &str, group: &str) {
    let admin = admin(brokers);
    eventually("the group to have no member", CALL, async || {
        let results = admin.delete_groups(&[group], &patient()).await;
        match &results.expect("the broker answers")[..] {
            [Err((_, RDKafkaErrorCode::NonEmptyGroup))] => false,
            [Err((group, code))] => panic!("cannot delete group {group}: {code}"),
            _ => true,
        }
    })
    .await;
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    client(brokers).create().expect("an admin client can be made")
}

fn patient() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL))
}

/// A producer for several calls.
pub struct Producer {
    producer: FutureProducer,
}

impl Producer {
    /// A producer that connects on first use.
    pub fn new(brokers: &str) -> Self {
        Self::with(&mut client(brokers))
    }

    /// A producer with a compression codec, in Kafka's spelling: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub fn compressing(brokers: &str, codec: &str) -> Self {
        Self::with(client(brokers).set("compression.type", codec))
    }

    fn with(config: &mut ClientConfig) -> Self {
        let producer = config
            .set("enable.idempotence", "true")
            // Tests send records that the broker or the daemon must refuse, so the client must accept them.
            .set("message.max.bytes", "67108864")
            .set("linger.ms", "5")
            .create()
            .expect("a producer can be made");
        Self { producer }
    }

    /// Produces the records, in order within each partition, and waits until the broker has acknowledged all of them.
    ///
    /// Returns the partition and the offset of each record, in the order of the records.
    pub async fn produce(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<(i32, i64)> {
        let mut sent = Vec::new();
        for record in records {
            sent.push(send(&self.producer, topic, &record).await);
        }
        let mut positions = Vec::with_capacity(sent.len());
        for delivery in sent {
            let delivered = delivery.await.expect("the producer lives until the end");
            let delivered = delivered.unwrap_or_else(|(error, _)| {
                panic!("the broker refused a record for {topic}: {error}")
            });
            positions.push((delivered.partition, delivered.offset));
        }
        positions
    }
}

/// [`Producer::produce`] with a new producer for this call.
pub async fn produce(
    brokers: &str,
    topic: &str,
    records: impl IntoIterator<Item = Record>,
) -> Vec<(i32, i64)> {
    Producer::new(brokers).produce(topic, records).await
}

/// Produces the records in a transaction, which is committed or aborted. A control record follows them, which consumers
/// never receive.
pub async fn produce_in_transaction(
    brokers: &str,
    topic: &str,
    records: impl IntoIterator<Item = Record>,
    commit: bool,
) {
    let transaction = Transaction::begin(brokers, topic).await;
    transaction.produce(topic, records).await;
    transaction.end(commit).await;
}

/// An open transaction. Until it ends, read-committed consumers receive no record after its first one.
pub struct Transaction {
    producer: Producer,
}

impl Transaction {
    /// Begins a transaction with this transactional id. An open transaction of the same id is aborted.
    pub async fn begin(brokers: &str, id: &str) -> Self {
        Self::begin_within(brokers, id, CALL).await
    }

    /// Like [`Transaction::begin`], but the broker aborts the transaction after `timeout`.
    pub async fn begin_within(brokers: &str, id: &str, timeout: Duration) -> Self {
        let timeout = timeout.as_millis().to_string();
        let mut config = client(brokers);
        let config = config.set("transactional.id", id).set("transaction.timeout.ms", timeout);
        let producer = Producer::with(config);
        let transactions = producer.producer.clone();
        blocking(move || {
            transactions.init_transactions(CALL).expect("transactions are there");
            transactions.begin_transaction().expect("a transaction begins");
        })
        .await;
        Self { producer }
    }

    /// [`Producer::produce`] in the transaction.
    pub async fn produce(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<(i32, i64)> {
        self.producer.produce(topic, records).await
    }

    /// Commits or aborts the transaction.
    pub async fn end(self, commit: bool) {
        let transactions = self.producer.producer;
        blocking(move || {
            let ended = if commit {
                transactions.commit_transaction(CALL)
            } else {
                transactions.abort_transaction(CALL)
            };
            ended.expect("the transaction ends");
        })
        .await;
    }
}

async fn send(producer: &FutureProducer, topic: &str, record: &Record) -> DeliveryFuture {
    // The queue is full while the broker is slower than the test.
    eventually("room in the producer's queue", CALL, async || {
        match producer.send_result(outgoing(topic, record)) {
            Ok(delivery) => Some(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => None,
            Err((error, _)) => panic!("cannot produce to {topic}: {error}"),
        }
    })
    .await
}

fn outgoing<'a>(topic: &'a str, record: &'a Record) -> FutureRecord<'a, [u8], [u8]> {
    let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: value.as_ref() })
    });
    FutureRecord {
        topic,
        partition: record.partition,
        payload: record.value.as_deref(),
        key: record.key.as_deref(),
        timestamp: record.timestamp,
        headers: (!record.headers.is_empty()).then_some(headers),
    }
}

/// Reads the whole topic, from the earliest record of each partition to its current end. Sorted by partition and offset.
pub async fn consume_all(brokers: &str, topic: &str) -> Vec<ConsumedRecord> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = consumer(&brokers, "testkit");
        let mut open = partitions(&consumer, &topic);
        let mut assignment = TopicPartitionList::new();
        for partition in &open {
            assignment
                .add_partition_offset(&topic, *partition, Offset::Beginning)
                .expect("a partition can be listed");
        }
        consumer.assign(&assignment).expect("partitions can be assigned");
        let mut records = Vec::new();
        while !open.is_empty() {
            match consumer
                .poll(CALL)
                .unwrap_or_else(|| panic!("topic {topic} was silent for {CALL:?}"))
            {
                Ok(message) => records.push(incoming(&message)),
                // Wait for the broker's end-of-partition, because transactions and compaction leave offsets without records.
                Err(KafkaError::PartitionEOF(partition)) => {
                    open.retain(|other| *other != partition)
                }
                // One of several brokers is unreachable: librdkafka continues with the others.
                Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                )) => {}
                Err(error) => panic!("cannot read topic {topic}: {error}"),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    })
    .await
}

fn incoming(message: &BorrowedMessage<'_>) -> ConsumedRecord {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    ConsumedRecord {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
        timestamp: message.timestamp().to_millis(),
    }
}

/// How many records of the topic, over all partitions, the group has not committed.
///
/// A partition without a committed offset counts from its earliest record. Waits for a broker that is restarting.
pub async fn group_lag(brokers: &str, group: &str, topic: &str) -> i64 {
    let (brokers, group, topic) = (brokers.to_owned(), group.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = consumer(&brokers, &group);
        wait_until(&format!("the offsets of group {group}"), CALL, || lag(&consumer, &topic).ok())
    })
    .await
}

fn lag(consumer: &BaseConsumer, topic: &str) -> Result<i64, KafkaError> {
    let mut wanted = TopicPartitionList::new();
    for partition in partitions(consumer, topic) {
        wanted.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(wanted, REQUEST)?;
    let committed: HashMap<i32, Offset> = committed
        .elements()
        .iter()
        .map(|element| (element.partition(), element.offset()))
        .collect();
    let mut lag = 0;
    for (partition, offset) in committed {
        let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST)?;
        // An offset after the end of a truncated log also counts as lag.
        lag += (high - if let Offset::Offset(next) = offset { next } else { low }).abs();
    }
    Ok(lag)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    wait_until(&format!("topic {topic}"), CALL, || {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST).ok()?;
        let found: Vec<i32> = metadata
            .topics()
            .first()?
            .partitions()
            .iter()
            .map(|partition| partition.id())
            .collect();
        (!found.is_empty()).then_some(found)
    })
}

fn leaders(consumer: &BaseConsumer, topic: &str) -> Option<usize> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST).ok()?;
    Some(
        metadata
            .topics()
            .first()?
            .partitions()
            .iter()
            .filter(|partition| partition.leader() >= 0)
            .count(),
    )
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// A consumer that never joins its group and never commits.
fn consumer(brokers: &str, group: &str) -> BaseConsumer {
    client(brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .create()
        .expect("a consumer can be made")
}

/// Runs a blocking call outside of the async runtime. A panic is passed on to the caller.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
