//! Reads the selected dead letters: the topic from its first record to its present end.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::sync::CancellationToken;

use super::{DeadLetter, Originals, Selection};
use crate::commands::counts::Counts;
use crate::commands::ranges;
use crate::kafka::{Bound, OffsetRanges, ReadOptions};
use crate::pipeline::ports::{Chunk, SourceError, SourceEvent};
use crate::record::Record;
use crate::settings::Settings;

/// The dead letters to be read by a redrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeadLetterRanges {
    /// Earlier builds stored it under another name.
    #[serde(alias = "spans")]
    pub(crate) ranges: OffsetRanges,
    pub(crate) selection: Selection,
    /// A letter that was rejected this often is skipped; `None` = no limit.
    pub(crate) max_attempts: Option<u32>,
}

/// The offsets of the dead-letter topic between two bounds, for these partitions, or for all if there are none.
///
/// # Errors
/// If the broker does not answer, or does not have the topic or one of the partitions.
pub(crate) async fn find(
    settings: &Settings,
    partitions: Vec<i32>,
    bounds: (Bound, Bound),
) -> anyhow::Result<OffsetRanges> {
    let topic = settings.kafka.dead_letter_topic.clone();
    ranges::ask(settings, move |reader| {
        ranges::between(reader, &topic, &reader.partitions(&topic, &partitions)?, bounds)
    })
    .await
}

/// Reads the selected dead letters; `counts` counts those of them that are left out. With `originals`, omitted parts are taken
/// from the original record. If that no longer exists, the letter is skipped and counted.
pub(crate) fn read(
    settings: &Settings,
    letters: DeadLetterRanges,
    originals: Option<Originals>,
    (limit, counts): (ReadOptions, Counts),
    stop: CancellationToken,
) -> anyhow::Result<Receiver<SourceEvent>> {
    let mut all = ranges::read(settings, letters.ranges.clone(), limit, stop)?;
    let (events, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(mut event) = all.recv().await {
            if let SourceEvent::Records(mut chunk) = event {
                chunk.records.retain(|record| letters.takes(DeadLetter(record), &counts));
                let selected = match &originals {
                    Some(originals) => whole(originals, chunk, &counts).await,
                    None => Ok(chunk),
                };
                event = match selected {
                    Ok(chunk) if chunk.records.is_empty() => continue,
                    Ok(chunk) => SourceEvent::Records(chunk),
                    Err(error) => SourceEvent::Failed(SourceError::Range(format!("{error:#}"))),
                };
            }
            if events.send(event).await.is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

async fn whole(originals: &Originals, chunk: Chunk, counts: &Counts) -> anyhow::Result<Chunk> {
    let mut records = Vec::with_capacity(chunk.records.len());
    for record in chunk.records {
        match originals.whole(&record).await? {
            Some(record) => records.push(record),
            None => {
                let origin = DeadLetter(&record).origin();
                tracing::error!(
                    origin,
                    "the dead letter has only a part of its record, and the record is gone: it cannot be redriven"
                );
                leave_out(counts, ORIGINAL_GONE, &record);
            }
        }
    }
    Ok(Chunk { records, ..chunk })
}

/// The reason for a selected letter whose original record no longer exists.
pub(crate) const ORIGINAL_GONE: &str = "original_gone";

fn leave_out(counts: &Counts, reason: &'static str, letter: &Record) {
    let position = &letter.position;
    counts.leave_out(reason, position.partition, position.offset..position.offset + 1);
}

impl DeadLetterRanges {
    fn takes(&self, letter: DeadLetter<'_>, counts: &Counts) -> bool {
        if !self.selection.matches(&letter) {
            return false;
        }
        let Some(max_attempts) = self.max_attempts else { return true };
        let reason = if letter.code().is_none() {
            "not_ours"
        } else if letter.attempts() >= max_attempts {
            "max_attempts"
        } else {
            return true;
        };
        leave_out(counts, reason, letter.0);
        false
    }
}
