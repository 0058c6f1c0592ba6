//! The thread that reads a range: it sends records in chunks, and logs and skips unreadable or deleted offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{OffsetRanges, POLL_TIMEOUT, REQUEST_TIMEOUT, ReadOptions, is_final, is_gone};
use crate::kafka::client::ClientCallbacks;
use crate::kafka::config;
use crate::kafka::ffi::TopicIds;
use crate::kafka::group::CHUNK_BYTES;
use crate::kafka::probe::{Probe, Unreadable};
use crate::kafka::record_arena::RecordArena;
use crate::pipeline::ports::{AssignmentId, Chunk, SourceEvent};
use crate::record::Record;

/// The interval between two requests for the topic's id.
const TOPIC_ID_INTERVAL: Duration = Duration::from_secs(10);

/// The delay before a request without an answer is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The state of the thread.
pub(super) struct Range {
    pub(super) consumer: BaseConsumer<ClientCallbacks>,
    pub(super) probe: ClientConfig,
    pub(super) topic: Arc<str>,
    pub(super) ranges: OffsetRanges,
    pub(super) options: ReadOptions,
    pub(super) events: mpsc::Sender<SourceEvent>,
    pub(super) stop: CancellationToken,
}

impl Range {
    /// Reads the ranges to their ends.
    ///
    /// # Errors
    /// An error that a retry cannot fix; the end of [`ReadOptions::idle_timeout`].
    pub(super) fn read(&self) -> anyhow::Result<()> {
        let mut ends = self.assign()?;
        let mut watch = Watch::of(&self.consumer, &self.ranges, self.options.idle_timeout)?;
        let starts = self.ranges.partitions.iter().map(|range| (range.partition, range.first));
        let mut next_offsets: BTreeMap<i32, i64> = starts.collect();
        let mut log_ends = BTreeMap::new();
        let mut free = Instant::now();
        let mut arena = RecordArena::new(self.topic.clone());
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while !ends.is_empty() && !self.stop.is_cancelled() {
            let timeout = if chunk.is_empty() { POLL_TIMEOUT } else { Duration::ZERO };
            match self.consumer.poll(timeout) {
                Some(Ok(message)) => {
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    next_offsets.insert(partition, next);
                    if ends.get(&partition).is_some_and(|&end| next <= end) {
                        self.options.read.fetch_add(1, Ordering::Relaxed);
                        if self.ranges.includes(message.timestamp().to_millis()) {
                            let record = arena.copy(&message);
                            bytes += record.size();
                            chunk.push(record);
                        }
                    }
                    if ends.get(&partition).is_some_and(|&end| next >= end) {
                        self.finish(&mut ends, partition)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.end_of_log(partition, &mut ends, &mut next_offsets, &mut log_ends)?;
                }
                Some(Err(error)) if config::is_out_of_range(&error) => {
                    self.resume_after_gone(&mut ends, &mut next_offsets)?;
                }
                Some(Err(error)) if is_final(&error) => return Err(error.into()),
                Some(Err(_)) if self.skip_unreadable(&ends, &mut next_offsets)? => {}
                // librdkafka recovers from all other errors by itself, or repeats them for ever.
                Some(Err(_)) | None if chunk.is_empty() => {
                    watch.check_idle()?;
                    continue;
                }
                // The chunk is sent as it is.
                Some(Err(_)) | None => bytes = CHUNK_BYTES,
            }
            if chunk.len() >= self.options.chunk() || bytes >= CHUNK_BYTES {
                bytes = 0;
                free = self.options.next(free, chunk.len());
                self.send_chunk(&mut chunk);
                if self.options.rate.is_some() {
                    ReadOptions::wait(free, &self.stop);
                }
                watch.check_topic(Duration::ZERO)?;
            }
            watch.last_received = Instant::now();
        }
        self.send_chunk(&mut chunk);
        if !self.stop.is_cancelled() {
            watch.check_topic_again()?;
        }
        Ok(())
    }

    fn send_chunk(&self, chunk: &mut Vec<Record>) {
        if chunk.is_empty() {
            return;
        }
        let chunk = Chunk { records: std::mem::take(chunk), assignment: AssignmentId::default() };
        if self.events.blocking_send(SourceEvent::Records(chunk)).is_err() {
            self.stop.cancel();
        }
    }

    /// Skips an unreadable batch, logs it, and counts those of its offsets that lie in the range. `false` where there is none in
    /// a partition that is still read. librdkafka may report a batch only once, so this waits for its broker.
    fn skip_unreadable(
        &self,
        ends: &BTreeMap<i32, i64>,
        next_offsets: &mut BTreeMap<i32, i64>,
    ) -> KafkaResult<bool> {
        let Some(batch) = self.consumer.context().take_unreadable() else { return Ok(false) };
        let request = || {
            let read = ends.keys().map(|partition| (*partition, next_offsets[partition])).collect();
            Probe::open(&self.probe, &self.topic)?.find(batch, read, || {})
        };
        let Some(found) = self.answered(request, |_| false)?.flatten() else { return Ok(false) };
        let Unreadable { partition, offsets, .. } = found;
        tracing::warn!(
            topic = %self.topic, partition, from = offsets.start, to = offsets.end - 1,
            "a batch is damaged on the broker's disk, or unpacked larger than receive.message.max.bytes in kafka.client allows: reading continues after it"
        );
        next_offsets.insert(partition, offsets.end);
        self.place(partition, offsets.end)?;
        if let Some(&end) = ends.get(&partition).filter(|end| **end > offsets.start) {
            self.options.add_gone(partition, offsets.start..offsets.end.min(end));
        }
        Ok(true)
    }

    /// Called after librdkafka stopped a partition because its position is not in the log. It does not say which
    /// partition. After an unreadable batch librdkafka may also ask for offsets that never existed.
    fn resume_after_gone(
        &self,
        ends: &mut BTreeMap<i32, i64>,
        next_offsets: &mut BTreeMap<i32, i64>,
    ) -> KafkaResult<()> {
        for (partition, end) in ends.clone() {
            let next = next_offsets[&partition];
            let Some((low, high)) = self.bounds(partition)? else { return Ok(()) };
            if next > high {
                self.skip_gone(partition, next..end, "the log was cut", next_offsets);
            } else if next < low {
                let why = "the topic's retention deleted them";
                self.skip_gone(partition, next..low.min(end), why, next_offsets);
            }
            let next = next_offsets[&partition];
            if next < end {
                self.place(partition, next)?;
            } else {
                self.finish(ends, partition)?;
            }
        }
        Ok(())
    }

    /// Called when librdkafka has reached the end of a partition's log. `log_ends`: the next offsets and ends of
    /// earlier calls.
    ///
    /// # Errors
    /// When the topic does not exist; the end of [`ReadOptions::idle_timeout`].
    fn end_of_log(
        &self,
        partition: i32,
        ends: &mut BTreeMap<i32, i64>,
        next_offsets: &mut BTreeMap<i32, i64>,
        log_ends: &mut BTreeMap<i32, (i64, i64)>,
    ) -> KafkaResult<()> {
        let Some(&end) = ends.get(&partition) else { return Ok(()) };
        let next = next_offsets[&partition];
        let Some((_, log_end)) = self.bounds(partition)? else { return Ok(()) };
        // The offsets before the log's end are markers of transactions, or records that were written after librdkafka
        // had reached the end: a second read from the same offset shows which.
        let seen = (next, log_end);
        if next < log_end.min(end) && log_ends.insert(partition, seen) != Some(seen) {
            return self.place(partition, next);
        }
        self.skip_gone(partition, log_end.max(next)..end, "the log was cut", next_offsets);
        self.finish(ends, partition)
    }

    /// Continues a partition at this offset. A seek would fail in a partition that is not being read.
    fn place(&self, partition: i32, next: i64) -> KafkaResult<()> {
        let place = config::place(&self.topic, partition, Offset::Offset(next))?;
        self.consumer.incremental_unassign(&place)?;
        self.consumer.incremental_assign(&place)
    }

    /// Skips offsets that are gone, for example because retention deleted them; logs and counts them.
    fn skip_gone(
        &self,
        partition: i32,
        gone: std::ops::Range<i64>,
        why: &str,
        next_offsets: &mut BTreeMap<i32, i64>,
    ) {
        if gone.is_empty() {
            return;
        }
        tracing::warn!(
            topic = %self.topic, partition, from = gone.start, to = gone.end - 1,
            "records of the range are gone before they were read: {why}"
        );
        next_offsets.insert(partition, gone.end);
        self.options.add_gone(partition, gone);
    }

    /// The first offset of a partition and one more than its last. Retries until the broker answers; `None` after a stop.
    ///
    /// # Errors
    /// When the topic or the partition does not exist; the end of [`ReadOptions::idle_timeout`].
    fn bounds(&self, partition: i32) -> KafkaResult<Option<(i64, i64)>> {
        let is_gone = |error: &KafkaError| {
            error.rdkafka_error_code().is_some_and(config::is_no_topic)
                && is_gone(&self.consumer, &self.topic, partition).unwrap_or(false)
        };
        let request = || self.consumer.fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT);
        self.answered(request, is_gone)
    }

