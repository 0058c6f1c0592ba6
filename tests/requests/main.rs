//! Random requests to the query daemon under faults: a seed chooses settings, rows, requests from the schema, and
//! faults of the database. A check compares every answer with the inserted rows and the client's guide.
//!
//! `cargo xtask test` runs the seeds of [`TESTS`], `cargo xtask faults --requests --seeds A..B` others. Arguments:
//! `--seeds A..B`, `--steps N` (per seed), `--only N,N` (only these steps), and names of tests.
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

/// The seeds in the tests: a column renamed in PostgreSQL, a file replaced.
const TESTS: [u64; 2] = [7, 16];
const TEST_STEPS: usize = 2;

fn main() -> ExitCode {
    if harness::lists(&TESTS.map(plan::name)) {
        return ExitCode::SUCCESS;
    }
    // The report prints each failure once, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let plan = Plan::from_arguments(TEST_STEPS);
    let all_held = plan.run("--requests", &TESTS);
    counts::print();
    if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
