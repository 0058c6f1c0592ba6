//! `cargo xtask bench`: measures this build, its peers and its limits in one run on one machine.

mod args;
mod broker;
mod daemon;
mod decode;
mod events;
mod exits;
mod figures;
mod growth;
mod history;
mod hostile;
mod ingest;
mod latency;
mod measure;
mod peers;
mod postgres;
mod process;
mod query;
mod report;
mod sqlite;
mod tor;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let outcome = measure::run(&workspace::Workspace::here(), &args::Args::parse());
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("bench: {error:#}");
    ExitCode::FAILURE
}
