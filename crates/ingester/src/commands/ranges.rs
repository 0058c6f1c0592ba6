//! Finds and reads ranges of a topic, for every command. librdkafka's calls block until the broker answers, so they run
//! on threads that may continue after the command was stopped.

use anyhow::Context as _;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::commands::bound::InvalidRange;
use crate::kafka::{self, Bound, OffsetRanges, RangeReader, ReadOptions};
use crate::pipeline::ports::SourceEvent;
use crate::settings::Settings;

/// The size of the buffer for queries, whose answers are not records.
const QUESTION_KIB: u64 = 1_024;

/// Runs a query to the broker on a blocking thread.
///
/// # Errors
/// The error of `question`; also if librdkafka refuses a setting, which the error names.
pub(crate) async fn ask<T: Send + 'static>(
    settings: &Settings,
    question: impl FnOnce(&RangeReader) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let settings = settings.clone();
    let ask =
        move || question(&RangeReader::open(&settings, QUESTION_KIB).map_err(kafka::refused)?);
    tokio::task::spawn_blocking(ask).await?
}

/// The offsets of these partitions between two bounds. Blocks, so call it on a blocking thread.
///
/// # Errors
/// If the broker does not answer.
pub(crate) fn between(
    reader: &RangeReader,
    topic: &str,
    partitions: &[i32],
    bounds: (Bound, Bound),
) -> anyhow::Result<OffsetRanges> {
    // Before the offsets: those of a topic that is created again in between would otherwise pass for this topic's.
    let topic_id = reader.topic_id(topic);
    let ranges = reader
        .ranges(topic, partitions, bounds)
        .with_context(|| format!("asking for the offsets of topic {topic}"))?;
    warn_of_open_transactions(reader, topic, &ranges, bounds.1)?;
    Ok(OffsetRanges { topic_id, ..ranges })
}

/// Names the partitions of which an open transaction hides the last records of the range.
fn warn_of_open_transactions(
    reader: &RangeReader,
    topic: &str,
    ranges: &OffsetRanges,
    until: Bound,
) -> anyhow::Result<()> {
    let wanted =
        if let Bound::Offset(offset) = until { offset.saturating_add(1) } else { i64::MAX };
    let partitions: Vec<i32> = ranges.partitions.iter().map(|range| range.partition).collect();
    for (range, end) in ranges.partitions.iter().zip(reader.ends(topic, &partitions)?) {
        if end.min(wanted) > range.end {
            let (partition, from) = (range.partition, range.end);
            let effect = "what follows it is not read";
            tracing::warn!(topic, partition, from, "an open transaction ends the range: {effect}");
        }
    }
    Ok(())
}

/// Refuses an offset that no partition has reached. Blocks, so call it on a blocking thread.
///
/// # Errors
/// [`InvalidRange`]; also if the broker does not answer.
pub(crate) fn not_still_to_come(
    reader: &RangeReader,
    topic: &str,
    partitions: &[i32],
    from: Bound,
) -> anyhow::Result<()> {
    let Bound::Offset(from) = from else { return Ok(()) };
    let mut readable = 0;
    for &partition in partitions {
        readable = readable.max(reader.bounds(topic, partition)?.1);
    }
    if from <= readable {
        return Ok(());
    }
    let end = reader.ends(topic, partitions)?.into_iter().max().unwrap_or(0);
    let why = if from <= end {
        format!("cannot be read yet: an open transaction begins at {readable}")
    } else {
        format!("is still to come: the topic ends before {end}")
    };
    Err(InvalidRange(format!("offset {from} {why}")).into())
}

/// Reads ranges, with a third of `limits.max_buffered_bytes` as buffer.
///
/// # Errors
/// If librdkafka refuses a setting; the error names it.
pub(crate) fn read(
    settings: &Settings,
    ranges: OffsetRanges,
    limit: ReadOptions,
    stop: CancellationToken,
) -> anyhow::Result<Receiver<SourceEvent>> {
    let reader = RangeReader::open(settings, settings.limits.client_kib());
    reader.and_then(|reader| reader.read(ranges, limit, stop)).map_err(kafka::refused)
}
