//! The plan of a replay: what it will read.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use store::PublicationWriter as _;

use super::{RangeArguments, file};
use crate::commands::context::Context;
use crate::commands::dead_letter_source::DeadLetterRanges;
use crate::commands::ranges;
use crate::kafka::{Bound, OffsetRanges, RangeReader};
use crate::settings::Settings;

/// The rates in the benchmark on two cores, for an estimate if no rate is set.
const POSTGRES_RATE: u64 = 50_000;
const SQLITE_RATE: u64 = 15_000;

/// The task of a job as stored in its row, complete enough to resume the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) from: Option<String>,
    pub(crate) until: Option<String>,
    pub(crate) source: Source,
    /// The maximum number of records per second.
    pub(crate) rate: Option<u64>,
    /// Whether rejected records are sent to the dead-letter topic.
    pub(crate) dead_letter: bool,
    /// The beginning of a source file, as [`file::beginning`] describes it, so that a resumed job does not read another file.
    #[serde(default)]
    pub(crate) beginning: Option<String>,
}

/// The source of the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    Topic(OffsetRanges),
    File(PathBuf),
    DeadLetters(DeadLetterRanges),
}

impl Task {
    /// The task in words.
    pub(crate) fn describe(&self) -> String {
        match &self.source {
            Source::File(path) => format!("file {}", path.display()),
            Source::DeadLetters(letters) => format!("dead letters of {}", letters.ranges.topic),
            Source::Topic(ranges) => format!(
                "{} from {} until {}",
                ranges.topic,
                self.from.as_deref().unwrap_or("earliest"),
                self.until.as_deref().unwrap_or("latest")
            ),
        }
    }
}

/// A task with its estimated size.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    #[serde(flatten)]
    pub(super) task: Task,
    /// The first available offset of each partition for which older offsets were requested.
    pub(super) removed_before: BTreeMap<i32, i64>,
    /// An upper bound, because bounds by time leave records out.
    pub(super) records: Option<u64>,
    /// Estimated from the size of the first records.
    pub(super) estimated_bytes: Option<u64>,
    pub(super) estimated_seconds: Option<u64>,
}

/// Queries the broker for the range, or opens the file, so that an impossible replay fails before its job is created.
pub(super) async fn make(context: &Context, asked: &RangeArguments) -> anyhow::Result<Plan> {
    let usual = if context.store.is_serial() { SQLITE_RATE } else { POSTGRES_RATE };
    let &RangeArguments { rate, dead_letter, .. } = asked;
    let task =
        |source| Task { from: None, until: None, source, rate, dead_letter, beginning: None };
    if let Some(path) = &asked.file {
        file::open(path)?;
        // The job may be resumed in another folder.
        let path = if path.as_os_str() == "-" { path.clone() } else { std::path::absolute(path)? };
        let beginning = file::beginning(&path, file::BEGINNING)?;
        return Ok(Plan::of(Task { beginning, ..task(Source::File(path)) }));
    }
    let from = asked.from.as_ref().context("neither --from nor --file")?;
    let bounds = (from.bound, asked.until.bound);
    let topic = asked.topic.as_ref().unwrap_or(&context.settings.kafka.topic).clone();
    let partitions = asked.partition.clone();
    let (ranges, removed_before, size) = ranges::ask(&context.settings, move |reader| {
        let partitions = reader.partitions(&topic, &partitions)?;
        let ranges = ranges::between(reader, &topic, &partitions, bounds)?;
        let removed_before = removed_before(reader, &topic, &partitions, bounds)?;
        if !ranges.partitions.is_empty() {
            let size = reader.sample(&ranges).context("reading the first records")?;
            return Ok((ranges, removed_before, size));
        }
        // In an empty range there is no first record to wait for.
        ranges::not_still_to_come(reader, &topic, &partitions, bounds.0)?;
        Ok((ranges, removed_before, None))
    })
    .await?;
    let records = ranges.len();
    let (from, until) = (Some(from.describe()), Some(asked.until.describe()));
    Ok(Plan {
        removed_before,
        records: Some(records),
        estimated_bytes: size.map(|size| records * size),
        estimated_seconds: Some(records.div_ceil(rate.unwrap_or(usual))),
        ..Plan::of(Task { from, until, ..task(Source::Topic(ranges)) })
    })
}

