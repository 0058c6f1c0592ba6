//! `publication-ingester`: see [`ingester::cli`].

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ingester::cli::Cli::parse().run()
}
