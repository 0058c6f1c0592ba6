//! Reading a range of a topic's records outside of the consumer group: nothing is committed, nobody is disturbed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use model::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::metadata::MetadataPartition;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::group::CHUNK_RECORDS;
use super::quiet::Quiet;
use super::record_arena::RecordArena;
use super::{config, inspect};
use crate::pipeline::ports::{SourceError, SourceEvent};
use crate::record::Record;
use crate::settings::Settings;

mod reading;

use reading::Range;

/// How long the broker has for a question about offsets.
const QUESTION: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// How long and how much to look at for an estimate.
const SAMPLE: Duration = Duration::from_secs(3);
const SAMPLE_RECORDS: u64 = 200;
/// Hand-overs a second under a rate limit, so that a slow replay is a steady one.
const PACES: u64 = 10;

/// An end of a range, as somebody asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// The first record there is.
    Earliest,
    /// The last record there is at the moment of asking.
    Latest,
    /// A record by its offset, in every partition.
    Offset(i64),
    /// A record timestamp in milliseconds since 1970.
    Time(i64),
}

/// What is read of one partition: from `first` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) partition: i32,
    pub(crate) first: i64,
    pub(crate) end: i64,
}

/// What is read of a topic. Times are a filter on the records within the spans, because record timestamps can go
/// backwards; a record without one always passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OffsetRanges {
    pub(crate) topic: String,
    pub(crate) partitions: Vec<Span>,
    /// Milliseconds since 1970, inclusive.
    pub(crate) not_before: Option<i64>,
    /// Milliseconds since 1970, inclusive.
    pub(crate) not_after: Option<i64>,
}

impl OffsetRanges {
    /// How many offsets there are to read, at most.
    pub(crate) fn len(&self) -> u64 {
        let lengths = self.partitions.iter().map(|span| span.end - span.first);
        lengths.map(|length| u64::try_from(length).unwrap_or(0)).sum()
    }

    /// Leaves out what lies before these offsets.
    pub(crate) fn behind(&mut self, position: &BTreeMap<i32, i64>) {
        for span in &mut self.partitions {
            if let Some(&next) = position.get(&span.partition) {
                span.first = span.first.max(next);
            }
        }
        self.partitions.retain(|span| span.first < span.end);
    }

    fn holds(&self, timestamp: Option<i64>) -> bool {
        timestamp.is_none_or(|timestamp| {
            self.not_before.is_none_or(|first| timestamp >= first)
                && self.not_after.is_none_or(|last| timestamp <= last)
        })
    }
}

/// A consumer outside of the group. Its calls wait for the broker: they are for threads that may.
pub(crate) struct RangeReader {
    consumer: BaseConsumer<Quiet>,
    probe: ClientConfig,
}

impl RangeReader {
    /// With a buffer of this much.
    ///
    /// # Errors
    /// When librdkafka refuses a setting.
    pub(crate) fn open(settings: &Settings, buffer_kib: u64) -> KafkaResult<Self> {
        let mut config = config::consumer(settings);
        // An end is announced even where the last offsets hold no record (transaction markers, compaction).
        config
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", "0")
            .set("queued.max.messages.kbytes", buffer_kib.to_string())
            // Several fetches fit into the buffer.
            .set("fetch.message.max.bytes", (buffer_kib * 64).min(1_048_576).to_string());
        config.remove("group.instance.id");
        let consumer = config.create_with_context(Quiet::default())?;
        Ok(Self { consumer, probe: inspect::probe(settings) })
    }

    /// The partitions of a topic that are meant, ascending, each once: those asked for, or all.
    ///
    /// # Errors
    /// What the broker answers; one that is asked for and not there; those that have no leader.
    pub(crate) fn partitions(&self, topic: &str, asked: &[i32]) -> anyhow::Result<Vec<i32>> {
        let asking = || format!("asking about topic {topic}");
        let metadata = self.consumer.fetch_metadata(Some(topic), QUESTION).with_context(asking)?;
        let found = metadata.topics().first().context("no answer about the topic")?;
        if let Some(error) = found.error() {
            return Err(KafkaError::MetadataFetch(error.into())).with_context(asking);
        }
        let there: Vec<i32> = found.partitions().iter().map(MetadataPartition::id).collect();
        for partition in asked {
            ensure!(there.contains(partition), "topic {topic} has no partition {partition}");
        }
        let is_meant = |partition: &i32| asked.is_empty() || asked.contains(partition);
        if let Some(words) = inspect::without_leader(found, is_meant) {
            bail!(words);
        }
        let mut meant: Vec<i32> = there.into_iter().filter(is_meant).collect();
        meant.sort_unstable();
        Ok(meant)
    }

