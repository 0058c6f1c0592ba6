//! How far a command is: a bar on a terminal, a JSON line a second for everybody else.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use service::admin::Health as _;
use store::JobCounts;

use crate::health::Health;
use crate::ingest::Running;
use crate::kafka::Pace;
use crate::tally::Tally;

/// Often enough for a bar that moves.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people; the default on a terminal.
    Text,
    /// One JSON object a line; the default elsewhere.
    Json,
}

impl Output {
    /// What was asked for, else what fits.
    pub(crate) fn chosen(asked: Option<Self>) -> Self {
        let fitting = if io::stdout().is_terminal() { Self::Text } else { Self::Json };
        asked.unwrap_or(fitting)
    }

    /// Prints a JSON line `{"what": …}`, or the text.
    ///
    /// # Errors
    /// When nothing can be printed.
    pub(crate) fn print(self, what: &str, value: &impl Serialize, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Text => writeln!(out, "{}", text.trim_end()),
            Self::Json => {
                let mut line = serde_json::Map::new();
                line.insert(what.to_owned(), serde_json::to_value(value)?);
                writeln!(out, "{}", Value::Object(line))
            }
        }
    }
}

/// Shows how far something is.
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    job: Option<i64>,
    total: Option<u64>,
    began: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// Of so many records, where it is known.
    pub(crate) fn new(output: Output, job: Option<i64>, total: Option<u64>) -> Self {
        let bar = (output == Output::Text && io::stderr().is_terminal()).then(|| {
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "[{wide_bar}] {human_pos} of {human_len}, {eta} left {msg}",
                ),
                None => {
                    (ProgressBar::no_length(), "{spinner} {human_pos} records, {elapsed} {msg}")
                }
            };
            // A template that is not understood costs the looks and nothing else.
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style.progress_chars("=> "))
        });
        Self { output, bar, job, total, began: Instant::now(), last_line: None }
    }

    /// So many are read, and this came of those that are written; `paused` says why nothing moves.
    pub(crate) fn show(
        &mut self,
        read: u64,
        counts: &JobCounts,
        paused: Option<&str>,
    ) -> io::Result<()> {
        if let Some(bar) = &self.bar {
            bar.set_position(read);
            bar.set_message(
                paused.map_or_else(String::new, |reason| format!("- paused: {reason}")),
            );
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if self.output == Output::Json && due {
            self.last_line = Some(Instant::now());
            let per_second = read as f64 / self.began.elapsed().as_secs_f64().max(0.001);
            let left = self.total.map(|total| total.saturating_sub(read) as f64);
            let eta = left.filter(|_| read > 0).map(|left| (left / per_second).ceil());
            let line = json!({
                "job": self.job, "read": read, "of": self.total, "written": counts.read(), "counts": counts,
                "records_per_second": per_second.round(), "eta_seconds": eta, "paused": paused,
            });
            self.output.print("progress", &line, "")?;
        }
        Ok(())
    }

    /// Shows how far the loop is until it ends, for a command that keeps no job.
    ///
    /// # Errors
    /// What ended the loop; when nothing can be printed.
    pub(crate) async fn follow(
        &mut self,
        mut running: Running,
        health: &Health,
        pace: &Pace,
        tally: &Tally,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                result = &mut running => return Ok(result?),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let paused = health.ready().reason;
            self.show(
                pace.read.load(Ordering::Relaxed),
                &tally.progress().counts,
                paused.as_deref(),
            )?;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Counts for people.
pub(crate) fn in_words(counts: &JobCounts) -> String {
    let mut text = format!(
        "{} records: {} inserted, {} updated, {} unchanged, {} skipped, {} rejected",
        counts.read(),
        counts.inserted,
        counts.updated,
        counts.unchanged,
        counts.skipped,
        counts.all_rejected()
    );
    for (code, count) in &counts.rejected {
        text.push_str(&format!("\n  {count:>10} {code}"));
    }
    text
}
