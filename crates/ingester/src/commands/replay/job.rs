//! Runs a job: the ingest loop, and every half second a save of the progress to the job's row, which also shows whether
//! another process or an operator has changed the job's state.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use store::{Error, JobCounts, JobProgress, JobState, JobUpdate, Jobs, NewJob};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::file;
use super::plan::{Source, Task};
use crate::commands::context::Context;
use crate::commands::counts::{Counts, Rejected};
use crate::commands::dead_letter_source::{self, ORIGINAL_GONE, Originals};
use crate::commands::output::{Output, ProgressBar};
use crate::commands::preview::{Changes, Preview};
use crate::commands::ranges;
use crate::decode::rejection::Code;
use crate::evidence;
use crate::kafka::ReadOptions;
use crate::pipeline::ports::SourceEvent;

/// The time between two saves: after a crash the job reads the records since the last save again.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// How long a job that was stopped by a signal may write the records it has read.
const WRITE_OUT: Duration = Duration::from_millis(500);

/// The reason for a record of the range that was deleted before it was read, or is in a batch that cannot be read.
const GONE: &str = "gone";

/// A job that this process runs.
pub(crate) struct Run {
    pub(crate) id: i64,
    pub(crate) runner: String,
    pub(crate) task: Task,
    /// The progress of earlier runs.
    pub(crate) from: JobProgress,
}

/// The result of a job.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    pub(crate) job: i64,
    #[serde(serialize_with = "word")]
    pub(crate) state: JobState,
    pub(crate) counts: JobCounts,
    /// What is wrong with the lines of a file.
    #[serde(skip)]
    pub(crate) fault: Option<&'static str>,
    /// A few rejected records.
    pub(crate) rejected: Vec<Rejected>,
    /// The number of selected records that were skipped, by reason.
    pub(crate) left_out: BTreeMap<String, u64>,
}

fn word<S: serde::Serializer>(state: &JobState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}

/// A unique name of this process as a runner of jobs.
pub(crate) fn runner() -> String {
    format!("{}/{}/{}", operator(), std::process::id(), evidence::now())
}

/// `user@host`, as the operating system names them; a user without a name is a number.
fn operator() -> String {
    let id = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(id).ok().flatten();
    let user = user.map_or_else(|| id.to_string(), |user| user.name);
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    format!("{user}@{}", host.as_deref().unwrap_or("unknown"))
}

