//! Running a job: the loop, and beside it a look at the job's row every half second, which saves how far it is and sees
//! who else has decided about it.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use service::admin::Health as _;
use store::{JobCounts, JobProgress, JobState, JobUpdate, NewJob};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::file;
use super::plan::{Source, Task};
use crate::commands::context::Context;
use crate::commands::counts::{Rejected, Tally};
use crate::commands::dead_letters::{self, LeftOut};
use crate::commands::output::{Output, ProgressBar};
use crate::commands::preview::Preview;
use crate::evidence;
use crate::kafka::{self, RangeReader, RateLimit};
use crate::pipeline::ports::SourceEvent;
use crate::pipeline::{IngestError, Running};

/// Between two saves: a crash reads again what one of these wrote.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// A job in this process's hands.
pub(crate) struct Run {
    pub(crate) id: i64,
    pub(crate) runner: String,
    pub(crate) task: Task,
    /// What was done before.
    pub(crate) from: JobProgress,
}

/// How a job ended.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    pub(crate) job: i64,
    #[serde(serialize_with = "word")]
    pub(crate) state: JobState,
    pub(crate) counts: JobCounts,
    /// A few of the rejected records.
    pub(crate) rejected: Vec<Rejected>,
    /// Dead letters that were meant and not read, by the reason.
    pub(crate) left_out: BTreeMap<&'static str, u64>,
}

