//! Reads a range of a topic's records outside of the consumer group: it commits nothing and causes no rebalance.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use model::Timestamp;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::client::{ClientCallbacks, Unanswered, ask};
use super::ffi::TopicIds;
use super::group::CHUNK_RECORDS;
use super::record_arena::RecordArena;
use super::{config, inspect};
use crate::pipeline::ports::{SourceError, SourceEvent};
use crate::record::Record;
use crate::settings::Settings;

mod reading;

/// The time limit of a request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a poll waits for a record.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// How long [`read_since`] waits for the next record, for example of a partition without a leader. After that the
/// caller tries again without such partitions.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The buffer of [`read_since`], which is small because it runs beside live ingest.
pub(crate) const BACKGROUND_KIB: u64 = 4_096;
/// The limits of the sample for an estimate: time and records.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(3);
const SAMPLE_RECORDS: u64 = 200;
/// Chunks a second under a rate limit, so that a slow replay reads steadily.
const CHUNKS_PER_SECOND: u64 = 10;

/// One end of a range, as the caller gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// The first record of the log.
    Earliest,
    /// The last record at the time of the request.
    Latest,
    /// The record with this offset, in every partition.
    Offset(i64),
    /// A record timestamp in milliseconds since 1970.
    Time(i64),
}

/// The offsets to read of one partition: from `first` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionRange {
    pub(crate) partition: i32,
    pub(crate) first: i64,
    pub(crate) end: i64,
}

/// The offsets to read of a topic. Times filter the records within the ranges, because record timestamps can go backwards;
/// a record without a timestamp always passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OffsetRanges {
    pub(crate) topic: String,
    /// The id of the topic that has these offsets. If there is another topic with its name, reading fails. `None` where it is
    /// not known: the id at the start of the reading counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) topic_id: Option<String>,
    pub(crate) partitions: Vec<PartitionRange>,
    /// Milliseconds since 1970, inclusive.
    pub(crate) not_before: Option<i64>,
    /// Milliseconds since 1970, inclusive.
    pub(crate) not_after: Option<i64>,
}

impl OffsetRanges {
    /// The number of offsets to read; the number of records is this or less.
    pub(crate) fn len(&self) -> u64 {
        let lengths = self.partitions.iter().map(|range| range.end - range.first);
        lengths.map(|length| u64::try_from(length).unwrap_or(0)).sum()
    }

    /// Removes the offsets before these positions.
    pub(crate) fn behind(&mut self, position: &BTreeMap<i32, i64>) {
        for range in &mut self.partitions {
            if let Some(&next) = position.get(&range.partition) {
                range.first = range.first.max(next);
            }
        }
        self.partitions.retain(|range| range.first < range.end);
    }

    fn not_empty(&self) -> impl Iterator<Item = &PartitionRange> {
        self.partitions.iter().filter(|range| range.first < range.end)
    }

    /// The partitions that have offsets to read, at their first offsets.
    fn assignment(&self) -> KafkaResult<TopicPartitionList> {
        let mut assignment = TopicPartitionList::new();
        for range in self.not_empty() {
            let first = Offset::Offset(range.first);
            assignment.add_partition_offset(&self.topic, range.partition, first)?;
        }
        Ok(assignment)
    }

    fn includes(&self, timestamp: Option<i64>) -> bool {
        timestamp.is_none_or(|timestamp| {
            self.not_before.is_none_or(|first| timestamp >= first)
                && self.not_after.is_none_or(|last| timestamp <= last)
        })
    }
}

/// A consumer outside of the group. Its methods block until the broker answers: call them on a thread that may block.
pub(crate) struct RangeReader {
    consumer: BaseConsumer<ClientCallbacks>,
    probe: ClientConfig,
}

impl RangeReader {
    /// Opens a reader with a fetch buffer of this size in KiB.
    ///
    /// # Errors
    /// When librdkafka refuses a setting.
    pub(crate) fn open(settings: &Settings, buffer_kib: u64) -> KafkaResult<Self> {
        let probe = inspect::probe(settings);
        let mut config = probe.clone();
        config
            .set("queued.max.messages.kbytes", buffer_kib.to_string())
            // So that several fetches fit into the buffer.
            .set("fetch.message.max.bytes", (buffer_kib * 64).min(1_048_576).to_string());
        // Another name of `fetch.message.max.bytes`.
        config.remove("max.partition.fetch.bytes");
        let consumer = config.create_with_context(ClientCallbacks::default())?;
        Ok(Self { consumer, probe })
    }

