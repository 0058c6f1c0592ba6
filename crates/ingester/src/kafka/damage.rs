//! Batches that librdkafka cannot read: damaged on the broker's disk (the checksum is another), or not to be unpacked. It
//! says so again and again and stays where it is, or goes on behind without a word about what it left out.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::group::Quiet;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// Reads the first offset of a batch that cannot be read out of librdkafka's words (rdkafka_msgset_reader.c); it gives
/// them as text alone. None where the text is another.
pub(super) fn unreadable_batch(text: &str) -> Option<i64> {
    let number = |before: &str| {
        let rest = &text[text.find(before)? + before.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    if text.starts_with("MessageSet at offset ") && text.contains("CRC32C") {
        return number("MessageSet at offset ");
    }
    if text.starts_with("Decompression ") && text.contains(" failed") {
        return number(" of message at ");
    }
    None
}

/// Whether an error of `poll` says that a batch cannot be read.
pub(super) fn is_unreadable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::BadMessage | Code::BadCompression | Code::CriticalSystemResource)
    )
}

/// A consumer that tries where a partition can be read again.
pub(super) struct Probe {
    consumer: BaseConsumer<Quiet>,
    topic: String,
}

/// What one try found.
enum Found {
    /// A record, or the partition's end, at this offset.
    Readable(i64),
    Unreadable,
    /// No answer in time.
    Nothing,
}

impl Probe {
    /// With the settings of `inspect::probe`.
    pub(super) fn open(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        let consumer = config.create_with_context(Quiet::default())?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// The first offset behind an unreadable batch, which begins at or before `from`; `None` where the batch at `from`
    /// can be read, or nothing is said about it. `alive` is called between the tries.
    ///
    /// A batch says its last offset in what cannot be trusted. So this goes ahead in growing steps until something can be
    /// read, and then halves the last step: a batch of 36,000 records takes some thirty tries.
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

    /// What is said first of this offset.
    fn first(&self, partition: i32, offset: i64) -> KafkaResult<Found> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        self.consumer.assign(&list)?;
        let deadline = Instant::now() + TRY;
        while Instant::now() < deadline {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => return Ok(Found::Readable(message.offset())),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Found::Readable(offset)),
                // Behind the end there is nothing to be damaged.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafkas_words_say_which_batch_cannot_be_read() {
        let damaged = "MessageSet at offset 4711 (82 bytes) failed CRC32C check (original 0x1 != calculated 0x2)";
        assert_eq!(unreadable_batch(damaged), Some(4_711));
        let packed = "Decompression (codec 0x4) of message at 12 of 237000 bytes failed: Local: Invalid compressed data";
        assert_eq!(unreadable_batch(packed), Some(12));
        assert_eq!(unreadable_batch("Fetch from broker 1 failed: Broker: Unknown"), None);
    }
}
