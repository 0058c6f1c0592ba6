//! The progress of the replay: a bar on a terminal, otherwise a few lines.

use std::io::IsTerminal;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// The number of lines without a terminal.
const LINES: u64 = 4;

/// A progress display.
pub(crate) struct Progress {
    total: u64,
    bar: Option<ProgressBar>,
    next_line: u64,
}

impl Progress {
    /// A display for `total` records.
    pub(crate) fn new(total: u64) -> Self {
        let watched = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let bar = watched.then(|| {
            // An invalid template only loses the style.
            let template = "  [{wide_bar}] {human_pos} of {human_len}, {elapsed} {msg}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style.progress_chars("=> "))
        });
        Self { total, bar, next_line: total.div_ceil(LINES) }
    }

    /// Shows what the replay waits for.
    pub(crate) fn waiting_for(&self, what: &'static str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("- {what}")),
            None => println!("  {what}"),
        }
    }

    /// Shows the number of finished records.
    pub(crate) fn show(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => {
                if done > 0 {
                    bar.set_message("");
                }
                bar.set_position(done.min(self.total));
            }
            None => {
                if done >= self.next_line && done < self.total {
                    println!("  {} of {}", HumanCount(done), HumanCount(self.total));
                    self.next_line += self.total.div_ceil(LINES);
                }
            }
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