    /// The partitions to read, ascending and without duplicates: those in `asked`, or all where it is empty.
    ///
    /// # Errors
    /// An error of the broker; a partition in `asked` that does not exist; a partition without a leader.
    pub(crate) fn partitions(&self, topic: &str, asked: &[i32]) -> anyhow::Result<Vec<i32>> {
        let asking = || format!("asking about topic {topic}");
        let request = |time| self.consumer.fetch_metadata(Some(topic), time);
        let metadata = ask(&self.consumer, REQUEST_TIMEOUT, request).with_context(asking)?;
        let found = metadata.topics().first().context("no answer about the topic")?;
        if let Some(error) = found.error() {
            bail!("{}: {}", asking(), RDKafkaErrorCode::from(error));
        }
        let there: Vec<i32> = found.partitions().iter().map(MetadataPartition::id).collect();
        for partition in asked {
            ensure!(there.contains(partition), "topic {topic} has no partition {partition}");
        }
        let is_wanted = |partition: &i32| asked.is_empty() || asked.contains(partition);
        if let Some(message) = inspect::without_leader(found, is_wanted) {
            bail!(message);
        }
        let mut wanted: Vec<i32> = there.into_iter().filter(is_wanted).collect();
        wanted.sort_unstable();
        Ok(wanted)
    }

    /// The first offset of a partition and one more than the last that can be read: an open transaction ends it.
    ///
    /// # Errors
    /// An error of the broker; a partition without a leader; with [`config::is_no_topic`], a partition that does not exist.
    pub(crate) fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64), Unanswered> {
        let consumer = &self.consumer;
        let request = |time| consumer.fetch_watermarks(topic, partition, time);
        let error = match ask(consumer, REQUEST_TIMEOUT, request) {
            Err(error) if error.code().is_some_and(config::is_no_topic) => error,
            answer => return answer,
        };
        if is_gone(consumer, topic, partition)? {
            return Err(error);
        }
        let message = inspect::no_leader(topic, &[partition]);
        Err(Unanswered::new(message, RDKafkaErrorCode::LeaderNotAvailable))
    }

    /// One more than the last offset of each of these partitions, including offsets of open transactions.
    ///
    /// # Errors
    /// As [`Self::bounds`].
    pub(crate) fn ends(&self, topic: &str, partitions: &[i32]) -> Result<Vec<i64>, Unanswered> {
        let all = inspect::uncommitted(&self.probe)?;
        let end = |&partition| {
            let request = |time| all.fetch_watermarks(topic, partition, time);
            Ok(ask(&all, REQUEST_TIMEOUT, request)?.1)
        };
        partitions.iter().map(end).collect()
    }

    /// The topic's id; `None` if the broker does not report it.
    pub(crate) fn topic_id(&self, topic: &str) -> Option<String> {
        TopicIds::of(self.consumer.client(), topic, REQUEST_TIMEOUT).ok().flatten()
    }

    /// The ranges between two bounds, both inclusive, within the log's present bounds.
    pub(crate) fn ranges(
        &self,
        topic: &str,
        partitions: &[i32],
        (from, until): (Bound, Bound),
    ) -> Result<OffsetRanges, Unanswered> {
        let time = |point| if let Bound::Time(millis) = point { Some(millis) } else { None };
        let mut ranges = OffsetRanges {
            topic: topic.to_owned(),
            topic_id: None,
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
                // Records after the last one of that time may have an earlier timestamp.
                Bound::Latest | Bound::Time(_) => high,
            };
            let (first, end) = (first.clamp(low, high), end.clamp(low, high));
            if first < end {
                ranges.partitions.push(PartitionRange { partition, first, end });
            }
        }
        Ok(ranges)
    }

    /// The first offset whose record has at least this timestamp; `None` where there is no such record.
    fn first_since(
        &self,
        topic: &str,
        partition: i32,
        millis: i64,
    ) -> Result<Option<i64>, Unanswered> {
        let since = |millis: i64| {
            let request = config::place(topic, partition, Offset::Offset(millis))?;
            let times = |time| self.consumer.offsets_for_times(request.clone(), time);
            let answer = ask(&self.consumer, REQUEST_TIMEOUT, times)?;
            let offset = |offset| match offset {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok::<_, Unanswered>(
                answer.elements().first().and_then(|element| offset(element.offset())),
            )
        };
        Ok(match since(millis.max(0))? {
            Some(offset) => Some(offset),
            // No record is that recent; or the topic cannot be searched by time, so that not even 0 finds a record.
            None => since(0)?.is_none().then_some(0),
        })
    }

    /// The average size of the first records of the ranges in bytes; `None` where none came in time.
    pub(crate) fn sample(&self, ranges: &OffsetRanges) -> KafkaResult<Option<u64>> {
        self.consumer.assign(&ranges.assignment()?)?;
        let mut arena = RecordArena::new(ranges.topic.as_str().into());
        let deadline = Instant::now() + SAMPLE_TIMEOUT;
        let (mut records, mut bytes) = (0, 0);
        while records < SAMPLE_RECORDS && Instant::now() < deadline {
            match self.consumer.poll(POLL_TIMEOUT) {
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

    /// The record at an offset; `None` where it does not exist, or no longer exists.
    pub(crate) fn record_at(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Option<Record>, Unanswered> {
        match self.bounds(topic, partition) {
            Ok((low, high)) if (low..high).contains(&offset) => {}
            Ok(_) => return Ok(None),
            Err(error) if error.code().is_some_and(config::is_no_topic) => return Ok(None),
            Err(error) => return Err(error),
        }
        self.consumer.assign(&config::place(topic, partition, Offset::Offset(offset))?)?;
        let mut arena = RecordArena::new(topic.into());
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        while Instant::now() < deadline {
            match self.consumer.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => {
                    return Ok((message.offset() == offset).then(|| arena.copy(&message)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) if config::is_out_of_range(&error) => return Ok(None),
                Some(Err(error)) if is_final(&error) => return Err(error.into()),
                Some(Err(_)) | None => {}
            }
        }
        Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut).into())
    }

    /// Reads the ranges on a separate thread. The channel's last event is [`SourceEvent::Ended`], also after `stop` was
    /// cancelled, or [`SourceEvent::Failed`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn read(
        self,
        ranges: OffsetRanges,
        options: ReadOptions,
        stop: CancellationToken,
    ) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
        self.read_found(move |_| Ok(ranges), options, stop)
    }

    /// Like [`Self::read`], but the thread first asks the broker for the ranges.
    fn read_found(
        self,
        ranges: impl FnOnce(&Self) -> Result<OffsetRanges, Unanswered> + Send + 'static,
        options: ReadOptions,
        stop: CancellationToken,
    ) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
        let (events, receiver) = mpsc::channel(1);
        let read = move || {
            let end = ranges(&self).map_err(anyhow::Error::from).and_then(|ranges| {
                let topic = ranges.topic.as_str().into();
                let Self { consumer, probe } = self;
                let events = events.clone();
                reading::Range { consumer, probe, topic, ranges, options, events, stop }.read()
            });
            let end = match end {
                Ok(()) => SourceEvent::Ended,
                Err(error) => SourceEvent::Failed(SourceError::Range(error.to_string())),
            };
            // If the loop failed first, the channel is closed.
            let _ = events.blocking_send(end);
        };
        std::thread::Builder::new()
            .name("kafka-range".into())
            .spawn(read)
            .map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(receiver)
    }
}

