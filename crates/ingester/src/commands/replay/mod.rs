//! `publication-ingester replay …`: passes a range of the topic, or a file, through the ingest loop again. It uses a
//! separate consumer without group and commits; its result is a row of `replay_job`.

mod file;
mod job;
mod plan;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use store::{Job, JobState, Jobs as _, PublicationTable as _};
use tokio_util::sync::CancellationToken;

use crate::commands::bound::BoundArgument;
use crate::commands::context::{self, Context};
use crate::commands::output::{Output, in_words};
use crate::evidence;
use crate::settings::Settings;

use job::Run;
pub(crate) use job::{Ended, begin, dry_run};
pub(crate) use plan::{Source, Task};

/// A range to read again, or what to do with a job.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Replay {
    #[command(subcommand)]
    job: Option<JobCommand>,
    #[command(flatten)]
    range: RangeArguments,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// List the newest jobs
    List {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// How to print [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        output: Option<Output>,
    },
    /// Resume a job that was killed, failed or was cancelled, from its saved position; a process that still runs it
    /// stops
    Resume {
        /// The job's number
        job: i64,
        /// How to print [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        output: Option<Output>,
    },
    /// Cancel a job; the process that runs it stops within a second
    Cancel {
        /// The job's number
        job: i64,
    },
}

#[derive(Debug, Args)]
struct RangeArguments {
    /// The first record: a time (RFC 3339, or a span back from now such as 2h), an offset, earliest or latest; inclusive
    #[arg(long, value_name = "BOUND", required_unless_present = "file")]
    from: Option<BoundArgument>,
    /// The last record, likewise and inclusive. A time is a filter on record timestamps, which can go backwards
    #[arg(long, value_name = "BOUND", default_value = "latest")]
    until: BoundArgument,
    /// Another topic than kafka.topic
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition; may be repeated
    #[arg(long, value_name = "N")]
    partition: Vec<i32>,
    /// Read events from a file instead, one a line; - is standard input
    #[arg(long, conflicts_with_all = ["from", "until", "topic", "partition"])]
    file: Option<PathBuf>,
    /// Records a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Why, for the job's row
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Send rejected records to the dead-letter topic; by default they are counted and shown only, because live ingest
    /// sent them when they came
    #[arg(long)]
    dead_letter: bool,
    /// Write nothing and say what would change
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// How to print [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

impl Replay {
    /// Runs the command. `false` if the range was not read to its end.
    ///
    /// # Errors
    /// If the range cannot be read, the database cannot be used, or the job does not exist.
    pub(crate) async fn run(
        self,
        settings: Settings,
        stop: CancellationToken,
    ) -> anyhow::Result<bool> {
        match self.job {
            None => self.range.run(settings, stop).await,
            Some(JobCommand::List { limit, output }) => {
                list(&settings, limit, Output::chosen(output)).await.map(|()| true)
            }
            Some(JobCommand::Resume { job, output }) => {
                resume(settings, job, Output::chosen(output), stop).await
            }
            Some(JobCommand::Cancel { job }) => cancel(&settings, job).await.map(|()| true),
        }
    }
}

impl RangeArguments {
    async fn run(self, settings: Settings, stop: CancellationToken) -> anyhow::Result<bool> {
        if let Some(from) = &self.from {
            from.check_order(&self.until)?;
        }
        let output = Output::chosen(self.output);
        let context = Context::load(settings).await?;
        if !self.dry_run {
            context.store.migrate().await?;
        }
        let table = context.table_generation().await?;
        let plan = plan::make(&context, &self).await?;
        output.print("plan", &plan, &plan.describe(&context.settings, table))?;
        if plan.is_empty() {
            return Ok(true);
        }
        if self.dry_run {
            return job::dry_run(&context, &plan.task, output, stop).await;
        }
        if !self.yes && std::io::stdin().is_terminal() {
            let asking = stop.run_until_cancelled(tokio::task::spawn_blocking(confirmed)).await;
            let Some(true) = asking.transpose()?.transpose()? else { return Ok(false) };
        }
        let run = begin(&context, plan.task, self.reason).await?;
        finish(run.run(&context, output, stop).await?, output)
    }
}

/// Prints the result of a job.
pub(crate) fn finish(ended: Ended, output: Output) -> anyhow::Result<bool> {
    let done = ended.state == JobState::Done;
    let mut text =
        format!("job {} is {}: {}", ended.job, ended.state.as_str(), in_words(&ended.counts));
    for rejected in &ended.rejected {
        text.push_str(&format!("\n  {rejected}"));
    }
    if !done {
        text.push_str(&format!("\n`replay resume {}` goes on with it", ended.job));
    }
    output.print("done", &ended, &text)?;
    Ok(job::succeeds(&ended.left_out, ended.fault) && done)
}

/// Asks for confirmation at the terminal.
fn confirmed() -> anyhow::Result<bool> {
    eprint!("run it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn list(settings: &Settings, limit: u32, output: Output) -> anyhow::Result<()> {
    for job in context::jobs(settings)?.jobs(limit).await? {
        output.print("job", &shown(&job), &in_text(&job))?;
    }
    Ok(())
}

fn shown(job: &Job) -> serde_json::Value {
    serde_json::json!({
        "id": job.id, "state": job.state.as_str(), "who": job.who, "reason": job.reason, "what": job.what,
        "position": job.progress.position, "counts": job.progress.counts, "note": job.note,
        "started": job.started.to_rfc3339_millis(), "updated": job.updated.to_rfc3339_millis(),
    })
}

fn in_text(job: &Job) -> String {
    let reason =
        job.reason.as_deref().map_or_else(String::new, |reason| format!(" because: {reason}"));
    let note = job.note.as_deref().map_or_else(String::new, |note| format!(" ({note})"));
    let of = serde_json::from_value::<Task>(job.what.clone()).ok().map(|task| task.describe());
    format!(
        "{} {}{note} {} by {}{reason}\n  {}\n  last heard of {}\n  {}",
        job.id,
        job.state.as_str(),
        job.started.to_rfc3339_millis(),
        job.who,
        of.unwrap_or_else(|| job.what.to_string()),
        job.updated.to_rfc3339_millis(),
        in_words(&job.progress.counts)
    )
}

async fn resume(
    settings: Settings,
    id: i64,
    output: Output,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let context = Context::load(settings).await?;
    context.table_generation().await?;
    let Some(job) = context.jobs.job(id).await? else { bail!("there is no job {id}") };
    let task: Task = serde_json::from_value(job.what)
        .with_context(|| format!("job {id} was written down by another version of this program"))?;
    if matches!(&task.source, Source::File(path) if path.as_os_str() == "-") {
        bail!("job {id} read standard input, which cannot be read again");
    }
    if let (Source::File(path), Some(beginning)) = (&task.source, &task.beginning)
        && !file::begins_with(path, beginning)?
    {
        let path = path.display();
        bail!("{path} is not the file that job {id} has read: start a new replay of it");
    }
    let runner = job::runner();
    if !context.jobs.take_over(id, &runner, evidence::now()).await? {
        bail!("job {id} is done");
    }
    let run = Run { id, runner, task, from: job.progress };
    finish(run.run(&context, output, stop).await?, output)
}

async fn cancel(settings: &Settings, id: i64) -> anyhow::Result<()> {
    let jobs = context::jobs(settings)?;
    if jobs.cancel(id, evidence::now()).await? {
        return Ok(());
    }
    match jobs.job(id).await? {
        None => bail!("there is no job {id}"),
        Some(job) => bail!("job {id} is {} already", job.state.as_str()),
    }
}