/// Creates a new job's row.
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
    /// Runs the job to its end, or until it is stopped.
    ///
    /// # Errors
    /// The error that ended the job, which is also stored as its end; also if the database cannot store the end.
    pub(crate) async fn run(
        self,
        context: &Context,
        output: Output,
        stop: CancellationToken,
    ) -> anyhow::Result<Ended> {
        let counts = Counts::from(self.from.clone());
        let limit = ReadOptions { rate: self.task.rate, ..ReadOptions::default() };
        let mut result = self.read(context, (&counts, &limit), output, &stop).await;
        if matches!(result, Ok(None)) && !stop.is_cancelled() {
            result = context.no_older_lists_came().await.map(|()| None);
        }
        count_gone(&limit, &counts);
        self.end(context, &counts, result, stop.is_cancelled()).await
    }

    /// Reads the range into the table. Returns a state that was set by another process meanwhile.
    async fn read(
        &self,
        context: &Context,
        (counts, limit): (&Counts, &ReadOptions),
        output: Output,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<JobState>> {
        let observer = Box::new(counts.clone());
        let ingest = if self.task.dead_letter {
            context.ingest_with_dead_letters(observer).await?
        } else {
            context.ingest(context.store.clone(), None, observer)
        };
        let reading = stop.child_token();
        let from = (&self.from, counts);
        let (records, total) = open(context, &self.task, from, limit.clone(), reading.clone())?;
        let mut progress = ProgressBar::new(output, Some(self.id), total);
        let mut ingesting = ingest.start(records)?;
        let mut saving = None;
        let mut decided = None;
        let given_up = async {
            stop.cancelled().await;
            tokio::time::sleep(WRITE_OUT).await;
        };
        tokio::pin!(given_up);
        loop {
            tokio::select! {
                result = &mut ingesting => {
                    result?;
                    return Ok(decided);
                }
                () = &mut given_up => anyhow::bail!(
                    "not everything was written in time; `replay resume` reads the rest again"
                ),
                saved = finished(&mut saving) => {
                    saving = None;
                    if let Some(state) = decision(saved) {
                        // The records already read are still written.
                        decided = Some(state);
                        reading.cancel();
                    }
                }
                () = tokio::time::sleep(SAVE_EVERY) => {
                    count_gone(limit, counts);
                    let saved = counts.progress();
                    let waits = context.waits.reason();
                    progress.show(limit.read.load(Ordering::Relaxed), &saved.counts, waits.as_deref());
                    if saving.is_none() {
                        // Not retried, because the next save includes this progress.
                        let (jobs, update) = (context.jobs.inner().clone(), self.update(saved, None));
                        let save = async move { jobs.save(&update, evidence::now()).await };
                        saving = Some(Box::pin(save) as Saving);
                    }
                }
            }
        }
    }

    async fn end(
        self,
        context: &Context,
        counts: &Counts,
        result: anyhow::Result<Option<JobState>>,
        is_stopped: bool,
    ) -> anyhow::Result<Ended> {
        let end = match &result {
            Err(error) => (JobState::Failed, Some(format!("{error:#}"))),
            Ok(Some(_)) => (JobState::Cancelled, None),
            Ok(_) if is_stopped => (JobState::Cancelled, Some("stopped by a signal".into())),
            Ok(_) => (JobState::Done, None),
        };
        let is_done = end.0 == JobState::Done;
        let progress = if is_done { counts.whole() } else { counts.progress() };
        let update = self.update(progress.clone(), Some(end));
        let state = context.jobs.save(&update, evidence::now()).await;
        let state = state.context("writing the job's end down")?;
        result?;
        let Some(state) = state else {
            let there = context.jobs.job(self.id).await.context("looking for the job")?;
            anyhow::ensure!(
                there.is_some(),
                "the database has no job {} any more: it went back in time; run the replay again",
                self.id
            );
            anyhow::bail!("job {} was taken over by another process", self.id)
        };
        Ok(Ended {
            job: self.id,
            state,
            fault: fault(&self.task, &progress.counts).filter(|_| is_done),
            left_out: progress.counts.left_out.clone(),
            counts: progress.counts,
            rejected: counts.examples(),
        })
    }

    fn update(&self, progress: JobProgress, end: Option<(JobState, Option<String>)>) -> JobUpdate {
        JobUpdate { id: self.id, runner: self.runner.clone(), progress, end }
    }
}

/// A save of a job's row in progress.
type Saving = Pin<Box<dyn Future<Output = Result<Option<JobState>, Error>> + Send>>;

/// Waits for a save to end; pending if there is none.
async fn finished(saving: &mut Option<Saving>) -> Result<Option<JobState>, Error> {
    match saving {
        Some(saving) => saving.await,
        None => std::future::pending().await,
    }
}

/// The state that another process has set in the job's row.
fn decision(saved: Result<Option<JobState>, Error>) -> Option<JobState> {
    match saved {
        Ok(Some(JobState::Running)) => None,
        // The job was cancelled, or taken over by another runner.
        Ok(state) => Some(state.unwrap_or(JobState::Failed)),
        // The ingest loop waits for the database too, and logs that.
        Err(error) if error.passes() => {
            tracing::debug!(%error, "the job's position is not saved");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the job's position is not saved");
            None
        }
    }
}

/// What is wrong with rejected records. One of a topic has been a dead letter since it was ingested, unless the database refuses
/// it only now; a line of a file is one only with `--dead-letter`.
fn fault(task: &Task, counts: &JobCounts) -> Option<&'static str> {
    let (read, rejected) = (counts.read(), counts.all_rejected());
    match task.source {
        Source::File(_) if read == 0 => Some("the file has no event"),
        Source::File(_) if read == rejected => Some("no line of the file is an event"),
        Source::File(_) if rejected > 0 && !task.dead_letter => {
            Some("lines of the file were rejected")
        }
        Source::File(_) => None,
        _ if counts.rejected.contains_key(Code::RefusedByStore.as_str()) && !task.dead_letter => {
            Some("the database refused rows")
        }
        _ => None,
    }
}

/// Whether a run that reached its end succeeds: nothing of its range was lost, and there is no [`fault`].
pub(super) fn succeeds(left_out: &BTreeMap<String, u64>, fault: Option<&str>) -> bool {
    if let Some(fault) = fault {
        tracing::error!("{fault}");
    }
    let is_whole = [ORIGINAL_GONE, GONE].iter().all(|why| !left_out.contains_key(*why));
    is_whole && fault.is_none()
}

