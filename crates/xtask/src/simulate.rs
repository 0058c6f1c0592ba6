//! `cargo xtask simulate`: runs schedules of the loop's simulation. The test command runs the first ten thousand.

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// Options of the simulation.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The seeds, as A..B: from A up to and without B
    #[arg(long, value_name = "A..B", default_value = "0..10000")]
    seeds: String,
}

/// Runs the simulation test, which reads the seeds from the environment and prints the seeds that fail.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let test = "simulation::no_schedule_breaks_a_promise";
    // Use the whole workspace like the tests. A single crate would rebuild its dependencies with other features.
    let mut simulation =
        workspace.cargo(&["test", "--workspace", "--lib", test, "--", "--exact", "--nocapture"]);
    simulation.env("SIMULATE_SEEDS", &args.seeds);
    succeed("the simulation", &mut simulation)
}
