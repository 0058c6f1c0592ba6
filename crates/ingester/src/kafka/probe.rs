//! Finds the end of a batch that cannot be read.

use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;

use super::client::ClientCallbacks;
use super::damage::is_unreadable;
use super::{config, inspect};

/// The time limit of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// A consumer that searches for the next readable offset of a partition.
pub(super) struct Probe {
    consumer: BaseConsumer<ClientCallbacks>,
    topic: String,
}

/// The offsets of a batch that cannot be read.
pub(super) struct Unreadable {
    pub(super) partition: i32,
    /// The next offset to read. The offsets between it and the batch have no record: for example a transaction's end.
    pub(super) next: i64,
    pub(super) offsets: Range<i64>,
}

impl Probe {
    /// Opens a probe; `config` has the settings of `inspect::probe`. The probe reads open transactions too: otherwise
    /// it would get neither a record nor an end after the last stable offset.
    pub(super) fn open(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        Ok(Self { consumer: inspect::uncommitted(config)?, topic: topic.to_owned() })
    }

    /// Finds the partition of an unreadable batch by the batch's first offset, because librdkafka does not name the partition.
    /// `read`: the offsets up to which the partitions are read. `None` where none of them has such a batch. `alive` is called
    /// before each attempt.
    ///
    /// # Errors
    /// If the batch was not found and a partition did not answer.
    pub(super) fn find(
        &self,
        batch: i64,
        mut read: Vec<(i32, i64)>,
        alive: impl Fn(),
    ) -> KafkaResult<Option<Unreadable>> {
        // The partition is probably the one that is read up to the batch.
        read.sort_by_key(|(_, next)| next.abs_diff(batch));
        let mut failed = None;
        for (partition, next) in read {
            let from = next.max(batch);
            match self.end_of_unreadable(partition, from, &alive) {
                Ok(Some(end)) => {
                    return Ok(Some(Unreadable { partition, next, offsets: from..end }));
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The first offset after an unreadable batch that begins at or before `from`. `None` where the batch at `from` can
    /// be read.
    ///
    /// The batch's header states its last offset but cannot be trusted. So the search goes forward in growing steps to a
    /// readable offset, then halves the last step: about thirty attempts for a batch of 36,000 records.
    fn end_of_unreadable(
        &self,
        partition: i32,
        from: i64,
        alive: &impl Fn(),
    ) -> KafkaResult<Option<i64>> {
        let first = |offset| {
            alive();
            self.first(partition, offset)
        };
        if first(from)?.is_some() {
            return Ok(None);
        }
        let (mut bad, mut step) = (from, 1);
        let mut good = loop {
            match first(bad + step)? {
                Some(offset) => break (bad + step, offset),
                None => (bad, step) = (bad + step, step * 2),
            }
        };
        while good.0 - bad > 1 {
            let middle = bad.midpoint(good.0);
            match first(middle)? {
                Some(offset) => good = (middle, offset),
                None => bad = middle,
            }
        }
        Ok(Some(good.1))
    }

    /// Fetches from this offset. The offset of the first record, or of the partition's end; `None` where the batch there cannot
    /// be read.
    ///
    /// # Errors
    /// For example no answer within [`ATTEMPT_TIMEOUT`].
    fn first(&self, partition: i32, offset: i64) -> KafkaResult<Option<i64>> {
        self.consumer.assign(&config::place(&self.topic, partition, Offset::Offset(offset))?)?;
        let deadline = Instant::now() + ATTEMPT_TIMEOUT;
        while Instant::now() < deadline {
            match self.consumer.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => return Ok(Some(message.offset())),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Some(offset)),
                // After the end there is nothing that could be damaged.
                Some(Err(error)) if config::is_out_of_range(&error) => {
                    let (_, high) =
                        self.consumer.fetch_watermarks(&self.topic, partition, ATTEMPT_TIMEOUT)?;
                    return Ok(Some(high.min(offset)));
                }
                Some(Err(error)) if is_unreadable(&error) => return Ok(None),
                Some(Err(_)) | None => {}
            }
        }
        Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
    }
}
