//! Rows from the same topic into the same server: this build, Kafka Connect, and the limits.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use model::Timestamp;

use super::connect;
use super::order;
use crate::args::Args;
use crate::daemon::ingest;
use crate::decode::read_bare;
use crate::ingest::{Bench, TOPIC};
use crate::latency::percentile;
use crate::report::Report;
use crate::workspace::Workspace;
use crate::{broker, postgres};

/// How long commits of single rows are measured.
const COMMITTING: Duration = Duration::from_secs(5);
/// A table for the rows with only a primary key.
const KEY_ONLY: &[&str] = &[
    "DROP TABLE IF EXISTS key_only",
    "CREATE TABLE key_only (LIKE publication, PRIMARY KEY (name, version))",
];

type Contender = fn(&Rows, &mut Report, u32) -> Result<()>;

const CONTENDERS: &[Contender] = &[
    Rows::ours,
    Rows::connect,
    Rows::copy,
    Rows::copy_key_only,
    Rows::consume,
    Rows::consume_and_decode,
    Rows::commit,
];

/// The servers and data that the contenders share.
struct Rows {
    bench: Bench,
    /// The rows as this build wrote them, and a database with their table.
    dump: postgres::Dump,
    dumped: String,
    last: Vec<(String, String)>,
    /// The jars of Kafka Connect, or why there are none.
    connect: Result<std::path::PathBuf>,
}

/// Fills the topic, ingests it once with this build (not counted; the limits copy its rows), then runs the rounds.
pub(super) fn run(
    workspace: &Workspace,
    report: &mut Report,
    args: &Args,
    now: Timestamp,
) -> Result<()> {
    let bench = Bench::start(workspace, args.records, now)?;
    bench.servers(report)?;
    bench.fill(report)?;
    report.fact("Kafka Connect", connect::version());
    let brokers = bench.kafka.brokers();
    let dumped = bench.runtime.block_on(bench.postgres.database()).url;
    let place = bench.place(&brokers, TOPIC, &dumped);
    ingest(&place, "warm-up", 1, args.records, bench.processes())?;
    let dump = bench.runtime.block_on(postgres::Dump::write(&dumped))?;
    let last = broker::last_values(&brokers, TOPIC)?;
    let last = last.iter().map(|value| package(value)).collect::<Result<_>>()?;
    let rows = Rows { bench, dump, dumped: dumped.clone(), last, connect: connect::fetch() };
    for round in 0..args.rounds {
        for contender in order(CONTENDERS, round) {
            contender(&rows, report, round)?;
        }
    }
    ratios(report);
    Ok(())
}

fn ratios(report: &mut Report) {
    let fresh = [
        ("fresh_per_connect", "fresh rows / Kafka Connect", "connect"),
        ("fresh_per_copy", "fresh rows / COPY into the same table", "copy"),
        ("fresh_per_copy_key_only", "fresh rows / COPY with the primary key only", "copy_key_only"),
        ("fresh_per_consume", "fresh rows / librdkafka consuming alone", "consume"),
        ("fresh_per_decode", "fresh rows / consume and serde_json alone", "consume_decode"),
    ];
    for (key, text, below) in fresh {
        report.ratio(key, text, "fresh", below);
    }
    report.ratio("known_per_fresh", "rows already there / fresh rows", "known", "fresh");
    let text = "processor time, Kafka Connect / ours";
    report.ratio("connect_cpu_per_ours", text, "connect_cpu", "fresh_cpu");
    let text = "peak memory, Kafka Connect / ours";
    report.ratio("connect_peak_per_ours", text, "connect_peak", "fresh_peak");
    let text = "publish to row, p99 / p99 of a bare commit meanwhile";
    report.ratio("latency_per_commit", text, "latency_p99", "latency_commit_p99");
}

impl Rows {
    fn million(&self) -> f64 {
        f64::from(self.bench.records) / 1e6
    }

    /// This build: first all rows fresh, then all rows already there, then single events into that table.
    fn ours(&self, report: &mut Report, round: u32) -> Result<()> {
        let bench = &self.bench;
        let brokers = bench.kafka.brokers();
        let database = bench.runtime.block_on(bench.postgres.database()).url;
        let place = bench.place(&brokers, TOPIC, &database);
        bench.runtime.block_on(postgres::settle(&database))?;
        let fresh = ingest(&place, &format!("fresh-{round}"), 1, bench.records, bench.processes())?;
        let rows = bench.runtime.block_on(postgres::count(&database))?;
        ensure!(rows == i64::from(bench.records), "{rows} rows of {} records", bench.records);
        report.add("fresh", "ours: fresh rows", fresh.rate, "rows/s");
        let text = "  processor time a million, its start included";
        report.add("fresh_cpu", text, fresh.ingester / self.million(), "s");
        let text = "  PostgreSQL's processor time a million";
        report.add("fresh_postgres_cpu", text, fresh.postgres / self.million(), "s");
        report.add("fresh_peak", "  peak memory", fresh.peak, "MiB");
        let size = bench.runtime.block_on(postgres::size(&database))?;
        report.add("row_size", "  a row, indexes included", size / rows as f64, "bytes");
        bench.runtime.block_on(postgres::settle(&database))?;
        let known = ingest(&place, &format!("known-{round}"), 1, bench.records, bench.processes())?;
        report.add("known", "ours: rows already there", known.rate, "rows/s");
        bench.latency(report, &database, round)?;
        self.remove(&database)
    }

