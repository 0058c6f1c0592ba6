//! `cargo xtask bench`: what this build does in a second and holds in memory, beside the limits of what it stands on
//! (librdkafka, PostgreSQL's `COPY` and `pgbench`, SQLite's C library), all from one run on one machine.
//!
//! It needs clients of Kafka and of the databases, which xtask itself must do without (it installs what they are built
//! with). So without the feature `bench` it calls itself again with it, in the release profile.

use std::path::PathBuf;

#[cfg(feature = "bench")]
mod broker;
#[cfg(feature = "bench")]
mod daemon;
#[cfg(feature = "bench")]
mod decode;
#[cfg(feature = "bench")]
mod events;
#[cfg(feature = "bench")]
mod exits;
#[cfg(feature = "bench")]
mod growth;
#[cfg(feature = "bench")]
mod hostile;
#[cfg(feature = "bench")]
mod ingest;
#[cfg(feature = "bench")]
mod latency;
#[cfg(feature = "bench")]
mod measure;
#[cfg(feature = "bench")]
mod postgres;
#[cfg(feature = "bench")]
mod process;
#[cfg(feature = "bench")]
mod query;
#[cfg(feature = "bench")]
mod report;
#[cfg(feature = "bench")]
mod sqlite;
#[cfg(feature = "bench")]
mod tor;

#[cfg(feature = "bench")]
pub(crate) use measure::run;

/// What to measure, and how much of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// Events in the topic
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    records: u32,
    /// Also write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Everything below
    All,
    /// From Kafka into PostgreSQL and SQLite
    Ingest,
    /// The same with 1, 2 and 4 times the records, and with 1, 2 and 4 ingesters
    Growth,
    /// Decoding and both verdicts, on one core
    Decode,
    /// Six years of hourly exit lists
    Tor,
    /// The query daemon beside pgbench
    Query,
    /// The query daemon under requests that are meant to hurt it
    Hostile,
}

/// Calls itself again, built with what the measurements need.
#[cfg(not(feature = "bench"))]
pub(crate) fn run(workspace: &crate::workspace::Workspace, args: &Args) -> anyhow::Result<()> {
    use clap::ValueEnum;

    let mut command =
        workspace.cargo(&["run", "--release", "--package", "xtask", "--features", "bench"]);
    // Where the user stands: a relative path of the JSON file is meant from there.
    command.current_dir(std::env::current_dir()?);
    command.arg("--").args(["bench", "--records", &args.records.to_string()]);
    if let Some(part) = args.part.to_possible_value() {
        command.arg(part.get_name());
    }
    if let Some(json) = &args.json {
        command.arg("--json").arg(json);
    }
    crate::workspace::succeed("bench", &mut command)
}