    /// Repeats a request until the broker answers; `None` after a stop.
    ///
    /// # Errors
    /// An error that is final; the end of [`ReadOptions::idle_timeout`].
    fn answered<T>(
        &self,
        request: impl Fn() -> KafkaResult<T>,
        is_final: impl Fn(&KafkaError) -> bool,
    ) -> KafkaResult<Option<T>> {
        let began = Instant::now();
        while !self.stop.is_cancelled() {
            match request() {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if is_final(&error) => return Err(error),
                Err(error)
                    if self.options.idle_timeout.is_some_and(|most| began.elapsed() > most) =>
                {
                    return Err(error);
                }
                Err(_) => ReadOptions::wait(Instant::now() + RETRY_DELAY, &self.stop),
            }
        }
        Ok(None)
    }

    /// Ends the reading of a partition. Further records of it would take buffer space from the others.
    fn finish(&self, ends: &mut BTreeMap<i32, i64>, partition: i32) -> KafkaResult<()> {
        if ends.remove(&partition).is_none() {
            return Ok(());
        }
        let mut finished = TopicPartitionList::new();
        finished.add_partition(&self.topic, partition);
        self.consumer.incremental_unassign(&finished)
    }

    /// Assigns the partitions at their first offsets; returns the end of each partition that has offsets to read.
    fn assign(&self) -> KafkaResult<BTreeMap<i32, i64>> {
        self.consumer.assign(&self.ranges.assignment()?)?;
        Ok(self.ranges.not_empty().map(|range| (range.partition, range.end)).collect())
    }
}

