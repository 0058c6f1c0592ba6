//! `publication-ingester`: see [`ingester::cli`].

use std::process::ExitCode;

use ingester::cli::Cli;
use service::lifecycle;

fn main() -> ExitCode {
    lifecycle::command_line::<Cli>().map_or_else(std::convert::identity, Cli::run)
}
