//! Finds the end of a batch that cannot be read.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;

use super::config;
use super::damage::is_unreadable;
use super::quiet::Quiet;

/// The time limit of one attempt.
const TRY: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// A consumer that searches for the next readable offset of a partition.
pub(super) struct Probe {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

/// The result of one attempt.
enum Found {
    /// The offset of the first record, or of the partition's end.
    Readable(i64),
    Unreadable,
    /// No answer within the time limit.
    Nothing,
}

impl Probe {
    /// Opens a probe; `config` has the settings of `inspect::probe`.
    pub(super) fn open(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let consumer = config.create_with_context(Quiet::default())?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// The first offset after an unreadable batch that begins at or before `from`. `None` where the batch at `from` can
    /// be read, or where an attempt got no answer. `alive` is called before each attempt.
    ///
    /// The batch's header states its last offset but cannot be trusted. So the search goes forward in growing steps to a
    /// readable offset, then halves the last step: about thirty attempts for a batch of 36,000 records.
    pub(super) fn end_of_unreadable(
        &self,
        partition: i32,
        from: i64,
        alive: impl Fn(),
    ) -> KafkaResult<Option<i64>> {
        if !matches!(self.first(partition, from)?, Found::Unreadable) {
            return Ok(None);
        }
        let (mut bad, mut step) = (from, 1);
        let mut good = loop {
            alive();
            match self.first(partition, bad + step)? {
                Found::Readable(offset) => break (bad + step, offset),
                Found::Unreadable => (bad, step) = (bad + step, step * 2),
                Found::Nothing => return Ok(None),
            }
        };
        while good.0 - bad > 1 {
            alive();
            let middle = bad.midpoint(good.0);
            match self.first(partition, middle)? {
                Found::Readable(offset) => good = (middle, offset),
                Found::Unreadable => bad = middle,
                Found::Nothing => return Ok(None),
            }
        }
        Ok(Some(good.1))
    }

    /// Fetches from this offset; returns the first result.
    fn first(&self, partition: i32, offset: i64) -> KafkaResult<Found> {
        self.consumer.assign(&config::place(&self.topic, partition, Offset::Offset(offset))?)?;
        let deadline = Instant::now() + TRY;
        while Instant::now() < deadline {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => return Ok(Found::Readable(message.offset())),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Found::Readable(offset)),
                // After the end there is nothing that could be damaged.
                Some(Err(error)) if config::is_out_of_range(&error) => {
                    let (_, high) = self.consumer.fetch_watermarks(&self.topic, partition, TRY)?;
                    return Ok(Found::Readable(high.min(offset)));
                }
                Some(Err(error)) if is_unreadable(&error) => return Ok(Found::Unreadable),
                Some(Err(_)) | None => {}
            }
        }
        Ok(Found::Nothing)
    }
}