fn count_gone(limit: &ReadOptions, counts: &Counts) {
    for (partition, offsets) in limit.take_gone() {
        counts.leave_out(GONE, partition, offsets);
    }
}

/// Opens the source. Also returns the number of its records, if that is known.
fn open(
    context: &Context,
    task: &Task,
    (from, counts): (&JobProgress, &Counts),
    limit: ReadOptions,
    stop: CancellationToken,
) -> anyhow::Result<(Receiver<SourceEvent>, Option<u64>)> {
    Ok(match &task.source {
        Source::File(path) => {
            let first = from.position.get(&0).copied().unwrap_or(0);
            (file::read(path.clone(), first, limit, stop)?, None)
        }
        Source::Topic(ranges) => {
            let mut ranges = ranges.clone();
            ranges.behind(&from.position);
            let total = Some(ranges.len());
            (ranges::read(&context.settings, ranges, limit, stop)?, total)
        }
        Source::DeadLetters(letters) => {
            let mut letters = letters.clone();
            letters.ranges.behind(&from.position);
            let total = Some(letters.ranges.len());
            let settings = &context.settings;
            let originals = Some(Originals::new(settings));
            let counting = (limit, counts.clone());
            (dead_letter_source::read(settings, letters, originals, counting, stop)?, total)
        }
    })
}

/// Prints the changes that a run would make, and writes nothing. `false` if the run would end with a negative result.
pub(crate) async fn dry_run(
    context: &Context,
    task: &Task,
    output: Output,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let (counts, limit) =
        (Counts::default(), ReadOptions { rate: task.rate, ..ReadOptions::default() });
    let preview = Preview::create(context.rows.clone()).await?;
    let ingest = context.ingest(preview.range.clone(), None, Box::new(counts.clone()));
    let from = (&JobProgress::default(), &counts);
    let (records, total) = open(context, task, from, limit.clone(), stop.child_token())?;
    let mut progress = ProgressBar::new(output, None, total);
    let running = ingest.start(records)?;
    progress.follow(running, &context.waits, &limit, &counts).await?;
    drop(progress);
    count_gone(&limit, &counts);
    let counted = counts.whole().counts;
    let fault = fault(task, &counted);
    let result = Predicted::new(preview.changes().await?, counted, counts.examples());
    output.print("dry_run", &result, &result.describe())?;
    if stop.is_cancelled() {
        anyhow::bail!("stopped before the end of the range: the rest of it is not in these counts");
    }
    Ok(succeeds(&result.left_out, fault))
}

/// The predicted results of a run.
#[derive(Debug, Serialize)]
struct Predicted {
    records: u64,
    #[serde(flatten)]
    rows: Changes,
    /// The number of records that change no row.
    unchanged: u64,
    skipped: u64,
    rejected: BTreeMap<String, u64>,
    rejected_examples: Vec<Rejected>,
    /// The number of selected records that would be skipped, by reason.
    left_out: BTreeMap<String, u64>,
}

impl Predicted {
    fn new(rows: Changes, counts: JobCounts, rejected_examples: Vec<Rejected>) -> Self {
        let changes = rows.inserted + rows.updated;
        Self {
            records: counts.read(),
            unchanged: counts.read() - counts.skipped - counts.all_rejected() - changes,
            skipped: counts.skipped,
            rows,
            rejected: counts.rejected,
            rejected_examples,
            left_out: counts.left_out,
        }
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "nothing is written; a run would change these rows, of {} records:\n{:>12} inserted\n{:>12} updated\n",
            self.records, self.rows.inserted, self.rows.updated
        );
        for (field, count) in &self.rows.fields {
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
        for (reason, count) in &self.left_out {
            text.push_str(&format!("{count:>12} left out: {reason}\n"));
        }
        for example in &self.rows.examples {
            let changes: Vec<_> = example.changes.iter().map(ToString::to_string).collect();
            let changes =
                if changes.is_empty() { "inserted".to_owned() } else { changes.join(", ") };
            text.push_str(&format!("  {} {}: {changes}\n", example.name, example.version));
        }
        for example in &self.rejected_examples {
            text.push_str(&format!("  {example}\n"));
        }
        text
    }
}
