//! `publication-ingester dead-letters …`: lists the dead letters, and redrives those that are valid now.
//!
//! These commands never write to the topic. No state records whether a letter is still open: each letter is evaluated
//! again with today's rules and compared with the table.

mod export;
mod list;
mod mask;

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use store::PublicationTable as _;
use tokio_util::sync::CancellationToken;

use crate::commands::context::{Context, each_record};
use crate::commands::counts::Counts;
use crate::commands::dead_letter_source::{
    self, DeadLetter, DeadLetterRanges, Originals, Selection,
};
use crate::commands::output::Output;
use crate::commands::replay::{self, Source, Task};
use crate::kafka::{Bound, ReadOptions};
use crate::pipeline::evaluate::Outcome;
use crate::record::Record;
use crate::settings::Settings;

const EVERYTHING: (Bound, Bound) = (Bound::Earliest, Bound::Latest);

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Count the dead letters by code: still bad, to be redriven, done
    ///
    /// Every dead letter is evaluated again by today's configuration. `still_bad` is rejected today as well; `to_redrive` would
    /// be written now; `done` would not change the table, because it was redriven or sent again.
    List {
        #[command(flatten)]
        selection: Selection,
        /// How to print [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        output: Option<Output>,
    },
    /// Show a dead letter with the reason and today's evaluation, its addresses masked
    Show {
        /// The partition of the dead-letter topic
        partition: i32,
        /// The offset there
        offset: i64,
        /// How to print [default: text on a terminal, else json]
        #[arg(long, value_enum)]
        output: Option<Output>,
    },
    /// Process dead letters again: an event that is valid now becomes a row; the topic does not change
    Redrive(Redrive),
    /// Write dead letters as JSON lines, addresses masked
    Export {
        #[command(flatten)]
        selection: Selection,
        /// With addresses, so that `replay --file` can read them: keep the file accordingly
        #[arg(long)]
        with_addresses: bool,
        /// Where to [default: standard output]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Which dead letters to process again.
#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    selection: Selection,
    /// Leave out what was rejected this often (header publication.error.attempts), to avoid an endless loop
    #[arg(long, value_name = "N", default_value_t = 5)]
    max_attempts: u32,
    /// Records a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Why, for the job's row
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Write nothing and say what would change
    #[arg(long)]
    dry_run: bool,
    /// How to print [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

impl DeadLettersCommand {
    /// Runs the command. `false` if it was stopped before its end, or letters are gone.
    ///
    /// # Errors
    /// If the topic cannot be read, or the database cannot be used.
    pub(crate) async fn run(
        self,
        settings: Settings,
        stop: CancellationToken,
    ) -> anyhow::Result<bool> {
        match self {
            Self::List { selection, output } => {
                selection.check_order()?;
                let context = Context::load(settings).await?;
                list::run(&context, selection, Output::chosen(output), stop).await
            }
            Self::Show { partition, offset, output } => {
                let output = Output::chosen(output);
                let shown = show(&settings, (partition, offset), output);
                unless_stopped(&stop, shown).await.map(|()| true)
            }
            Self::Redrive(redrive) => redrive.run(settings, stop).await,
            Self::Export { selection, with_addresses, file } => {
                selection.check_order()?;
                let exported = export::run(&settings, selection, with_addresses, file.as_deref());
                unless_stopped(&stop, exported).await
            }
        }
    }
}

impl Redrive {
    async fn run(self, settings: Settings, stop: CancellationToken) -> anyhow::Result<bool> {
        let output = Output::chosen(self.output);
        let selection = self.selection;
        selection.check_order()?;
        let context = Context::load(settings).await?.evaluating_rows_alone();
        if !self.dry_run {
            context.store.migrate().await?;
        }
        context.table_generation().await?;
        let ranges =
            dead_letter_source::find(&context.settings, selection.partitions.clone(), EVERYTHING)
                .await?;
        let letters = DeadLetterRanges { ranges, selection, max_attempts: Some(self.max_attempts) };
        let task = Task {
            from: None,
            until: None,
            source: Source::DeadLetters(letters),
            rate: self.rate,
            dead_letter: false,
            beginning: None,
        };
        if self.dry_run {
            return replay::dry_run(&context, &task, output, stop).await;
        }
        let run = replay::begin(&context, task, self.reason).await?;
        replay::finish(run.run(&context, output, stop).await?, output)
    }
}

/// Runs work that does not write to a database, until it ends or `stop` is cancelled.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = stop.run_until_cancelled(work).await;
    done.unwrap_or_else(|| Err(anyhow!("stopped before its end")))
}

/// Calls `act` for every selected letter. `false` if letters are gone: deleted meanwhile, or in a batch that cannot be read.
async fn each(
    settings: &Settings,
    selection: Selection,
    stop: CancellationToken,
    act: impl AsyncFnMut(Record) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let ranges =
        dead_letter_source::find(settings, selection.partitions.clone(), EVERYTHING).await?;
    let letters = DeadLetterRanges { ranges, selection, max_attempts: None };
    let limit = ReadOptions::default();
    let counting = (limit.clone(), Counts::default());
    let records = dead_letter_source::read(settings, letters, None, counting, stop)?;
    each_record(records, act).await?;
    Ok(limit.take_gone().is_empty())
}

async fn show(
    settings: &Settings,
    (partition, offset): (i32, i64),
    output: Output,
) -> anyhow::Result<()> {
    let bounds = (Bound::Offset(offset), Bound::Offset(offset));
    let ranges = dead_letter_source::find(settings, vec![partition], bounds).await?;
    let letters = DeadLetterRanges { ranges, selection: Selection::default(), max_attempts: None };
    let (counting, stop) = (Default::default(), CancellationToken::new());
    let records = dead_letter_source::read(settings, letters, None, counting, stop)?;
    let mut found = None;
    each_record(records, async |record| {
        if record.position.offset == offset {
            found = Some(record);
        }
        Ok(())
    })
    .await?;
    let record = found.with_context(|| format!("there is no dead letter {partition} {offset}"))?;
    let context = Context::load(settings.clone()).await?;
    let whole = Originals::new(settings).whole(&record).await?;
    let today = match whole.map(|record| context.evaluator.evaluate(&record)) {
        None => "the original record no longer exists: it cannot be redriven".to_owned(),
        Some(Outcome::Row(_)) => "an event: redrive makes it a row".to_owned(),
        Some(Outcome::Skip) => "skipped".to_owned(),
        Some(Outcome::Reject(rejection)) => {
            format!("{}: {}", rejection.code.as_str(), rejection.message)
        }
    };
    let letter = DeadLetter(&record);
    // The topic may have letters of other programs, whose headers may quote anything.
    let masked = |text: String| mask::masked(text.as_bytes());
    let shown = serde_json::json!({
        "code": letter.code().map(masked), "message": letter.message().map(masked), "attempts": letter.attempts(),
        "at": letter.at().map(model::Timestamp::to_rfc3339_millis), "origin": masked(letter.origin()), "today": today,
        "record": export::without_addresses(&record),
    });
    output.print("letter", &shown, &serde_json::to_string_pretty(&shown)?)?;
    Ok(())
}
