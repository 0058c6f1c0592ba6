//! The output of commands. Progress is a bar on a terminal, and otherwise one JSON line per second.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar as Bar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use store::JobCounts;

use crate::commands::counts::Counts;
use crate::commands::waits::Waits;
use crate::kafka::ReadOptions;
use crate::pipeline::Running;

/// The update interval of the progress bar.
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
    /// The requested format, else the default for the kind of standard output.
    pub(crate) fn chosen(asked: Option<Self>) -> Self {
        let fitting = if io::stdout().is_terminal() { Self::Text } else { Self::Json };
        asked.unwrap_or(fitting)
    }

    /// Prints a JSON line `{"what": …}`, or the text.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(crate) fn print(self, what: &str, value: &impl Serialize, text: &str) -> io::Result<()> {
        let mut out = stdout();
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

/// Standard output, which ignores a closed pipe, because a command's work and result must not depend on a reader
/// (`replay … | head`).
pub(crate) fn stdout() -> impl Write {
    WhileRead(io::stdout().lock())
}

struct WhileRead<W>(W);

impl<W: Write> Write for WhileRead<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_gone(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_gone(self.0.flush(), ())
    }
}

fn unless_gone<T>(done: io::Result<T>, instead: T) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        done => done,
    }
}

/// Shows a command's progress.
pub(crate) struct ProgressBar {
    output: Output,
    bar: Option<Bar>,
    job: Option<i64>,
    total: Option<u64>,
    began: Instant,
    last_line: Option<Instant>,
}

impl ProgressBar {
    /// Begins with the total number of records, if that is known.
    pub(crate) fn new(output: Output, job: Option<i64>, total: Option<u64>) -> Self {
        let bar = (output == Output::Text && io::stderr().is_terminal()).then(|| {
            let (bar, template) = match total {
                Some(total) => {
                    (Bar::new(total), "[{wide_bar}] {human_pos} of {human_len}, {eta} left {msg}")
                }
                None => (Bar::no_length(), "{spinner} {human_pos} records, {elapsed} {msg}"),
            };
            // With an invalid template only the appearance changes.
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style.progress_chars("=> "))
        });
        Self { output, bar, job, total, began: Instant::now(), last_line: None }
    }

    /// Shows the number of records read, and the results of those written; `paused` is the reason if no record is
    /// written. If the output fails, for example on a full disk, that is logged, because it must not end the command.
    pub(crate) fn show(&mut self, read: u64, counts: &JobCounts, paused: Option<&str>) {
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
            if let Err(error) = self.output.print("progress", &line, "") {
                tracing::warn!(%error, "the progress cannot be shown");
            }
        }
    }

    /// Shows the loop's progress until the loop ends, for a command without a job.
    ///
    /// # Errors
    /// The error that ended the loop.
    pub(crate) async fn follow(
        &mut self,
        mut running: Running,
        waits: &Waits,
        limit: &ReadOptions,
        counts: &Counts,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                result = &mut running => return Ok(result?),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.show(
                limit.read.load(Ordering::Relaxed),
                &counts.progress().counts,
                waits.reason().as_deref(),
            );
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Counts as text.
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
    for (reason, count) in &counts.left_out {
        text.push_str(&format!("\n  {count} left out: {reason}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_ends_nothing() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut out = WhileRead(writer);
        out.write_all(b"line\n").unwrap();
        out.flush().unwrap();
        // Other errors are returned: a file that is cut off is a failure.
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        assert!(WhileRead(full).write_all(b"line\n").is_err());
    }
}
