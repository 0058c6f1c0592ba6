//! `cargo xtask faults`: the full fault run; with `--cluster` on three brokers and a standby, with `--chance` with
//! schedules that seeds choose, with `--requests` the same for the query daemon. Short versions of all are part of the
//! tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use testkit::KAFKA_LIBS_VARIABLE;

use crate::setup;
use crate::simulate::seeds;
use crate::workspace::{Workspace, succeed};

/// Options of the fault runs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// At most so many rounds of each fault [default: as many as the table of crates/MEASUREMENTS.md]
    #[arg(long, conflicts_with = "by_chance")]
    rounds: Option<u32>,
    /// The seed of everything random
    #[arg(long, default_value_t = 1, conflicts_with = "by_chance")]
    seed: u32,
    /// Three brokers, and a standby of the database, with faults of their own; with --chance: only the seeds that have them
    #[arg(long, conflicts_with = "requests")]
    cluster: bool,
    /// With --cluster: the folder of an earlier build's programs, to upgrade from under load
    #[arg(long, value_name = "FOLDER", requires = "cluster", conflicts_with = "by_chance")]
    earlier: Option<PathBuf>,
    /// Let seeds choose settings, records, faults and an operator's acts
    #[arg(long, group = "by_chance")]
    chance: bool,
    /// Let seeds choose what the query daemon is asked while its database fails
    #[arg(long, group = "by_chance")]
    requests: bool,
    /// With --chance or --requests: the seeds, from A up to and without B
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..10", requires = "by_chance")]
    seeds: String,
    /// With --chance or --requests: how many steps a seed has
    #[arg(long, default_value_t = 8, requires = "by_chance")]
    steps: u32,
    /// With --chance or --requests: these steps alone, as the run prints them of a seed that failed
    #[arg(long, value_name = "N,N", requires = "by_chance")]
    only: Option<String>,
    /// The broker assigns the partitions (`group.protocol = "consumer"`)
    #[arg(long, conflicts_with = "by_chance")]
    broker_assigns: bool,
    /// Only faults whose name has one of these words in it
    #[arg(conflicts_with = "by_chance")]
    names: Vec<String>,
}

/// Builds all targets, then runs the fault test that prints the table.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::check(workspace)?;
    succeed("building", &mut workspace.cargo(&["build", "--workspace", "--all-targets"]))?;
    let mut test = match (args.chance, args.requests) {
        (true, _) => by_chance("chance", workspace, args),
        (_, true) => by_chance("requests", workspace, args),
        _ => listed(workspace, args),
    };
    succeed("the fault run", test.env(KAFKA_LIBS_VARIABLE, workspace.kafka_libs()))
}

fn by_chance(test: &str, workspace: &Workspace, args: &Args) -> Command {
    let mut test = workspace.cargo(&["test", "--workspace", "--test", test, "--"]);
    test.args(["--seeds", &args.seeds, "--steps", &args.steps.to_string()]);
    if let Some(only) = &args.only {
        test.args(["--only", only]);
    }
    test.args(args.cluster.then_some("--cluster"));
    test
}

fn listed(workspace: &Workspace, args: &Args) -> Command {
    let mut test = workspace.cargo(&["test", "--workspace", "--test", "faults", "--", "--full"]);
    if let Some(rounds) = args.rounds {
        test.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(earlier) = &args.earlier {
        test.arg("--earlier").arg(workspace.root().join(earlier));
    }
    for (flag, given) in [("--cluster", args.cluster), ("--broker-assigns", args.broker_assigns)] {
        test.args(given.then_some(flag));
    }
    test.args(["--seed", &args.seed.to_string()]).args(&args.names);
    test
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        _args: Args,
    }

    fn takes(line: &str) -> bool {
        Line::try_parse_from(["faults"].into_iter().chain(line.split_whitespace())).is_ok()
    }

    #[test]
    fn options_that_would_be_ignored_are_refused() {
        for line in [
            "",
            "kill --rounds 2",
            "--broker-assigns",
            "--cluster --earlier old",
            "--chance --cluster",
            "--requests --seeds 3..5",
        ] {
            assert!(takes(line), "{line}");
        }
        for line in [
            "--chance --broker-assigns",
            "--chance --rounds 2",
            "--chance --cluster --earlier old",
            "--requests --cluster",
            "--requests --seed 7",
            "--requests --broker-assigns",
            "--seeds 0..5",
            "--chance --seeds 5..5",
            "--chance --seeds 5..4",
            "--chance --seeds 5",
            "--chance kill",
        ] {
            assert!(!takes(line), "{line}");
        }
    }
}
