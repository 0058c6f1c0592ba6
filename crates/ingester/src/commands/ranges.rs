//! Asking for ranges of a topic and reading them, for every command. librdkafka's calls wait for the broker, so they are
//! made on threads that may be left behind when the command is stopped.

use anyhow::Context as _;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::kafka::{self, Bound, OffsetRanges, RangeReader, RateLimit};
use crate::pipeline::ports::SourceEvent;
use crate::settings::Settings;

/// Room for the answers to questions, of which none is a record.
const QUESTION_KIB: u64 = 1_024;

/// What a topic holds between two bounds; of these partitions, without any of all.
///
/// # Errors
/// When the broker does not answer, or lacks the topic or one of the partitions.
pub(crate) async fn find(
    settings: &Settings,
    topic: String,
    partitions: Vec<i32>,
    bounds: (Bound, Bound),
) -> anyhow::Result<OffsetRanges> {
    ask(settings, move |reader| {
        spans(reader, &topic, &reader.partitions(&topic, &partitions)?, bounds)
    })
    .await
}

/// Asks the broker.
///
/// # Errors
/// What `question` answers; when librdkafka refuses a setting, by name.
pub(crate) async fn ask<T: Send + 'static>(
    settings: &Settings,
    question: impl FnOnce(&RangeReader) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let settings = settings.clone();
    let ask =
        move || question(&RangeReader::open(&settings, QUESTION_KIB).map_err(kafka::refused)?);
    tokio::task::spawn_blocking(ask).await?
}

/// What these partitions hold between two bounds, on a thread that may wait.
///
/// # Errors
/// When the broker does not answer.
pub(crate) fn spans(
    reader: &RangeReader,
    topic: &str,
    partitions: &[i32],
    bounds: (Bound, Bound),
) -> anyhow::Result<OffsetRanges> {
    reader
        .spans(topic, partitions, bounds)
        .with_context(|| format!("asking for the offsets of topic {topic}"))
}

/// Reads ranges, with a third of the memory that records may hold.
///
/// # Errors
/// When librdkafka refuses a setting, by name.
pub(crate) fn read(
    settings: &Settings,
    ranges: OffsetRanges,
    limit: RateLimit,
    stop: CancellationToken,
) -> anyhow::Result<Receiver<SourceEvent>> {
    let kib = settings.limits.max_buffered_bytes.as_u64() / 3 / 1_024;
    let reader = RangeReader::open(settings, kib.max(QUESTION_KIB));
    reader.and_then(|reader| reader.read(ranges, limit, stop)).map_err(kafka::refused)
}
