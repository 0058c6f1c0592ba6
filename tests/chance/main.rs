//! The chance run: a seed chooses settings, records, faults and an operator's acts; a check that knows only what was sent and
//! the specification looks after every step. A seed that fails is cut down to the shortest list of steps that still fails.
//!
//! `cargo xtask test` runs the seeds of [`TESTS`], `cargo xtask faults --chance --seeds A..B` any others. Arguments: `--seeds
//! A..B`, `--steps N` (of each seed), `--only N,N` (of these steps alone), and names of tests.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a run that cannot go on ends with a panic, and its table is what it is for"
)]

#[expect(dead_code, reason = "the scene of the other tests, of which this run needs a part")]
#[path = "../it/support.rs"]
mod support;

#[path = "../faults/harness.rs"]
mod harness;
#[path = "../faults/poison.rs"]
mod poison;
#[path = "../faults/raising.rs"]
mod raising;
#[path = "../faults/random.rs"]
mod random;

mod check;
mod choice;
mod database;
mod event;
mod machines;
mod operate;
mod record;
mod report;
mod rule;
mod run;
mod schedule;
mod sent;
mod servers;
mod shrink;
mod tables;
mod topic;

use std::ops::Range;
use std::process::ExitCode;

use crate::report::Report;
use crate::schedule::Schedule;
use crate::shrink::Runner;

/// The seeds that are part of the tests, and how many steps of each: both databases, a pooler, both group protocols. Seed 59
/// once lost records of a topic that was made again.
const TESTS: [u64; 4] = [7, 9, 19, 59];
const TEST_STEPS: usize = 4;

/// What is run.
struct Plan {
    seeds: Option<Range<u64>>,
    steps: usize,
    only: Option<Vec<usize>>,
    names: Vec<String>,
    exact: bool,
}

impl Plan {
    /// Flags of the usual test harness, which cargo may hand to every test binary, are passed over.
    fn from_arguments() -> Self {
        let mut plan =
            Self { seeds: None, steps: TEST_STEPS, only: None, names: Vec::new(), exact: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("the flag needs a value");
            match argument.as_str() {
                "--exact" => plan.exact = true,
                "--seeds" => plan.seeds = Some(range(&value()).expect("--seeds needs A..B")),
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

    /// Whether a test of this name was asked for.
    fn wants(&self, test: &str) -> bool {
        let named = |name: &String| if self.exact { name == test } else { test.contains(name) };
        self.names.is_empty() || self.names.iter().any(named)
    }
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, until) = text.split_once("..")?;
    Some(from.parse().ok()?..until.parse().ok()?)
}

fn name(seed: u64) -> String {
    format!("seed_{seed}")
}

fn main() -> ExitCode {
    let mut tests = vec![shrink::TEST.to_owned()];
    tests.extend(TESTS.map(name));
    if harness::lists(&tests) {
        return ExitCode::SUCCESS;
    }
    let plan = Plan::from_arguments();
    let all = plan.seeds.is_some();
    let seeds: Vec<u64> = match plan.seeds.clone() {
        Some(seeds) => seeds.collect(),
        None => TESTS.into_iter().filter(|seed| plan.wants(&name(*seed))).collect(),
    };
    if !all && plan.wants(shrink::TEST) {
        shrink::test();
    }
    let (mut runner, mut report) = (Runner::new(), Report::new(plan.steps));
    for seed in seeds {
        let mut schedule = Schedule::of(seed, plan.steps);
        if let Some(only) = &plan.only {
            schedule = schedule.only(only);
        }
        report.begin(&schedule);
        let outcome = runner.run(&schedule);
        report.end(&schedule, &outcome);
        // A test ends with its first failure; there is no time to look for the shortest.
        if all && plan.only.is_none() && outcome.wrong.is_some() {
            report.shortest(&schedule, &shrink::shortest(&mut runner, &schedule, &outcome));
        }
    }
    report.table();
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