    /// The first offset and the one after the last of a partition.
    pub(crate) fn bounds(&self, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
        self.consumer.fetch_watermarks(topic, partition, QUESTION)
    }

    /// What lies between two points, as the topic is now. Both points are inclusive.
    pub(crate) fn spans(
        &self,
        topic: &str,
        partitions: &[i32],
        (from, until): (Bound, Bound),
    ) -> KafkaResult<OffsetRanges> {
        let time = |point| if let Bound::Time(millis) = point { Some(millis) } else { None };
        let mut spans = OffsetRanges {
            topic: topic.to_owned(),
            not_before: time(from),
            not_after: time(until),
            partitions: Vec::new(),
        };
        for &partition in partitions {
            let (low, high) = self.bounds(topic, partition)?;
            let first = match from {
                Bound::Earliest => low,
                Bound::Latest => high,
                Bound::Offset(offset) => offset,
                Bound::Time(millis) => self.first_since(topic, partition, millis)?.unwrap_or(high),
            };
            let end = match until {
                Bound::Earliest => low,
                Bound::Offset(offset) => offset.saturating_add(1),
                // Records behind the last of that time may still be older.
                Bound::Latest | Bound::Time(_) => high,
            };
            let (first, end) = (first.clamp(low, high), end.clamp(low, high));
            if first < end {
                spans.partitions.push(Span { partition, first, end });
            }
        }
        Ok(spans)
    }

    /// The first offset whose record is at least as young; `None` where there is no such record.
    fn first_since(&self, topic: &str, partition: i32, millis: i64) -> KafkaResult<Option<i64>> {
        let since = |millis: i64| {
            let mut question = TopicPartitionList::new();
            question.add_partition_offset(topic, partition, Offset::Offset(millis))?;
            let answer = self.consumer.offsets_for_times(question, QUESTION)?;
            let offset = |offset| match offset {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            KafkaResult::Ok(answer.elements().first().and_then(|element| offset(element.offset())))
        };
        Ok(match since(millis.max(0))? {
            Some(offset) => Some(offset),
            // No record is as young; or, where even the oldest is not found by time, times cannot be asked for.
            None => since(0)?.is_none().then_some(0),
        })
    }

    /// The size of a record on average, by the first few of the spans; `None` where none came in time.
    pub(crate) fn sample(&self, spans: &OffsetRanges) -> KafkaResult<Option<u64>> {
        let mut assignment = TopicPartitionList::new();
        for span in &spans.partitions {
            let first = Offset::Offset(span.first);
            assignment.add_partition_offset(&spans.topic, span.partition, first)?;
        }
        self.consumer.assign(&assignment)?;
        let mut arena = RecordArena::new(spans.topic.as_str().into());
        let deadline = Instant::now() + SAMPLE;
        let (mut records, mut bytes) = (0, 0);
        while records < SAMPLE_RECORDS && Instant::now() < deadline {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    records += 1;
                    bytes += arena.copy(&message).wire_size() as u64;
                }
                Some(Err(error)) if is_final(&error) => return Err(error),
                Some(Err(_)) => {}
                None if records > 0 => break,
                None => {}
            }
        }
        Ok(bytes.checked_div(records))
    }

    /// The record at a place; `None` where there is none any more.
    pub(crate) fn record_at(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> KafkaResult<Option<Record>> {
        match self.bounds(topic, partition) {
            Ok((low, high)) if (low..high).contains(&offset) => {}
            Ok(_) => return Ok(None),
            Err(error) if error.rdkafka_error_code().is_some_and(config::is_no_topic) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.consumer.assign(&place)?;
        let mut arena = RecordArena::new(topic.into());
        let deadline = Instant::now() + QUESTION;
        while Instant::now() < deadline {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    return Ok((message.offset() == offset).then(|| arena.copy(&message)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) if config::is_out_of_range(&error) => return Ok(None),
                Some(Err(error)) if is_final(&error) => return Err(error),
                Some(Err(_)) | None => {}
            }
        }
        Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
    }

    /// Reads the spans on a thread of its own. The channel ends with [`SourceEvent::Ended`], also when `stop` was
    /// cancelled, or with [`SourceEvent::Failed`].
    ///
    /// # Errors
    /// When there can be no more threads.
    pub(crate) fn read(
        self,
        spans: OffsetRanges,
        pace: RateLimit,
        stop: CancellationToken,
    ) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
        self.read_found(move |_| Ok(spans), pace, stop)
    }

    /// The same with spans that are still to be asked for.
    fn read_found(
        self,
        spans: impl FnOnce(&Self) -> KafkaResult<OffsetRanges> + Send + 'static,
        pace: RateLimit,
        stop: CancellationToken,
    ) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
        let (events, receiver) = mpsc::channel(1);
        let read = move || {
            let end = spans(&self).and_then(|spans| {
                let topic = spans.topic.as_str().into();
                let Self { consumer, probe } = self;
                let events = events.clone();
                Range { consumer, probe, topic, spans, pace, events, stop }.read()
            });
            let end = match end {
                Ok(()) => SourceEvent::Ended,
                Err(error) => SourceEvent::Failed(SourceError::Range(error.to_string())),
            };
            // The loop may have failed first; then nobody listens.
            let _ = events.blocking_send(end);
        };
        std::thread::Builder::new()
            .name("kafka-range".into())
            .spawn(read)
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(receiver)
    }
}

