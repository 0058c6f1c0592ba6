//! The output of a run: the result of each seed, the command to repeat a failed one, and a table of the faults.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::schedule::{Fault, Schedule};
use crate::shrink::Outcome;

/// The results of a run.
pub(crate) struct Report {
    /// The flag of `cargo xtask faults` for this run.
    flag: &'static str,
    /// Steps per seed.
    steps: usize,
    began: Instant,
    seeds: usize,
    failed: Vec<u64>,
    /// How many steps passed, by fault.
    held: BTreeMap<Fault, usize>,
}

impl Report {
    pub(crate) fn new(flag: &'static str, steps: usize) -> Self {
        let (failed, held) = (Vec::new(), BTreeMap::new());
        Self { flag, steps, began: Instant::now(), seeds: 0, failed, held }
    }

    pub(crate) fn begin(&mut self, schedule: &Schedule) {
        self.seeds += 1;
        eprintln!("seed {}: {:?}", schedule.seed, schedule.settings);
    }

    pub(crate) fn end(&mut self, schedule: &Schedule, outcome: &Outcome) {
        for step in &schedule.steps[..outcome.held] {
            *self.held.entry(step.fault).or_default() += 1;
        }
        let seconds = self.began.elapsed().as_secs();
        let Some(wrong) = &outcome.wrong else {
            eprintln!("seed {} held, {seconds} s since the start", schedule.seed);
            return;
        };
        self.failed.push(schedule.seed);
        let step = schedule.steps.get(outcome.held);
        let place = step.map_or_else(
            || "at the end".to_owned(),
            |step| format!("at step {}, \"{}\"", step.number, step.fault.name()),
        );
        println!("seed {} failed {place}: {wrong}", schedule.seed);
        println!("again: {}", self.command(schedule, None));
    }

    /// Prints the shortest schedule that fails.
    pub(crate) fn shortest(&self, schedule: &Schedule, numbers: &[usize]) {
        let names = schedule.only(numbers).steps;
        let names: Vec<&str> = names.iter().map(|step| step.fault.name()).collect();
        println!("shortest that fails: {}", names.join(", "));
        println!("again: {}", self.command(schedule, Some(numbers)));
    }

    fn command(&self, schedule: &Schedule, only: Option<&[usize]>) -> String {
        let seed = schedule.seed;
        let only = only.map(|numbers| {
            let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
            format!(" --only {}", numbers.join(","))
        });
        format!(
            "cargo xtask faults {} --seeds {seed}..{} --steps {}{}",
            self.flag,
            seed + 1,
            self.steps,
            only.unwrap_or_default()
        )
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }

    /// Prints how often each fault passed, in Markdown.
    pub(crate) fn table(&self) {
        let all: usize = self.held.values().sum();
        println!("\n| fault | times |\n| --- | --: |");
        for (fault, times) in &self.held {
            println!("| {} | {times} |", fault.name());
        }
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        println!("\n{} seeds, {all} faults, {minutes:.1} minutes", self.seeds);
        if !self.failed.is_empty() {
            println!("failed: {:?}", self.failed);
        }
    }
}
