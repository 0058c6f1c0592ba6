//! The report of a run as a table and as JSON.
#![expect(clippy::print_stdout, reason = "the table is the program's output")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::figures::{Figures, Ratio, number, spread};
use crate::workspace::Workspace;

/// All results of a run.
pub(crate) struct Report {
    facts: Vec<(&'static str, String)>,
    lines: Vec<Line>,
    ratios: Vec<Ratio>,
    missing: Vec<Missing>,
}

struct Line {
    key: &'static str,
    text: &'static str,
    figures: Figures,
    unit: &'static str,
}

/// A measurement that failed, and why.
struct Missing {
    text: &'static str,
    reason: String,
}

impl Report {
    /// A report with the facts of this machine and commit.
    pub(crate) fn new(workspace: &Workspace) -> Self {
        let git =
            |args: &[&str]| output(Command::new("git").args(args).current_dir(workspace.root()));
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"]);
        if !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() {
            commit.push_str(" with changes");
        }
        let mut report = Self::empty();
        report.fact("commit", commit);
        report.fact("processor", cpu_model());
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        report.fact("cores", cores.to_string());
        report.fact("rustc", output(Command::new("rustc").arg("--version")));
        report
    }

    fn empty() -> Self {
        Self { facts: Vec::new(), lines: Vec::new(), ratios: Vec::new(), missing: Vec::new() }
    }

    /// A property of the run that is not a number.
    pub(crate) fn fact(&mut self, key: &'static str, value: String) {
        self.facts.push((key, value));
    }

    /// Adds a result. For an existing key it is the result of another round. It is also printed at once, because a run
    /// takes minutes.
    pub(crate) fn add(
        &mut self,
        key: &'static str,
        text: &'static str,
        value: f64,
        unit: &'static str,
    ) {
        eprintln!("bench: {text}: {} {unit}", number(value));
        match self.lines.iter_mut().find(|line| line.key == key) {
            Some(line) => line.figures.push(value),
            None => self.lines.push(Line { key, text, figures: Figures::new(value), unit }),
        }
    }

    /// Records that a measurement failed, and why. Its ratios are then missing too.
    pub(crate) fn missing(&mut self, text: &'static str, reason: String) {
        eprintln!("bench: {text}: not measured: {reason}");
        self.missing.push(Missing { text, reason });
    }

    fn figures(&self, key: &str) -> Option<&Figures> {
        self.lines.iter().find(|line| line.key == key).map(|line| &line.figures)
    }

    /// Adds the ratio of two measurements, round by round, with its floor.
    pub(crate) fn ratio(
        &mut self,
        key: &'static str,
        text: &'static str,
        above: &str,
        below: &str,
    ) {
        let ratio = Ratio::new(key, text, self.figures(above), self.figures(below));
        self.ratios.push(ratio);
    }

