//! The fault run: real processes under load, one fault after the other, and an oracle that knows every event. It prints
//! lost, duplicate and wrong results, and how long the ingester took to recover.
//!
//! `cargo xtask test` runs a short version, `cargo xtask faults` the full one. Arguments: `--full`, `--cluster` (three
//! brokers and a standby, with their own faults), `--earlier FOLDER` (programs of an earlier build, for upgrades),
//! `--rounds N` (maximum number of rounds per fault), `--seed S`, `--broker-assigns` (KIP-848), and words of which a
//! fault's name must contain one.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a run that cannot go on ends with a panic, and its table is what it is for"
)]

#[expect(dead_code, reason = "the scene of the other tests, of which this run needs a part")]
#[path = "../it/support.rs"]
mod support;

mod cluster;
mod fault;
mod harness;
mod instances;
mod load;
mod nodes;
mod poison;
mod raising;
mod random;
mod report;
mod run;
mod server;
mod standby;
mod topic;
mod unclean;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::fault::Fault;
use crate::report::Outcome;
use crate::run::Servers;

/// The short versions as tests: name, and whether it uses a cluster.
const TESTS: [(&str, bool); 2] = [("short_run", false), ("short_cluster_run", true)];

/// The faults and rounds to run.
struct Plan {
    full: bool,
    cluster: bool,
    rounds: Option<u32>,
    seed: u64,
    broker_assigns: bool,
    /// The folder of an earlier build's programs.
    earlier: Option<PathBuf>,
    names: Vec<String>,
}

impl Plan {
    /// Flags of the usual test harness, which cargo may pass to every test binary, are ignored.
    fn from_arguments() -> Self {
        let mut plan = Self {
            full: false,
            cluster: false,
            rounds: None,
            seed: 1,
            broker_assigns: false,
            earlier: None,
            names: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("the flag needs a value");
            match argument.as_str() {
                "--full" => plan.full = true,
                "--cluster" => plan.cluster = true,
                "--broker-assigns" => plan.broker_assigns = true,
                "--rounds" => plan.rounds = Some(value().parse().expect("--rounds needs a number")),
                "--seed" => plan.seed = value().parse().expect("--seed needs a number"),
                "--earlier" => plan.earlier = Some(value().into()),
                flag if flag.starts_with('-') => {}
                name => plan.names.push(name.to_owned()),
            }
        }
        plan
    }

    /// The lists of faults, and whether each uses a cluster. A name is that of a test, or a word of a fault's name.
    fn lists(&mut self) -> Vec<(bool, Vec<Fault>)> {
        let tests = TESTS.iter().filter(|(name, _)| self.names.iter().any(|named| named == name));
        let mut kinds: Vec<bool> = tests.map(|(_, cluster)| *cluster).collect();
        self.names.retain(|name| TESTS.iter().all(|(test, _)| test != name));
        if kinds.is_empty() {
            kinds = if self.full { vec![self.cluster] } else { vec![false, true] };
        }
        let list = |cluster| match cluster {
            false => Fault::ONE.to_vec(),
            true if self.full => Fault::CLUSTER.to_vec(),
            true => Fault::SHORT_CLUSTER.to_vec(),
        };
        let wanted = |mut faults: Vec<Fault>| {
            faults.retain(|fault| self.wants(*fault));
            faults
        };
        let lists = kinds.into_iter().map(|cluster| (cluster, wanted(list(cluster))));
        lists.filter(|(_, faults)| !faults.is_empty()).collect()
    }

    fn wants(&self, fault: Fault) -> bool {
        if fault == Fault::Upgraded && self.earlier.is_none() {
            return false;
        }
        self.names.is_empty() || self.names.iter().any(|name| fault.name().contains(name))
    }

    fn rounds(&self, fault: Fault) -> u32 {
        let rounds = if self.full { fault.rounds() } else { fault.short_rounds() };
        rounds.min(self.rounds.unwrap_or(rounds))
    }

    async fn run(&self, cluster: bool, faults: Vec<Fault>) -> Vec<Outcome> {
        let brokers = if cluster { 3 } else { 1 };
        let mut servers = Servers::start(brokers, self);
        let mut outcomes = Vec::new();
        for fault in faults {
            let outcome = fault::run(&mut servers, fault, self.rounds(fault)).await;
            eprintln!("{}", report::line(&outcome));
            outcomes.push(outcome);
        }
        outcomes
    }
}

fn main() -> ExitCode {
    if harness::lists(&TESTS.map(|(name, _)| name.to_owned())) {
        return ExitCode::SUCCESS;
    }
    let mut plan = Plan::from_arguments();
    let lists = plan.lists();
    // Cargo passes the names of other tests, but somebody has typed those of a full run.
    if plan.full && lists.is_empty() {
        eprintln!("no fault has one of these words in its name: {}", plan.names.join(" "));
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let mut clean = true;
    for (cluster, faults) in lists {
        let outcomes = runtime.block_on(plan.run(cluster, faults));
        println!("{}", report::table(&outcomes, plan.seed));
        clean = clean && outcomes.iter().all(Outcome::is_clean);
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