/// Offsets by partition.
type Gone = Vec<(i32, Range<i64>)>;

/// The limits of a reader, and its progress, which its caller reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadOptions {
    /// Records a second at most; `None`: no limit.
    pub(crate) rate: Option<u64>,
    /// Records read so far, including those that the time filter drops.
    pub(crate) read: Arc<AtomicU64>,
    /// Offsets of the range that were deleted before they were read, or are in a batch that cannot be read.
    pub(crate) gone: Arc<Mutex<Gone>>,
    /// How long the reader waits for the next record; `None`: without a limit.
    pub(crate) idle_timeout: Option<Duration>,
}

impl ReadOptions {
    /// The largest number of records in a chunk.
    pub(crate) fn chunk(&self) -> usize {
        let chunk = self.rate.map_or(u64::MAX, |rate| (rate / CHUNKS_PER_SECOND).max(1));
        usize::try_from(chunk).unwrap_or(usize::MAX).min(CHUNK_RECORDS)
    }

    /// The offsets of [`Self::gone`] since the last call.
    pub(crate) fn take_gone(&self) -> Gone {
        std::mem::take(&mut *self.gone.lock())
    }

    fn add_gone(&self, partition: i32, offsets: Range<i64>) {
        self.gone.lock().push((partition, offsets));
    }

    /// The time of the next chunk, after a chunk of `sent` records that was allowed at `free`. Idle time does not add up:
    /// the rate is a limit at any moment.
    pub(crate) fn next(&self, free: Instant, sent: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.rate else { return now };
        free.max(now) + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64)
    }

    /// Blocks this thread in small steps, so that it notices a stop soon.
    pub(crate) fn wait(until: Instant, stop: &CancellationToken) {
        while Instant::now() < until && !stop.is_cancelled() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(POLL_TIMEOUT));
        }
    }
}

