//! The fault run: real processes under load, one fault after the other, and an oracle that knows every event. It prints
//! what was lost, doubled or wrong, and how long the ingester took to go on by itself.
//!
//! `cargo xtask test` runs a short version, `cargo xtask faults` the whole one. Arguments: `--full`, `--rounds N` (a fault has
//! at most so many), `--seed S`, `--broker-assigns` (KIP-848), and words that a fault's name must contain one of.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a run that cannot go on ends with a panic, and its table is what it is for"
)]

#[expect(dead_code, reason = "the scene of the other tests, of which this run needs a part")]
#[path = "../it/support.rs"]
mod support;

mod fault;
mod harness;
mod load;
mod poison;
mod raising;
mod random;
mod report;
mod stage;
mod topic;

use std::process::ExitCode;

use crate::fault::Fault;
use crate::random::Random;
use crate::stage::World;

/// How much is run.
struct Plan {
    full: bool,
    rounds: Option<u32>,
    seed: u64,
    broker_assigns: bool,
    names: Vec<String>,
}

impl Plan {
    /// Flags of the usual test harness, which cargo may hand to every test binary, are passed over. With `--exact` a name is
    /// a test's, and the whole run is one test.
    fn from_arguments() -> Self {
        let mut plan =
            Self { full: false, rounds: None, seed: 1, broker_assigns: false, names: Vec::new() };
        let mut exact = false;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().and_then(|text| text.parse().ok());
            match argument.as_str() {
                "--full" => plan.full = true,
                "--broker-assigns" => plan.broker_assigns = true,
                "--exact" => exact = true,
                "--rounds" => plan.rounds = Some(number().expect("--rounds needs a number")),
                "--seed" => plan.seed = number().expect("--seed needs a number").into(),
                flag if flag.starts_with('-') => {}
                name => plan.names.push(name.to_owned()),
            }
        }
        if exact {
            plan.names.clear();
        }
        plan
    }

    fn wants(&self, fault: Fault) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| fault.name().contains(name))
    }

    fn rounds(&self, fault: Fault) -> u32 {
        let rounds = if self.full { fault.rounds() } else { fault.short_rounds() };
        rounds.min(self.rounds.unwrap_or(rounds))
    }
}

fn main() -> ExitCode {
    if harness::lists(&["short_run".to_owned()]) {
        return ExitCode::SUCCESS;
    }
    let plan = Plan::from_arguments();
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| plan.wants(*fault)).collect();
    if faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let outcomes = runtime.block_on(async {
        let mut world = World::start(Random::new(plan.seed), plan.full, plan.broker_assigns);
        let mut outcomes = Vec::new();
        for fault in faults {
            let outcome = fault::run(&mut world, fault, plan.rounds(fault)).await;
            eprintln!("{}", report::line(&outcome));
            outcomes.push(outcome);
        }
        outcomes
    });
    println!("{}", report::table(&outcomes, plan.seed));
    if outcomes.iter().all(report::Outcome::is_clean) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
