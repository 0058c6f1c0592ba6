//! Kafka: fills the topic, and measures how fast librdkafka alone reads it.

use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::events::Event;

pub(crate) const PARTITIONS: i32 = 8;
/// As the CloudEvents SDKs send it in structured mode.
pub(crate) const CONTENT_TYPE: (&str, &str) =
    ("content-type", "application/cloudevents+json; charset=UTF-8");
const PATIENCE: Duration = Duration::from_secs(60);

/// The version of librdkafka.
pub(crate) fn version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// A producer without compression. `linger` is in milliseconds; with 0 it sends at once.
pub(crate) fn producer(brokers: &str, linger: u32) -> Result<BaseProducer> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", linger.to_string())
        .set("batch.size", "262144")
        .set("acks", "all")
        .create()?;
    Ok(producer)
}

/// Passes an event to the producer. Waits while its queue is full.
pub(crate) fn send(producer: &BaseProducer, topic: &str, event: &Event) -> Result<()> {
    let header = Header { key: CONTENT_TYPE.0, value: Some(CONTENT_TYPE.1) };
    let headers = OwnedHeaders::new_with_capacity(1).insert(header);
    let mut record = BaseRecord::to(topic).key(&event.key).payload(&event.value).headers(headers);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                producer.poll(Duration::from_millis(10));
                record = again;
            }
            Err((error, _)) => return Err(error).context("producing"),
        }
    }
}

/// Produces all events. Returns the total size of their values in bytes.
pub(crate) fn fill(
    brokers: &str,
    topic: &str,
    events: impl Iterator<Item = Event>,
) -> Result<usize> {
    let producer = producer(brokers, 20)?;
    let mut bytes = 0;
    for (index, event) in events.enumerate() {
        bytes += event.value.len();
        send(&producer, topic, &event)?;
        if index % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    flush(&producer)?;
    Ok(bytes)
}

/// Waits until all records are acknowledged.
pub(crate) fn flush(producer: &BaseProducer) -> Result<()> {
    producer.flush(PATIENCE).context("the broker does not acknowledge")
}

/// Reads the whole topic and calls `act` on each value. Returns records per second.
pub(crate) fn consume(
    brokers: &str,
    topic: &str,
    records: u32,
    mut act: impl FnMut(&[u8]),
) -> Result<f64> {
    let consumer = assigned(brokers, topic, Offset::Beginning)?;
    let mut began = None;
    let mut bytes = 0;
    for _ in 0..records {
        let message = consumer.poll(PATIENCE).context("the topic has fewer records")??;
        began.get_or_insert_with(Instant::now);
        let value = message.payload().unwrap_or_default();
        bytes += value.len();
        act(value);
    }
    ensure!(bytes > 0, "the records have no values");
    let seconds = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
    Ok(f64::from(records) / seconds)
}

/// Reads the topic with librdkafka alone while it is filled. Returns the seconds from each record's timestamp to its
/// reading, without those of the first `uncounted` records, sorted.
pub(crate) fn delays(
    brokers: &str,
    topic: &str,
    uncounted: u32,
    counted: u32,
) -> Result<JoinHandle<Result<Vec<f64>>>> {
    let consumer = assigned(brokers, topic, Offset::Beginning)?;
    let read = move || {
        let mut delays = Vec::new();
        for index in 0..uncounted + counted {
            let message = consumer.poll(PATIENCE).context("the topic has fewer records")??;
            let sent = message.timestamp().to_millis().context("a record without a timestamp")?;
            if index >= uncounted {
                let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64();
                delays.push(now - sent as f64 / 1e3);
            }
        }
        delays.sort_by(f64::total_cmp);
        Ok(delays)
    };
    Ok(std::thread::spawn(read))
}

/// The value of the last record of each partition. No partition may be empty.
pub(crate) fn last_values(brokers: &str, topic: &str) -> Result<Vec<Vec<u8>>> {
    let consumer = assigned(brokers, topic, Offset::OffsetTail(1))?;
    let values = (0..PARTITIONS).map(|_| {
        let message = consumer.poll(PATIENCE).context("a partition has no record")??;
        Ok(message.payload().unwrap_or_default().to_vec())
    });
    values.collect()
}

/// A consumer of all partitions, starting at `offset`.
fn assigned(brokers: &str, topic: &str, offset: Offset) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "raw")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, offset)?;
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}
