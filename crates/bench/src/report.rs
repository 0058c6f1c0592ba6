//! The table and its JSON.
#![expect(clippy::print_stdout, reason = "the table is the program's output")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::workspace::Workspace;

/// The least that a ratio may be before the run counts as failed: four fifths of the lowest seen on two cores, or less where
/// others that compile beside it change it most, so that a noisy machine passes. Raise them with what is won.
const FLOORS: &[(&str, f64)] = &[
    ("fresh_per_copy", 0.29),
    ("known_per_fresh", 0.85),
    ("sqlite_per_bare", 0.60),
    ("decode_per_serde_json", 0.60),
    ("records_growth", 0.60),
    ("instances_growth", 0.75),
    ("query_per_pgbench", 0.50),
    ("batch_per_pgbench", 0.50),
];

/// Everything that one run measured.
pub(crate) struct Report {
    facts: Vec<(&'static str, String)>,
    lines: Vec<Line>,
    ratios: Vec<Ratio>,
}

struct Line {
    key: &'static str,
    text: &'static str,
    value: f64,
    unit: &'static str,
}

struct Ratio {
    key: &'static str,
    text: &'static str,
    value: f64,
    floor: Option<f64>,
}

impl Report {
    /// An empty report of this machine and this commit.
    pub(crate) fn new(workspace: &Workspace) -> Self {
        let git =
            |args: &[&str]| output(Command::new("git").args(args).current_dir(workspace.root()));
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"]);
        if !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty() {
            commit.push_str(" with changes");
        }
        let mut report = Self { facts: Vec::new(), lines: Vec::new(), ratios: Vec::new() };
        report.fact("commit", commit);
        report.fact("processor", cpu_model());
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        report.fact("cores", cores.to_string());
        report.fact("rustc", output(Command::new("rustc").arg("--version")));
        report
    }

    /// Something that is no number.
    pub(crate) fn fact(&mut self, key: &'static str, value: String) {
        self.facts.push((key, value));
    }

    /// A number; it is told at once, because the whole run takes minutes.
    pub(crate) fn add(
        &mut self,
        key: &'static str,
        text: &'static str,
        value: f64,
        unit: &'static str,
    ) {
        eprintln!("bench: {text}: {} {unit}", number(value));
        self.lines.push(Line { key, text, value, unit });
    }

    /// The number of a line.
    pub(crate) fn value(&self, key: &str) -> Option<f64> {
        self.lines.iter().find(|line| line.key == key).map(|line| line.value)
    }

    /// One line by another, held against its floor.
    pub(crate) fn ratio(
        &mut self,
        key: &'static str,
        text: &'static str,
        above: &str,
        below: &str,
    ) {
        if let (Some(above), Some(below)) = (self.value(above), self.value(below)) {
            let floor = FLOORS.iter().find(|(known, _)| *known == key).map(|(_, floor)| *floor);
            self.ratios.push(Ratio { key, text, value: above / below, floor });
        }
    }

    /// Prints the table, writes the JSON, and fails when a ratio fell short of its floor.
    pub(crate) fn finish(self, json: Option<&Path>) -> Result<()> {
        self.print();
        if let Some(path) = json {
            std::fs::write(path, format!("{:#}\n", self.json()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let short: Vec<&str> =
            self.ratios.iter().filter(|ratio| !ratio.holds()).map(|ratio| ratio.text).collect();
        if short.is_empty() {
            return Ok(());
        }
        bail!("below the recorded floor: {}", short.join(", "))
    }

    fn print(&self) {
        println!();
        for (key, value) in &self.facts {
            println!("{key}: {value}");
        }
        let width = self.lines.iter().map(|line| line.text.len()).max().unwrap_or_default();
        println!("\n| {:width$} | {:>12} | {:13} |", "measured", "", "");
        println!("| {:-<width$} | {:->11}: | {:-<13} |", "", "", "");
        for line in &self.lines {
            println!("| {:width$} | {:>12} | {:13} |", line.text, number(line.value), line.unit);
        }
        println!();
        for ratio in &self.ratios {
            let floor = ratio.floor.map_or(String::new(), |floor| {
                let word = if ratio.holds() { "holds" } else { "FALLS SHORT" };
                format!(", floor {floor:.2}: {word}")
            });
            println!("{}: {:.2}{floor}", ratio.text, ratio.value);
        }
    }

    fn json(&self) -> serde_json::Value {
        let facts = self.facts.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        let lines = self.lines.iter().map(|line| {
            (
                line.key.to_owned(),
                json!({"text": line.text, "value": line.value, "unit": line.unit}),
            )
        });
        let ratios = self.ratios.iter().map(|ratio| {
            let value = json!({"text": ratio.text, "value": ratio.value, "floor": ratio.floor});
            (ratio.key.to_owned(), value)
        });
        json!({
            "run": serde_json::Map::from_iter(facts),
            "measured": serde_json::Map::from_iter(lines),
            "ratios": serde_json::Map::from_iter(ratios),
        })
    }
}

impl Ratio {
    fn holds(&self) -> bool {
        self.floor.is_none_or(|floor| self.value >= floor)
    }
}

/// Thousands apart, and as many decimals as a small number needs.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

/// What a program prints, empty when there is none.
fn output(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
