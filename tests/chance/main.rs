//! The chance run: a seed chooses settings, records, faults and operator commands. A check after every step knows only
//! the sent records and the specification. A failing seed is reduced to the fewest steps that still fail.
//!
//! `cargo xtask test` runs the seeds of [`TESTS`], `cargo xtask faults --chance --seeds A..B` others. Arguments:
//! `--seeds A..B`, `--cluster` (only the seeds with a cluster), `--steps N` (per seed), `--only N,N` (only these steps), and
//! names of tests.
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
#[path = "../faults/nodes.rs"]
mod nodes;
#[path = "../faults/poison.rs"]
mod poison;
#[path = "../faults/raising.rs"]
mod raising;
#[path = "../faults/random.rs"]
mod random;
#[path = "../faults/server.rs"]
mod server;

mod brokers;
mod check;
mod choice;
mod database;
mod event;
mod machines;
mod operate;
mod plan;
mod record;
mod report;
mod rule;
mod run;
mod schedule;
mod sent;
mod servers;
mod shrink;
mod standby;
mod steps;
mod tables;
mod topic;

use std::process::ExitCode;

use crate::plan::Plan;

/// The seeds in the tests and the number of their steps: both databases, a pooler, both group protocols. Seed 59 once
/// lost records of a recreated topic. Seed 646 has a cluster: a standby is promoted, a broker that lacks records is
/// elected, a broker is killed.
const TESTS: [u64; 5] = [7, 59, 522, 1227, 646];
const TEST_STEPS: usize = 4;

fn main() -> ExitCode {
    let mut tests = vec![shrink::TEST.to_owned()];
    tests.extend(TESTS.map(plan::name));
    if harness::lists(&tests) {
        return ExitCode::SUCCESS;
    }
    let mut plan = Plan::from_arguments(TEST_STEPS);
    if let Some(seeds) = plan.seeds.as_mut().filter(|_| harness::asked("--cluster")) {
        seeds.retain(|seed| schedule::is_cluster(*seed));
    }
    if plan.seeds.is_none() && plan.wants(shrink::TEST) {
        shrink::test();
    }
    if plan.run("--chance", &TESTS) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