/// Detects that no more records will come: the topic was recreated, or the idle timeout has passed.
struct Watch {
    ids: Option<TopicIds>,
    /// The topic's id when the offsets were found, or else at the start.
    first: Option<String>,
    asked: Instant,
    /// When librdkafka returned something last.
    last_received: Instant,
    idle_timeout: Option<Duration>,
}

impl Watch {
    /// The consumer must outlive the result.
    ///
    /// # Errors
    /// When the offsets are another topic's.
    fn of(
        consumer: &BaseConsumer<ClientCallbacks>,
        ranges: &OffsetRanges,
        idle_timeout: Option<Duration>,
    ) -> anyhow::Result<Self> {
        let ids = TopicIds::new(consumer.client(), &ranges.topic);
        ids.iter().for_each(|ids| ids.ask(TOPIC_ID_INTERVAL));
        let first = ranges.topic_id.clone();
        let now = Instant::now();
        let mut watch = Self { ids, first, asked: now, last_received: now, idle_timeout };
        if watch.first.is_some() {
            // A short range would be read before the answer comes.
            watch.check_topic(TOPIC_ID_INTERVAL)?;
            watch.last_received = Instant::now();
        }
        Ok(watch)
    }

    /// Compares the topic's id with the first one. librdkafka 2.12 may read nothing of a topic that was created again,
    /// see `Poller::recreate_client`, and the offsets belong to another log.
    ///
    /// # Errors
    /// When the topic was created again.
    fn check_topic(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let Some(ids) = &self.ids else { return Ok(()) };
        if let Some(Ok(Some(id))) = ids.answer(timeout)
            && *self.first.get_or_insert_with(|| id.clone()) != id
        {
            bail!("the topic was created again while it was read");
        }
        if self.asked.elapsed() >= TOPIC_ID_INTERVAL {
            self.asked = Instant::now();
            ids.ask(TOPIC_ID_INTERVAL);
        }
        Ok(())
    }

    /// Asks for the topic's id once more, because a range may end before the interval of the requests is over.
    ///
    /// # Errors
    /// When the topic was created again.
    fn check_topic_again(&mut self) -> anyhow::Result<()> {
        if let Some(ids) = &self.ids {
            // Drops the answers to earlier requests.
            while ids.answer(Duration::ZERO).is_some() {}
            ids.ask(TOPIC_ID_INTERVAL);
        }
        self.check_topic(TOPIC_ID_INTERVAL)
    }

    /// # Errors
    /// When the topic was created again, or nothing came within the idle timeout.
    fn check_idle(&mut self) -> anyhow::Result<()> {
        self.check_topic(Duration::ZERO)?;
        let waited = self.last_received.elapsed();
        let is_over = self.idle_timeout.is_some_and(|limit| waited > limit);
        ensure!(!is_over, "nothing has come for {} s", waited.as_secs());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::client::ClientContext;
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;
    use crate::kafka::inspect;
    use crate::settings::Settings;

    #[test]
    fn a_batch_whose_broker_is_away_is_not_forgotten() {
        let mut settings = Settings::default();
        // Nothing listens there.
        settings.kafka.brokers = "127.0.0.1:1".to_owned();
        let probe = inspect::probe(&settings);
        let consumer: BaseConsumer<ClientCallbacks> =
            probe.create_with_context(ClientCallbacks::default()).unwrap();
        let damaged = "MessageSet at offset 7 (82 bytes) failed CRC32C check (original 0x1 != calculated 0x2)";
        consumer.context().error(KafkaError::Global(Code::BadMessage), damaged);
        let range = Range {
            consumer,
            probe,
            topic: "t".into(),
            ranges: OffsetRanges::default(),
            // So that the first missing answer ends the reading.
            options: ReadOptions { idle_timeout: Some(Duration::ZERO), ..ReadOptions::default() },
            events: mpsc::channel(1).0,
            stop: CancellationToken::new(),
        };
        let error = range.skip_unreadable(&[(0, 9)].into(), &mut [(0, 3)].into()).unwrap_err();
        assert_eq!(error.rdkafka_error_code(), Some(Code::OperationTimedOut));
    }
}
