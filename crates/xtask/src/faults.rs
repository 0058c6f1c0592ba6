//! `cargo xtask faults`: the whole fault run, whose short version is part of the tests.

use anyhow::Result;
use testkit::KAFKA_LIBS_VARIABLE;

use crate::setup;
use crate::workspace::{Workspace, succeed};

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// At most so many rounds of each fault [default: as many as the table of crates/MEASUREMENTS.md]
    #[arg(long)]
    rounds: Option<u32>,
    /// The seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// The broker assigns the partitions (`group.protocol = "consumer"`)
    #[arg(long)]
    broker_assigns: bool,
    /// Only faults whose name has one of these words in it
    names: Vec<String>,
}

/// Builds what the tests build, then runs the one that prints the table.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::check(workspace)?;
    succeed("building", &mut workspace.cargo(&["build", "--workspace", "--all-targets"]))?;
    let mut test = workspace.cargo(&["test", "--workspace", "--test", "faults", "--", "--full"]);
    if let Some(rounds) = args.rounds {
        test.args(["--rounds", &rounds.to_string()]);
    }
    if args.broker_assigns {
        test.arg("--broker-assigns");
    }
    test.args(["--seed", &args.seed.to_string()]).args(&args.names);
    succeed("the fault run", test.env(KAFKA_LIBS_VARIABLE, workspace.kafka_libs()))
}
