//! What a replay will read, before it reads it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::point::PointArgument;
use crate::commands::context::Context;
use crate::commands::dead_letters::Letters;
use crate::kafka::{self, Bound, OffsetRanges, RangeReader};
use crate::settings::Settings;

/// What the benchmark reached on two cores, for an estimate where no rate is set.
const POSTGRES_RATE: u64 = 50_000;
const SQLITE_RATE: u64 = 15_000;

/// What was asked for.
pub(super) struct Asked {
    pub(super) from: Option<PointArgument>,
    pub(super) until: PointArgument,
    pub(super) topic: String,
    pub(super) partitions: Vec<i32>,
    pub(super) file: Option<PathBuf>,
    pub(super) rate: Option<u64>,
    pub(super) dead_letter: bool,
}

/// What a job reads, as its row says it: enough to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) from: Option<String>,
    pub(crate) until: Option<String>,
    pub(crate) source: Source,
    /// Records a second at most.
    pub(crate) rate: Option<u64>,
    /// Whether rejected records are sent to the dead-letter topic.
    pub(crate) dead_letter: bool,
}

/// Where the records come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    Topic(OffsetRanges),
    File(PathBuf),
    DeadLetters(Letters),
}

impl Task {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        match &self.source {
            Source::File(path) => format!("file {}", path.display()),
            Source::DeadLetters(letters) => format!("dead letters of {}", letters.spans.topic),
            Source::Topic(spans) => format!(
                "{} from {} until {}",
                spans.topic,
                self.from.as_deref().unwrap_or("earliest"),
                self.until.as_deref().unwrap_or("latest")
            ),
        }
    }
}

/// A task and what is known of its size.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    #[serde(flatten)]
    pub(super) task: Task,
    /// By partition, the first offset that is there, where older ones were asked for.
    pub(super) removed_before: BTreeMap<i32, i64>,
    /// At most: times leave records out.
    pub(super) records: Option<u64>,
    /// By the size of the first records.
    pub(super) estimated_bytes: Option<u64>,
    pub(super) estimated_seconds: Option<u64>,
}

/// Asks the broker what the range holds.
pub(super) async fn make(context: &Context, asked: Asked) -> anyhow::Result<Plan> {
    let settings = context.settings.clone();
    let usual = if context.store.is_serial() { SQLITE_RATE } else { POSTGRES_RATE };
    tokio::task::spawn_blocking(move || make_now(&settings, asked, usual)).await?
}

fn make_now(settings: &Settings, asked: Asked, usual: u64) -> anyhow::Result<Plan> {
    let Asked { from, until, topic, partitions, file, rate, dead_letter } = asked;
    let mut removed = BTreeMap::new();
    let (source, said, size) = match (file, from) {
        (Some(path), _) => (Source::File(path), None, None),
        (None, Some(from)) => {
            let reader = RangeReader::open(settings, 1_024).map_err(kafka::refused)?;
            let points = (from.point, until.point);
            let spans = find(&reader, &topic, &partitions, points)?;
            removed = removed_before(&reader, &topic, &partitions, points)?;
            // Of nothing there is no first record to wait for.
            let size = if spans.partitions.is_empty() {
                None
            } else {
                reader.sample(&spans).context("reading the first records")?
            };
            (Source::Topic(spans), Some((from.describe(), until.describe())), size)
        }
        (None, None) => anyhow::bail!("neither --from nor --file"),
    };
    let records = match &source {
        Source::Topic(spans) => Some(spans.len()),
        Source::File(_) | Source::DeadLetters(_) => None,
    };
    let (from, until) = said.unzip();
    Ok(Plan {
        task: Task { from, until, source, rate, dead_letter },
        removed_before: removed,
        records,
        estimated_bytes: records.zip(size).map(|(records, size)| records * size),
        estimated_seconds: records.map(|records| records.div_ceil(rate.unwrap_or(usual))),
    })
}

/// The spans of a range; the partitions asked for must be there, and without any, all are meant.
pub(crate) fn find(
    reader: &RangeReader,
    topic: &str,
    asked: &[i32],
    points: (Bound, Bound),
) -> anyhow::Result<OffsetRanges> {
    let there = reader.partitions(topic).with_context(|| format!("asking about topic {topic}"))?;
    for partition in asked {
        ensure!(there.contains(partition), "topic {topic} has no partition {partition}");
    }
    // One that is asked for twice is read once.
    let meant = |partition: &i32| asked.is_empty() || asked.contains(partition);
    let partitions: Vec<i32> = there.into_iter().filter(meant).collect();
    reader
        .spans(topic, &partitions, points)
        .with_context(|| format!("asking for the offsets of topic {topic}"))
}

/// By partition, the first offset that is there, where older ones are asked for.
fn removed_before(
    reader: &RangeReader,
    topic: &str,
    asked: &[i32],
    (from, until): (Bound, Bound),
) -> anyhow::Result<BTreeMap<i32, i64>> {
    let offset = |point| if let Bound::Offset(offset) = point { Some(offset) } else { None };
    let Some(oldest) = [from, until].into_iter().filter_map(offset).min() else {
        return Ok(BTreeMap::new());
    };
    let mut removed = BTreeMap::new();
    for partition in reader.partitions(topic)? {
        if asked.is_empty() || asked.contains(&partition) {
            let (low, _) = reader.bounds(topic, partition)?;
            removed.extend((oldest < low).then_some((partition, low)));
        }
    }
    Ok(removed)
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.records == Some(0)
    }

    /// For people.
    pub(super) fn describe(&self, settings: &Settings, table_generation: u32) -> String {
        let mut text = format!("replay of {}\n", self.task.describe());
        // Writing to a string cannot fail.
        let _ = self.describe_range(&mut text);
        let generation = settings.enrich.generation;
        let _ = if generation > table_generation {
            writeln!(
                text,
                "  generation {generation}, the table has {table_generation}: whatever is judged now replaces what an \
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
        let Source::Topic(spans) = &self.task.source else {
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
        for span in &spans.partitions {
            let (last, records) = (span.end - 1, span.end - span.first);
            writeln!(
                text,
                "  {:>9}  {:>12}  {last:>12}  {records:>12}",
                span.partition, span.first
            )?;
        }
        writeln!(text, "  {} records{}", spans.len(), self.sizes())?;
        if spans.not_before.is_some() || spans.not_after.is_some() {
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