/// Reads these partitions of the topic from the first record with at least this timestamp to their present ends. Partitions
/// without a leader are left out and reported in `left_out`.
///
/// # Errors
/// When librdkafka refuses a setting.
pub(crate) fn read_since(
    settings: &Settings,
    partitions: Vec<i32>,
    start: Timestamp,
    left_out: Arc<OnceLock<Vec<i32>>>,
    stop: CancellationToken,
) -> KafkaResult<mpsc::Receiver<SourceEvent>> {
    let reader = RangeReader::open(settings, BACKGROUND_KIB)?;
    let topic = settings.kafka.topic.clone();
    let start = Bound::Time(start.as_micros().div_euclid(1_000).max(0));
    let ranges = move |reader: &RangeReader| {
        let metadata = reader.consumer.fetch_metadata(Some(&topic), REQUEST_TIMEOUT)?;
        let missing = metadata.topics().iter().flat_map(inspect::leaderless).collect::<Vec<_>>();
        let (missing, led): (Vec<i32>, Vec<i32>) =
            partitions.into_iter().partition(|partition| missing.contains(partition));
        left_out.get_or_init(|| missing);
        let ranges = reader.ranges(&topic, &led, (start, Bound::Latest))?;
        // All records after the first are read, whatever their timestamps.
        Ok(OffsetRanges { not_before: None, ..ranges })
    };
    let limit = ReadOptions { idle_timeout: Some(IDLE_TIMEOUT), ..ReadOptions::default() };
    reader.read_found(ranges, limit, stop)
}

/// Whether the topic or the partition does not exist. This asks the broker, because librdkafka also calls a partition
/// without a leader unknown.
fn is_gone(
    consumer: &BaseConsumer<ClientCallbacks>,
    topic: &str,
    partition: i32,
) -> KafkaResult<bool> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
    let is_there = |found: &MetadataTopic| {
        let is_unknown = found.error().is_some_and(|error| config::is_no_topic(error.into()));
        !is_unknown && found.partitions().iter().any(|there| there.id() == partition)
    };
    Ok(!metadata.topics().iter().any(is_there))
}

/// Whether an error is permanent.
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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    /// A topic with a record in its only partition, and the settings to read it.
    async fn scene(cluster: &MockCluster<'_, DefaultProducerContext>) -> Settings {
        cluster.create_topic("t", 1, 1).unwrap();
        let mut settings = Settings::default();
        settings.kafka.brokers = cluster.bootstrap_servers();
        let producer: FutureProducer = config::producer(&settings).create().unwrap();
        let record: FutureRecord<'_, (), str> = FutureRecord::to("t").payload("x");
        producer.send(record, REQUEST_TIMEOUT).await.unwrap();
        settings
    }

    fn reader(settings: &Settings) -> RangeReader {
        RangeReader::open(settings, 1_024).unwrap()
    }

    #[test]
    fn a_rate_is_a_limit_at_any_moment() {
        let options = ReadOptions { rate: Some(1_000), ..ReadOptions::default() };
        assert_eq!(options.chunk() as u64, 1_000 / CHUNKS_PER_SECOND);
        let start = Instant::now();
        let allowed = (0..10).fold(start, |free, _| options.next(free, 500));
        assert!(
            allowed >= start + Duration::from_secs(5),
            "5,000 records in less than five seconds"
        );
        let long_ago = start.checked_sub(Duration::from_secs(1)).unwrap_or(start);
        assert!(
            options.next(long_ago, 1_000) >= start + Duration::from_secs(1),
            "idle time adds up"
        );
        let free = ReadOptions::default();
        assert!(free.next(start, 1_000_000) <= Instant::now());
    }

    #[tokio::test]
    async fn a_record_whose_partition_has_no_leader_is_not_gone() {
        let cluster = MockCluster::new(1).unwrap();
        let settings = scene(&cluster).await;
        let found = |partition| {
            let found = reader(&settings).record_at("t", partition, 0);
            found.map(|record| record.is_some()).map_err(|error| error.to_string())
        };
        assert_eq!((found(0), found(1)), (Ok(true), Ok(false)));
        assert!(reader(&settings).record_at("missing", 0, 0).unwrap().is_none());
        cluster.partition_leader("t", 0, None).unwrap();
        let error = found(0).unwrap_err();
        assert!(error.contains("partitions [0] of t have no leader"), "{error}");
        assert_eq!(found(1), Ok(false));
    }

    #[tokio::test]
    async fn errors_alone_are_waited_for_no_longer_than_the_idle_timeout() {
        let cluster = MockCluster::new(1).unwrap();
        let settings = scene(&cluster).await;
        let fails = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN; 1_000];
        cluster.request_errors(RDKafkaApiKey::Fetch, &fails);
        let ranges = OffsetRanges {
            topic: "t".to_owned(),
            partitions: vec![PartitionRange { partition: 0, first: 0, end: 1 }],
            ..OffsetRanges::default()
        };
        let idle_timeout = Some(Duration::from_secs(2));
        let limit = ReadOptions { idle_timeout, ..ReadOptions::default() };
        let mut events = reader(&settings).read(ranges, limit, CancellationToken::new()).unwrap();
        let end =
            tokio::time::timeout(REQUEST_TIMEOUT, events.recv()).await.expect("an end in time");
        let Some(SourceEvent::Failed(SourceError::Range(error))) = end else { panic!("{end:?}") };
        assert!(error.contains("nothing has come for"), "{error}");
    }
}
