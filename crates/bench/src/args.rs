//! The command line of the benchmarks.

use std::path::PathBuf;

/// Measures what this build does in a second and holds in memory, beside its peers and the limits of what it stands on
/// (librdkafka, PostgreSQL's `COPY` and `pgbench`, SQLite's C library), all in one run on one machine.
#[derive(clap::Parser)]
#[command(bin_name = "cargo xtask bench")]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, default_value_t = Part::All)]
    pub(crate) part: Part,
    /// Events in the topic
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..))]
    pub(crate) records: u32,
    /// Rows that the table has before the measurement of a large table, in `growth`
    #[arg(long, default_value_t = 4_000_000)]
    pub(crate) table_rows: u32,
    /// How often each contender of `peers` runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Fail when a ratio falls short of its recorded floor, or could not be measured
    #[arg(long)]
    pub(crate) check: bool,
    /// Also write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Everything below but the peers
    All,
    /// This build beside Kafka Connect with Debezium's JDBC sink, Mercurius and pgbench, and beside its limits, in turn
    Peers,
    /// From Kafka into PostgreSQL and SQLite
    Ingest,
    /// The same with 1, 2 and 4 times the records, with 1, 2 and 4 ingesters, a large table, and 64 partitions
    Growth,
    /// Decoding and both verdicts, on one core
    Decode,
    /// Six years of hourly exit lists
    Tor,
    /// The query daemon beside pgbench, and what histories cost
    Query,
    /// The query daemon under requests that are meant to hurt it
    Hostile,
}
