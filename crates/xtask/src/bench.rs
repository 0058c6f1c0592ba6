//! `cargo xtask bench`: runs the crate `bench` in a release build.

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// Options of the benchmarks.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Handed to the crate `bench`; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the benchmarks. They are a separate crate, because xtask must compile without clients of Kafka and databases.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut command = workspace.cargo(&["run", "--release", "--package", "bench", "--"]);
    // Keep the user's current folder, to which the path of the JSON file is relative.
    command.current_dir(std::env::current_dir()?);
    succeed("bench", command.args(&args.args))
}
