//! `cargo xtask bench`: the crate `bench`, built for speed.

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// Arguments that are not read here.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Handed to the crate `bench`; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs it. It is a crate of its own because it needs clients of Kafka and of the databases, without which xtask must compile.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut command = workspace.cargo(&["run", "--release", "--package", "bench", "--"]);
    // Where the user stands: a relative path of the JSON file is meant from there.
    command.current_dir(std::env::current_dir()?);
    succeed("bench", command.args(&args.args))
}