    /// Prints the table and writes the JSON. With `check` it fails when a ratio is below its floor.
    pub(crate) fn finish(self, json: Option<&Path>, check: bool) -> Result<()> {
        println!("{}", self.table());
        if let Some(path) = json {
            std::fs::write(path, format!("{:#}\n", self.json()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let short: Vec<&str> =
            self.ratios.iter().filter(|ratio| !ratio.holds()).map(|ratio| ratio.text).collect();
        if check && !short.is_empty() {
            bail!("below the recorded floor: {}", short.join(", "))
        }
        Ok(())
    }

    /// The report in Markdown.
    fn table(&self) -> String {
        let mut rows = Vec::new();
        rows.extend(self.facts.iter().map(|(key, value)| format!("{key}: {value}  ")));
        rows.push(
            "\n| measured | median | least to greatest | |\n| --- | --: | --: | --- |".into(),
        );
        rows.extend(self.lines.iter().map(|line| {
            let Line { text, figures, unit, .. } = line;
            format!("| {text} | {} | {} | {unit} |", number(figures.median()), spread(figures))
        }));
        let missing = |missing: &Missing| {
            format!("| {} | – | | not measured: {} |", missing.text, missing.reason)
        };
        rows.extend(self.missing.iter().map(missing));
        rows.push(
            "\n| ratio | median | least to greatest | floor |\n| --- | --: | --: | --- |".into(),
        );
        rows.extend(self.ratios.iter().map(|ratio| {
            let figures = ratio.figures.as_ref();
            let median = figures.map_or("not measured".to_owned(), |it| number(it.median()));
            let word = if ratio.holds() { "holds" } else { "FALLS SHORT" };
            let floor = ratio.floor.map(|floor| format!("{floor:.2}: {word}")).unwrap_or_default();
            let spread = figures.map(spread).unwrap_or_default();
            format!("| {} | {median} | {spread} | {floor} |", ratio.text)
        }));
        rows.join("\n")
    }

    fn json(&self) -> serde_json::Value {
        let facts = self.facts.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        let lines = self.lines.iter().map(|line| {
            let Line { key, text, figures, unit } = line;
            let (median, rounds) = (figures.median(), figures.rounds());
            let value = json!({"text": text, "median": median, "rounds": rounds, "unit": unit});
            ((*key).to_owned(), value)
        });
        let missing = self
            .missing
            .iter()
            .map(|missing| json!({"text": missing.text, "reason": missing.reason}));
        let ratios = self.ratios.iter().map(|ratio| {
            let figures = ratio.figures.as_ref();
            let value = json!({
                "text": ratio.text,
                "median": figures.map(Figures::median),
                "rounds": figures.map(Figures::rounds),
                "floor": ratio.floor,
                "holds": ratio.holds(),
            });
            (ratio.key.to_owned(), value)
        });
        json!({
            "run": serde_json::Map::from_iter(facts),
            "measured": serde_json::Map::from_iter(lines),
            "not_measured": missing.collect::<Vec<_>>(),
            "ratios": serde_json::Map::from_iter(ratios),
        })
    }
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

/// The output of a program; empty when it cannot be run.
fn output(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::empty();
        report.fact("commit", "0123".into());
        for value in [3_000.0, 1_000.0, 2_000.0] {
            report.add("ours", "ours", value, "rows/s");
            report.add("theirs", "theirs", value / 4.0, "rows/s");
        }
        report.missing("others", "there is no npm".into());
        report.ratio("fresh_per_connect", "ours / theirs", "ours", "theirs");
        report.ratio("query_per_mercurius", "ours / others", "ours", "others");
        report
    }

    #[test]
    fn the_table_has_medians_spreads_floors_and_what_is_missing() {
        assert_eq!(
            report().table(),
            "commit: 0123  \n\
             \n\
             | measured | median | least to greatest | |\n\
             | --- | --: | --: | --- |\n\
             | ours | 2,000 | 1,000 to 3,000 | rows/s |\n\
             | theirs | 500 | 250 to 750 | rows/s |\n\
             | others | – | | not measured: there is no npm |\n\
             \n\
             | ratio | median | least to greatest | floor |\n\
             | --- | --: | --: | --- |\n\
             | ours / theirs | 4.00 | 4.00 to 4.00 | 3.40: holds |\n\
             | ours / others | not measured |  | 3.00: FALLS SHORT |"
        );
    }

    #[test]
    fn the_json_has_every_round() {
        let json = report().json();
        assert_eq!(json["measured"]["ours"]["rounds"], json!([3_000.0, 1_000.0, 2_000.0]));
        assert_eq!(json["ratios"]["fresh_per_connect"]["median"], 4.0);
        assert_eq!(json["ratios"]["query_per_mercurius"]["median"], json!(null));
        assert_eq!(json["not_measured"][0]["reason"], "there is no npm");
    }

    #[test]
    fn floors_count_where_they_are_to_be_checked() {
        assert!(report().finish(None, false).is_ok());
        let error = report().finish(None, true).unwrap_err().to_string();
        assert_eq!(error, "below the recorded floor: ours / others");
    }
}
