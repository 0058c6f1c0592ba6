//! `cargo xtask simulate`: runs schedules of the loop's simulation. The test command runs the first ten thousand.

use crate::workspace::{Workspace, succeed};

/// Options of the simulation.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The seeds, as A..B: from A up to and without B
    #[arg(long, value_name = "A..B", value_parser = seeds, default_value = "0..10000")]
    seeds: String,
}

/// Checks a range of seeds. An empty one would run nothing and end with success.
pub(crate) fn seeds(text: &str) -> Result<String, &'static str> {
    let bounds = text.split_once("..");
    let bounds = bounds.and_then(|(from, until)| from.parse::<u64>().ok().zip(until.parse().ok()));
    match bounds {
        Some((from, until)) if from < until => Ok(text.to_owned()),
        Some(_) => Err("no seed is in this range"),
        None => Err("must be A..B"),
    }
}

/// Runs the simulation test, which reads the seeds from the environment and prints the seeds that fail.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let test = "simulation::no_schedule_breaks_a_promise";
    // Use the whole workspace like the tests. A single crate would rebuild its dependencies with other features.
    let mut simulation =
        workspace.cargo(&["test", "--workspace", "--lib", test, "--", "--exact", "--nocapture"]);
    simulation.env("SIMULATE_SEEDS", &args.seeds);
    succeed("the simulation", &mut simulation)
}
