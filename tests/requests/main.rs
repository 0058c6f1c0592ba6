//! The query daemon under requests and faults by chance: a seed chooses settings, rows, requests made from the schema, and what
//! happens to the database; a check that knows only the rows that were put in and the client's guide checks every answer.
//!
//! `cargo xtask test` runs the seeds of [`TESTS`], `cargo xtask faults --requests --seeds A..B` any others. Arguments: `--seeds
//! A..B`, `--steps N` (of each seed), `--only N,N` (of these steps alone), and names of tests.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a run that cannot go on ends with a panic, and its table is what it is for"
)]

#[path = "../chance/choice.rs"]
mod choice;
#[path = "../faults/harness.rs"]
mod harness;
#[path = "../chance/plan.rs"]
mod plan;
#[path = "../faults/random.rs"]
mod random;
#[path = "../chance/report.rs"]
mod report;
#[expect(dead_code, reason = "the test of the cutting itself, which the chance run has")]
#[path = "../chance/shrink.rs"]
mod shrink;
#[path = "../chance/steps.rs"]
mod steps;

mod check;
mod clients;
mod counts;
mod document;
mod expect;
mod faults;
mod http;
mod limits;
mod request;
mod rows;
mod run;
mod schedule;
mod servers;
mod settings;
mod wrong;

use std::process::ExitCode;

use choice::{index, one_in, pick};

use crate::plan::Plan;

/// The seeds that are part of the tests: a column renamed in PostgreSQL, a file replaced.
const TESTS: [u64; 2] = [7, 16];
const TEST_STEPS: usize = 2;

fn main() -> ExitCode {
    if harness::lists(&TESTS.map(plan::name)) {
        return ExitCode::SUCCESS;
    }
    // A failure is printed once, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let plan = Plan::from_arguments(TEST_STEPS);
    let all_held = plan.run("--requests", &TESTS);
    counts::print();
    if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