/// The first available offset of each partition for which older offsets are requested.
fn removed_before(
    reader: &RangeReader,
    topic: &str,
    partitions: &[i32],
    (from, until): (Bound, Bound),
) -> anyhow::Result<BTreeMap<i32, i64>> {
    let offset = |bound| if let Bound::Offset(offset) = bound { Some(offset) } else { None };
    let Some(oldest) = [from, until].into_iter().filter_map(offset).min() else {
        return Ok(BTreeMap::new());
    };
    let mut removed = BTreeMap::new();
    for &partition in partitions {
        let (low, _) = reader.bounds(topic, partition)?;
        removed.extend((oldest < low).then_some((partition, low)));
    }
    Ok(removed)
}

impl Plan {
    const fn of(task: Task) -> Self {
        Self {
            task,
            removed_before: BTreeMap::new(),
            records: None,
            estimated_bytes: None,
            estimated_seconds: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == Some(0)
    }

    /// The plan in words.
    pub(super) fn describe(&self, settings: &Settings, table_generation: u32) -> String {
        let mut text = format!("replay of {}\n", self.task.describe());
        // Writing to a string cannot fail.
        let _ = self.describe_range(&mut text);
        let generation = settings.enrich.generation;
        let _ = if generation > table_generation {
            writeln!(
                text,
                "  generation {generation}, the table has {table_generation}: whatever is evaluated now replaces what an \
                 older generation said, also a tor that was true"
            )
        } else {
            writeln!(
                text,
                "  generation {generation}, as in the table: verdicts only gain knowledge, a tor that was true stays \
                 true; to take verdicts back, raise enrich.generation first"
            )
        };
        text.push_str(if self.task.dead_letter {
            "  rejected records are sent to the dead-letter topic, also those that are there already\n"
        } else {
            "  rejected records are counted and shown, and not sent to the dead-letter topic again\n"
        });
        text
    }

    fn describe_range(&self, text: &mut String) -> std::fmt::Result {
        let Source::Topic(ranges) = &self.task.source else {
            return writeln!(text, "  one event or exported record a line, read to its end");
        };
        for (partition, first) in &self.removed_before {
            writeln!(
                text,
                "  partition {partition}: what was asked for before offset {first} is no longer in the topic"
            )?;
        }
        if self.is_empty() {
            return writeln!(text, "  no records");
        }
        writeln!(text, "  partition         first          last       records")?;
        for range in &ranges.partitions {
            let (last, records) = (range.end - 1, range.end - range.first);
            writeln!(
                text,
                "  {:>9}  {:>12}  {last:>12}  {records:>12}",
                range.partition, range.first
            )?;
        }
        writeln!(text, "  {} records{}", ranges.len(), self.sizes())?;
        if ranges.not_before.is_some() || ranges.not_after.is_some() {
            writeln!(
                text,
                "  of which those count whose timestamp lies within the range; timestamps can go backwards, so all are read"
            )?;
        }
        Ok(())
    }

    fn sizes(&self) -> String {
        let bytes = self.estimated_bytes.map_or_else(String::new, |bytes| {
            format!(", about {} by the first of them", ByteSize::b(bytes))
        });
        let time =
            self.estimated_seconds.map(Duration::from_secs).map_or_else(String::new, |time| {
                let by =
                    if self.task.rate.is_some() { "at --rate" } else { "as the benchmark had it" };
                format!(", about {} {by}", humantime::format_duration(time))
            });
        format!("{bytes}{time}")
    }
}
