//! A chance run: its command line, and its seeds in order.

use std::ops::Range;

use crate::report::Report;
use crate::schedule::Schedule;
use crate::shrink::{self, Runner};

/// The seeds and steps to run.
pub(crate) struct Plan {
    pub(crate) seeds: Option<Vec<u64>>,
    steps: usize,
    only: Option<Vec<usize>>,
    names: Vec<String>,
    exact: bool,
}

impl Plan {
    /// Flags of the usual test harness, which cargo may pass to every test binary, are ignored.
    pub(crate) fn from_arguments(steps: usize) -> Self {
        let mut plan = Self { seeds: None, steps, only: None, names: Vec::new(), exact: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("the flag needs a value");
            match argument.as_str() {
                "--exact" => plan.exact = true,
                "--seeds" => {
                    plan.seeds = Some(range(&value()).expect("--seeds needs A..B").collect());
                }
                "--steps" => plan.steps = value().parse().expect("--steps needs a number"),
                "--only" => {
                    let numbers = value();
                    let numbers = numbers.split(',').map(|number| number.parse().ok());
                    plan.only = Some(numbers.collect::<Option<_>>().expect("--only needs N,N"));
                }
                flag if flag.starts_with('-') => {}
                name => plan.names.push(name.to_owned()),
            }
        }
        plan
    }

    /// Runs the requested seeds, or else those of `tests`, and prints the results. `flag` is that of `cargo xtask
    /// faults`. Returns whether all seeds passed.
    pub(crate) fn run(&self, flag: &'static str, tests: &[u64]) -> bool {
        let wanted = || tests.iter().copied().filter(|seed| self.wants(&name(*seed))).collect();
        let seeds: Vec<u64> = self.seeds.clone().unwrap_or_else(wanted);
        let (mut runner, mut report) = (Runner::new(), Report::new(flag, self.steps));
        for seed in seeds {
            let mut schedule = Schedule::of(seed, self.steps);
            if let Some(only) = &self.only {
                schedule = schedule.only(only);
            }
            report.begin(&schedule);
            let outcome = runner.run(&schedule);
            report.end(&schedule, &outcome);
            // A test ends at its first failure, without reducing it, which takes long.
            if self.seeds.is_some() && self.only.is_none() && outcome.wrong.is_some() {
                report.shortest(&schedule, &shrink::shortest(&mut runner, &schedule, &outcome));
            }
        }
        report.table();
        report.is_clean()
    }

    /// Whether a test of this name was requested.
    pub(crate) fn wants(&self, test: &str) -> bool {
        let named = |name: &String| if self.exact { name == test } else { test.contains(name) };
        self.names.is_empty() || self.names.iter().any(named)
    }
}

/// The name of a seed's test.
pub(crate) fn name(seed: u64) -> String {
    format!("seed_{seed}")
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, until) = text.split_once("..")?;
    Some(from.parse().ok()?..until.parse().ok()?)
}