    /// Kafka Connect, with all rows fresh.
    fn connect(&self, report: &mut Report, round: u32) -> Result<()> {
        const TEXT: &str = "Kafka Connect with Debezium's JDBC sink: fresh rows";
        let libs = match &self.connect {
            Ok(libs) => libs,
            Err(error) => {
                if round == 0 {
                    report.missing(TEXT, format!("{error:#}"));
                }
                return Ok(());
            }
        };
        let bench = &self.bench;
        let database = bench.runtime.block_on(bench.postgres.database()).url;
        let place = connect::Place {
            brokers: &bench.kafka.brokers(),
            topic: TOPIC,
            database: &database,
            last: &self.last,
            records: bench.records,
        };
        bench.runtime.block_on(postgres::settle(&database))?;
        let done = connect::ingest(libs, &bench.runtime, &place, &format!("connect-{round}"))?;
        report.add("connect", TEXT, done.rate, "rows/s");
        let text = "  processor time a million, its start included";
        report.add("connect_cpu", text, done.cpu / self.million(), "s");
        report.add("connect_peak", "  peak memory", done.peak, "MiB");
        self.remove(&database)
    }

    fn copy(&self, report: &mut Report, _: u32) -> Result<()> {
        let truncate = postgres::execute(&self.dumped, &["TRUNCATE publication"]);
        self.bench.runtime.block_on(truncate)?;
        let text = "limit: COPY of the same rows into the same table, two sessions";
        self.copy_into(report, "publication", "copy", text)
    }

    fn copy_key_only(&self, report: &mut Report, _: u32) -> Result<()> {
        self.bench.runtime.block_on(postgres::execute(&self.dumped, KEY_ONLY))?;
        let text = "limit: COPY with the primary key only, two sessions";
        self.copy_into(report, "key_only", "copy_key_only", text)
    }

    fn copy_into(
        &self,
        report: &mut Report,
        table: &str,
        key: &'static str,
        text: &'static str,
    ) -> Result<()> {
        let seconds = self.bench.runtime.block_on(self.dump.copy_into(table, &self.dumped))?;
        report.add(key, text, f64::from(self.bench.records) / seconds, "rows/s");
        Ok(())
    }

    fn consume(&self, report: &mut Report, _: u32) -> Result<()> {
        let (brokers, records) = (self.bench.kafka.brokers(), self.bench.records);
        let rate = broker::consume(&brokers, TOPIC, records, |_| {})?;
        report.add("consume", "limit: librdkafka consuming alone", rate, "records/s");
        Ok(())
    }

    fn consume_and_decode(&self, report: &mut Report, _: u32) -> Result<()> {
        let (brokers, records) = (self.bench.kafka.brokers(), self.bench.records);
        let mut read = 0;
        let rate =
            broker::consume(&brokers, TOPIC, records, |value| read += u32::from(read_bare(value)))?;
        ensure!(read == records, "{read} of {records} records were read");
        let text = "limit: librdkafka and serde_json alone, one thread";
        report.add("consume_decode", text, rate, "records/s");
        Ok(())
    }

    /// Commits of one row each, in one session.
    fn commit(&self, report: &mut Report, _: u32) -> Result<()> {
        let commits = postgres::commits(&self.dumped, COMMITTING, Duration::ZERO);
        let times = self.bench.runtime.block_on(commits)?;
        let mut at = |key, text, share| -> Result<()> {
            report.add(key, text, percentile(&times, share)? * 1e3, "ms");
            Ok(())
        };
        at("commit_p50", "limit: a commit of one row alone, p50", 50)?;
        at("commit_p99", "limit: a commit of one row alone, p99", 99)
    }

    fn remove(&self, database: &str) -> Result<()> {
        let server = self.bench.postgres.url();
        self.bench.runtime.block_on(postgres::drop_database(&server, database))
    }
}

/// The name and the version in an event.
fn package(value: &[u8]) -> Result<(String, String)> {
    let event: serde_json::Value = serde_json::from_slice(value)?;
    let field = |name: &str| event["data"]["package"][name].as_str().map(str::to_owned);
    field("name").zip(field("version")).context("an event without a package")
}