/// How fast a range is read, and how far it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct RateLimit {
    /// Records a second at most.
    pub(crate) rate: Option<u64>,
    /// Records read so far, those that the times leave out among them.
    pub(crate) read: Arc<AtomicU64>,
    /// Offsets of the range that were gone before they were read.
    pub(crate) gone: Arc<AtomicU64>,
}

impl RateLimit {
    /// Records handed over at once.
    pub(crate) fn chunk(&self) -> usize {
        let chunk = self.rate.map_or(u64::MAX, |rate| (rate / PACES).max(1));
        usize::try_from(chunk).unwrap_or(usize::MAX).min(CHUNK_RECORDS)
    }

    /// When the next records may go after so many went, `free` being when these could. Time in which nothing went is
    /// not made up for: the rate is a bound at any moment.
    pub(crate) fn next(&self, free: Instant, gone: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.rate else { return now };
        free.max(now) + Duration::from_secs_f64(gone as f64 / rate.max(1) as f64)
    }

    /// Waits on this thread, in small steps, so that a stop is seen soon.
    pub(crate) fn wait(until: Instant, stop: &CancellationToken) {
        while Instant::now() < until && !stop.is_cancelled() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(POLL));
        }
    }
}

/// Reads these partitions of the topic from the first record with at least this timestamp to their ends as they are now.
///
/// # Errors
/// When librdkafka refuses a setting.
pub(crate) fn read_since(
    settings: &Settings,
    partitions: Vec<i32>,
    start: Timestamp,
    stop: CancellationToken,
) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
    // Beside live ingest, so with a small buffer.
    let reader = RangeReader::open(settings, 4_096)?;
    let topic = settings.kafka.topic.clone();
    let start = Bound::Time(start.as_micros().div_euclid(1_000).max(0));
    let spans = move |reader: &RangeReader| {
        let spans = reader.spans(&topic, &partitions, (start, Bound::Latest))?;
        // What lies behind the start is read whatever its timestamp.
        Ok(OffsetRanges { not_before: None, ..spans })
    };
    reader.read_found(spans, RateLimit::default(), stop)
}

/// Whether waiting does not help.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumptionFatal(_)
            | KafkaError::MessageConsumption(
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
            )
    )
}
