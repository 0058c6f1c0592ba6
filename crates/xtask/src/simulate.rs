//! `cargo xtask simulate`: schedules of the loop's simulation, of which the test command runs the first ten thousand.

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// Which schedules.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The seeds, as A..B: from A up to and without B
    #[arg(long, value_name = "A..B", default_value = "0..10000")]
    seeds: String,
}

/// Runs the test that takes the seeds from the environment; it prints the seeds that fail.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let test = "simulation::no_schedule_breaks_a_promise";
    // Of the whole workspace, as the tests are built: alone, the crate would have its dependencies built once more.
    let mut simulation =
        workspace.cargo(&["test", "--workspace", "--lib", test, "--", "--exact", "--nocapture"]);
    simulation.env("SIMULATE_SEEDS", &args.seeds);
    succeed("the simulation", &mut simulation)
}