fn word<S: serde::Serializer>(state: &JobState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

/// Who this process is among all that ever ran a job.
pub(crate) fn runner() -> String {
    format!("{}/{}/{}", operator(), std::process::id(), evidence::now())
}

/// `user@host`, as the operating system has them.
fn operator() -> String {
    use std::os::unix::fs::MetadataExt;
    let id = std::fs::metadata("/proc/self").map(|process| process.uid().to_string());
    let id = id.unwrap_or_else(|_| "unknown".to_owned());
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.map_or_else(|_| "unknown".to_owned(), |host| host.trim().to_owned());
    format!("{}@{host}", user.unwrap_or(id))
}

/// Writes a new job down.
pub(crate) async fn begin(
    context: &Context,
    task: Task,
    reason: Option<String>,
) -> anyhow::Result<Run> {
    let runner = runner();
    let what = serde_json::to_value(&task)?;
    let job = NewJob { who: operator(), reason, what, runner: runner.clone() };
    let id = context.jobs.create(&job, evidence::now()).await.context("writing the job down")?;
    Ok(Run { id, runner, task, from: JobProgress::default() })
}

impl Run {
    /// Runs it to its end, or until somebody stops it.
    ///
    /// # Errors
    /// What ended it otherwise, which is then written down as its end; a database that cannot take that.
    pub(crate) async fn run(
        self,
        context: &Context,
        output: Output,
        stop: CancellationToken,
    ) -> anyhow::Result<Ended> {
        let tally = Tally::from(self.from.clone());
        let result = self.read(context, &tally, output, &stop).await;
        self.end(context, &tally, result, stop.is_cancelled()).await
    }

    /// Reads the range into the table. Returns what somebody else has decided about the job meanwhile, and the letters
    /// that were left out.
    async fn read(
        &self,
        context: &Context,
        tally: &Tally,
        output: Output,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Option<JobState>, LeftOut)> {
        let ingest = context.to_table(self.task.dead_letter, Box::new(tally.clone())).await?;
        let reading = stop.child_token();
        let pace = RateLimit { rate: self.task.rate, ..RateLimit::default() };
        let source = open(context, &self.task, &self.from, pace.clone(), reading.clone())?;
        let mut progress = ProgressBar::new(output, Some(self.id), source.total);
        let mut ingesting = ingest.start(source.records)?;
        let mut stopped = None;
        let result = loop {
            tokio::select! {
                result = &mut ingesting => break result,
                () = tokio::time::sleep(SAVE_EVERY) => {}
            }
            let saved = tally.progress();
            progress.show(
                pace.read.load(Ordering::Relaxed),
                &saved.counts,
                context.health.ready().reason.as_deref(),
            );
            match context.jobs.save(&self.update(saved, None), evidence::now()).await {
                Ok(Some(JobState::Running)) => {}
                // Cancelled, or taken over: what is on its way is still written.
                Ok(state) => {
                    stopped = Some(state.unwrap_or(JobState::Failed));
                    reading.cancel();
                }
                // The loop waits for the database too, and says so.
                Err(error) if error.passes() => {
                    tracing::debug!(%error, "the job's position is not saved")
                }
                Err(error) => {
                    tracing::warn!(%error, "the job's position is not saved");
                }
            }
            if reading.is_cancelled() {
                break wait(context, &mut ingesting).await?;
            }
        };
        result?;
        Ok((stopped, source.left_out))
    }

    async fn end(
        self,
        context: &Context,
        tally: &Tally,
        result: anyhow::Result<(Option<JobState>, LeftOut)>,
        signal: bool,
    ) -> anyhow::Result<Ended> {
        let end = match &result {
            Err(error) => (JobState::Failed, Some(format!("{error:#}"))),
            Ok((Some(_), _)) => (JobState::Cancelled, None),
            Ok(_) if signal => (JobState::Cancelled, Some("stopped by a signal".into())),
            Ok(_) => (JobState::Done, None),
        };
        let progress = tally.progress();
        let update = self.update(progress.clone(), Some(end));
        let state = loop {
            match context.jobs.save(&update, evidence::now()).await {
                Err(error) if error.passes() && !signal => {
                    tracing::warn!(%error, "waiting for the database to write the job's end down");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                saved => break saved.context("writing the job's end down")?,
            }
        };
        let (_, left_out) = result?;
        let left_out = left_out.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(state) = state else {
            anyhow::bail!("job {} was taken over by another process", self.id)
        };
        Ok(Ended {
            job: self.id,
            state,
            counts: progress.counts,
            rejected: tally.examples(),
            left_out,
        })
    }

    fn update(&self, progress: JobProgress, end: Option<(JobState, Option<String>)>) -> JobUpdate {
        JobUpdate { id: self.id, runner: self.runner.clone(), progress, end }
    }
}

/// Waits for what is on its way, as long as a daemon would.
async fn wait(
    context: &Context,
    ingesting: &mut Running,
) -> anyhow::Result<Result<(), IngestError>> {
    let grace = context.settings.shutdown.grace;
    match tokio::time::timeout(grace, ingesting).await {
        Ok(result) => Ok(result),
        Err(_) => {
            anyhow::bail!(
                "not everything was written in time; `replay resume` reads the rest again"
            )
        }
    }
}

/// A source of records and how many it has.
struct Opened {
    records: Receiver<SourceEvent>,
    total: Option<u64>,
    left_out: LeftOut,
}

fn open(
    context: &Context,
    task: &Task,
    from: &JobProgress,
    pace: RateLimit,
    stop: CancellationToken,
) -> anyhow::Result<Opened> {
    Ok(match &task.source {
        Source::File(path) => {
            let first = from.position.get(&0).copied().unwrap_or(0);
            let records = file::read(path.clone(), first, pace, stop)?;
            Opened { records, total: None, left_out: LeftOut::default() }
        }
        Source::Topic(spans) => {
            let mut spans = spans.clone();
            spans.behind(&from.position);
            let total = Some(spans.len());
            let kib = context.settings.limits.max_buffered_bytes.as_u64() / 3 / 1_024;
            let reader = RangeReader::open(&context.settings, kib.max(1_024));
            let records = reader.and_then(|reader| reader.read(spans, pace, stop));
            let records = records.map_err(kafka::refused)?;
            Opened { records, total, left_out: LeftOut::default() }
        }
        Source::DeadLetters(letters) => {
            let mut letters = letters.clone();
            letters.spans.behind(&from.position);
            let total = Some(letters.spans.len());
            let (records, left_out) = dead_letters::read(&context.settings, letters, pace, stop)?;
            Opened { records, total, left_out }
        }
    })
}

/// Says what a run would change, and writes nothing.
pub(crate) async fn dry_run(
    context: &Context,
    task: &Task,
    output: Output,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let (tally, pace) = (Tally::default(), RateLimit { rate: task.rate, ..RateLimit::default() });
    let forecast = std::sync::Arc::new(Preview::new(context.rows.clone()));
    let ingest = context.to_other(forecast.clone(), Box::new(tally.clone()));
    let source = open(context, task, &JobProgress::default(), pace.clone(), stop.child_token())?;
    let mut progress = ProgressBar::new(output, None, source.total);
    let running = ingest.start(source.records)?;
    progress.follow(running, &context.health, &pace, &tally).await?;
    drop(progress);
    let counts = tally.progress().counts;
    let result = Predicted::new(&forecast.result(), counts, tally.examples());
    output.print("dry_run", &result, &result.describe())?;
    if stop.is_cancelled() {
        anyhow::bail!("stopped before the end of the range: the rest of it is not in these counts");
    }
    Ok(true)
}

/// What a run would do.
#[derive(Debug, Serialize)]
struct Predicted {
    records: u64,
    #[serde(flatten)]
    forecast: crate::commands::preview::Forecasted,
    /// Records that change no row.
    unchanged: u64,
    skipped: u64,
    rejected: BTreeMap<String, u64>,
    rejected_examples: Vec<Rejected>,
}

impl Predicted {
    fn new(
        forecast: &crate::commands::preview::Forecasted,
        counts: JobCounts,
        rejected_examples: Vec<Rejected>,
    ) -> Self {
        let changes = forecast.inserted + forecast.updated;
        Self {
            records: counts.read(),
            unchanged: counts.read() - counts.skipped - counts.all_rejected() - changes,
            skipped: counts.skipped,
            forecast: forecast.clone(),
            rejected: counts.rejected,
            rejected_examples,
        }
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "nothing is written; a run would change these rows, of {} records:\n{:>12} inserted\n{:>12} updated\n",
            self.records, self.forecast.inserted, self.forecast.updated
        );
        for (field, count) in &self.forecast.fields {
            text.push_str(&format!("{count:>16} {field}\n"));
        }
        let rejected: u64 = self.rejected.values().sum();
        text.push_str(&format!(
            "{:>12} records unchanged\n{:>12} records skipped\n{rejected:>12} records rejected\n",
            self.unchanged, self.skipped
        ));
        for (code, count) in &self.rejected {
            text.push_str(&format!("{count:>16} {code}\n"));
        }
        for example in &self.forecast.examples {
            let changes: Vec<_> = example.changes.iter().map(ToString::to_string).collect();
            let changes =
                if changes.is_empty() { "inserted".to_owned() } else { changes.join(", ") };
            text.push_str(&format!("  {} {}: {changes}\n", example.name, example.version));
        }
        for example in &self.rejected_examples {
            text.push_str(&format!(
                "  {}/{}/{} {}: {}\n",
                example.topic, example.partition, example.offset, example.code, example.message
            ));
        }
        text
    }
}
