//! Reading a range of the topic's records outside of the consumer group: nothing is committed, nobody is disturbed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::Timestamp;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::poll::{CHUNK_RECORDS, envelope};
use super::source::{SourceError, SourceEvent};
use super::{client, consumer::Quiet};
use crate::settings::Settings;

/// How long the broker has for a question about offsets.
const QUESTION: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// Reads these partitions of the topic from the first record with at least this timestamp to their ends as they are now.
/// The channel ends with [`SourceEvent::Ended`], or with [`SourceEvent::Failed`].
///
/// # Errors
/// When librdkafka refuses a setting.
pub(crate) fn read_since(
    settings: &Settings,
    partitions: Vec<i32>,
    start: Timestamp,
    stop: CancellationToken,
) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
    let mut config = client::consumer(settings);
    // An end is announced even where the last offsets hold no record (transaction markers, compaction).
    config
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("statistics.interval.ms", "0");
    config.remove("group.instance.id");
    // Beside live ingest, so with a small buffer.
    config.set("queued.max.messages.kbytes", "4096").set("fetch.message.max.bytes", "262144");
    let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet::default())?;
    let topic: Arc<str> = settings.kafka.topic.as_str().into();
    let (events, receiver) = mpsc::channel(1);
    let range = Range { consumer, topic, events, stop };
    std::thread::Builder::new()
        .name("kafka-range".into())
        .spawn(move || {
            let end = match range.read(&partitions, start) {
                Ok(()) => SourceEvent::Ended,
                Err(error) => SourceEvent::Failed(SourceError::Range(error.to_string())),
            };
            // The loop may have failed first; then nobody listens.
            let _ = range.events.blocking_send(end);
        })
        .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(receiver)
}

struct Range {
    consumer: BaseConsumer<Quiet>,
    topic: Arc<str>,
    events: mpsc::Sender<SourceEvent>,
    stop: CancellationToken,
}

impl Range {
    fn read(&self, partitions: &[i32], start: Timestamp) -> KafkaResult<()> {
        let mut ends = self.assign(partitions, start)?;
        let mut chunk = Vec::new();
        while !ends.is_empty() && !self.stop.is_cancelled() {
            let timeout = if chunk.is_empty() { POLL } else { Duration::ZERO };
            match self.consumer.poll(timeout) {
                Some(Ok(message)) => {
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    if ends.get(&partition).is_some_and(|&end| next <= end) {
                        chunk.push(envelope(&self.topic, &message));
                    }
                    if ends.get(&partition).is_some_and(|&end| next >= end) {
                        ends.remove(&partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.remove(&partition);
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
                // The rest librdkafka mends by itself.
                Some(Err(_)) => {}
                None => self.hand_over(&mut chunk),
            }
            if chunk.len() >= CHUNK_RECORDS {
                self.hand_over(&mut chunk);
            }
        }
        self.hand_over(&mut chunk);
        Ok(())
    }

    fn hand_over(&self, chunk: &mut Vec<crate::Envelope>) {
        if !chunk.is_empty()
            && self.events.blocking_send(SourceEvent::Records(std::mem::take(chunk))).is_err()
        {
            self.stop.cancel();
        }
    }

    /// Assigns the partitions at their starts; returns the ends of those that have anything to read.
    fn assign(&self, partitions: &[i32], start: Timestamp) -> KafkaResult<BTreeMap<i32, i64>> {
        let starts = self.offsets_since(partitions, start.as_micros().div_euclid(1_000).max(0))?;
        let mut assignment = TopicPartitionList::new();
        let mut ends = BTreeMap::new();
        for &partition in partitions {
            let (low, high) = self.consumer.fetch_watermarks(&self.topic, partition, QUESTION)?;
            let first = match starts.get(&partition) {
                Some(Some(offset)) => (*offset).max(low),
                // No record is as young; or, where even the oldest is not found by time, times cannot be asked for.
                _ if self
                    .offsets_since(&[partition], 0)?
                    .get(&partition)
                    .is_some_and(Option::is_some) =>
                {
                    high
                }
                _ => low,
            };
            if first < high {
                assignment.add_partition_offset(&self.topic, partition, Offset::Offset(first))?;
                ends.insert(partition, high);
            }
        }
        self.consumer.assign(&assignment)?;
        Ok(ends)
    }

    /// The first offset of each partition whose record is at least as young; none where there is no such record.
    fn offsets_since(
        &self,
        partitions: &[i32],
        millis: i64,
    ) -> KafkaResult<BTreeMap<i32, Option<i64>>> {
        let mut question = TopicPartitionList::new();
        for &partition in partitions {
            question.add_partition_offset(&self.topic, partition, Offset::Offset(millis))?;
        }
        let answer = self.consumer.offsets_for_times(question, QUESTION)?;
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(answer
            .elements()
            .iter()
            .map(|element| (element.partition(), offset(element.offset())))
            .collect())
    }
}
