//! Ingestion of a full topic into PostgreSQL and SQLite, each compared with its own limit.

use std::thread;

use anyhow::{Context, Result, ensure};
use model::Timestamp;
use testkit::{Kafka, Postgres};
use tokio::runtime::Runtime;

use crate::daemon::{Ingested, Ingester, Place, Servers, ingest};
use crate::events::Events;
use crate::exits::Lists;
use crate::process::cpu_with_children;
use crate::report::Report;
use crate::workspace::Workspace;
use crate::{broker, latency, postgres, sqlite};

/// A week of hourly lists, with about as many exits as the Tor network.
const LISTS: usize = 7 * 24;
const ADDRESSES: usize = 1_500;
pub(crate) const TOPIC: &str = "events";

/// The servers and data that these measurements share.
pub(crate) struct Bench {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    lists: Lists,
    pub(crate) runtime: Runtime,
    pub(crate) records: u32,
    /// The processor time of the ingester's start, in seconds.
    start: f64,
}

pub(crate) fn run(
    workspace: &Workspace,
    report: &mut Report,
    records: u32,
    now: Timestamp,
) -> Result<()> {
    let mut bench = Bench::start(workspace, records, now)?;
    bench.servers(report)?;
    bench.fill(report)?;
    bench.consume(report)?;
    let database = bench.runtime.block_on(bench.postgres.database()).url;
    bench.idle(report, &database)?;
    bench.fresh_and_known(report, &database)?;
    bench.copy(report, &database)?;
    bench.latency(report, &database, 0)?;
    bench.sqlite(report)?;
    report.ratio("fresh_per_copy", "fresh rows / PostgreSQL's own COPY", "fresh", "copy");
    report.ratio("known_per_fresh", "rows already there / fresh rows", "known", "fresh");
    report.ratio("sqlite_per_bare", "SQLite / a bare prepared insert", "sqlite", "sqlite_bare");
    Ok(())
}

impl Bench {
    /// Builds the ingester and starts the servers.
    pub(crate) fn start(workspace: &Workspace, records: u32, now: Timestamp) -> Result<Self> {
        workspace.build("ingester")?;
        let lists = Lists::write(now, LISTS, ADDRESSES)?;
        let (kafka, postgres) = thread::scope(|scope| {
            let postgres = scope.spawn(postgres::start);
            let kafka = Kafka::builder().optimized().start();
            (kafka, postgres.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        Ok(Self { kafka, postgres, lists, runtime: Runtime::new()?, records, start: 0.0 })
    }

    /// Reports versions and settings.
    pub(crate) fn servers(&self, report: &mut Report) -> Result<()> {
        let version = self.runtime.block_on(postgres::version(&self.postgres.url()))?;
        let settings = postgres::SETTINGS.map(|(name, value)| format!("{name}={value}")).join(" ");
        report.fact("PostgreSQL", format!("{version}, durable, defaults but {settings}"));
        report.fact("Kafka", testkit::kafka_version());
        report.fact("SQLite", format!("{}, WAL, synchronous=FULL", sqlite::version()));
        Ok(())
    }

    pub(crate) fn place<'a>(
        &'a self,
        brokers: &'a str,
        topic: &'a str,
        store: &'a str,
    ) -> Place<'a> {
        Place { brokers, topic, store, lists: self.lists.path() }
    }

    pub(crate) fn processes(&self) -> Servers {
        Servers { kafka: self.kafka.pid(), postgres: self.postgres.pid() }
    }

    pub(crate) fn events(&self, count: u32, first_major: u64) -> Events {
        Events::new(count, self.lists.last, self.lists.exits.clone(), first_major)
    }

    /// Creates and fills the topic.
    pub(crate) fn fill(&self, report: &mut Report) -> Result<()> {
        let (brokers, records) = (self.kafka.brokers(), self.records);
        self.runtime.block_on(testkit::topic(&brokers, TOPIC, broker::PARTITIONS, &[]));
        eprintln!("bench: producing {records} events");
        let bytes = broker::fill(&brokers, TOPIC, self.events(records, 0))?;
        let each = bytes / records as usize;
        let shape = format!(
            "{records} of {each} bytes, {} partitions, no compression, lists of a week",
            broker::PARTITIONS
        );
        report.fact("events", shape);
        Ok(())
    }

    /// Reads the topic with librdkafka alone.
    fn consume(&self, report: &mut Report) -> Result<()> {
        let (brokers, records) = (self.kafka.brokers(), self.records);
        let rate = broker::consume(&brokers, TOPIC, records, |_| {})?;
        report.add("consume", "librdkafka alone: consume", rate, "records/s");
        Ok(())
    }

    /// Measures an idle ingester: its memory, and the processor time of its start.
    fn idle(&mut self, report: &mut Report, database: &str) -> Result<()> {
        let brokers = self.kafka.brokers();
        self.runtime.block_on(testkit::topic(&brokers, "idle", broker::PARTITIONS, &[]));
        let mut ingester = Ingester::start(&self.place(&brokers, "idle", database), "idle");
        let (memory, cpu) = ingester.ready()?;
        ingester.end();
        self.start = cpu;
        report.add("idle", "ingester, idle: memory", memory, "MiB");
        Ok(())
    }

    fn fresh_and_known(&self, report: &mut Report, database: &str) -> Result<()> {
        let brokers = self.kafka.brokers();
        let place = self.place(&brokers, TOPIC, database);
        self.runtime.block_on(postgres::settle(database))?;
        let before = self.runtime.block_on(postgres::logged(database))?;
        let fresh = ingest(&place, "fresh", 1, self.records, self.processes())?;
        let logged = self.runtime.block_on(postgres::logged(database))? - before;
        let rows = self.runtime.block_on(postgres::count(database))?;
        ensure!(rows == i64::from(self.records), "{rows} rows of {} records", self.records);
        report.add("fresh", "PostgreSQL: fresh rows", fresh.rate, "rows/s");
        let million = f64::from(self.records) / 1e6;
        self.cost(
            report,
            &fresh,
            ["fresh_cpu", "fresh_postgres_cpu", "fresh_kafka_cpu", "fresh_others", "fresh_peak"],
        );
        report.add("fresh_log", "  log written, a row", logged / million / 1e6, "bytes");
        self.runtime.block_on(postgres::settle(database))?;
        let known = ingest(&place, "known", 1, self.records, self.processes())?;
        report.add("known", "PostgreSQL: rows already there", known.rate, "rows/s");
        self.cost(
            report,
            &known,
            ["known_cpu", "known_postgres_cpu", "known_kafka_cpu", "known_others", "known_peak"],
        );
        Ok(())
    }

    fn cost(&self, report: &mut Report, cost: &Ingested, keys: [&'static str; 5]) {
        let million = f64::from(self.records) / 1e6;
        let ingester = (cost.ingester - self.start) / million;
        report.add(keys[0], "  processor time a million rows: ingester", ingester, "s");
        let postgres = cost.postgres / million;
        report.add(keys[1], "  processor time a million rows: PostgreSQL", postgres, "s");
        let kafka = cost.kafka / million;
        report.add(keys[2], "  processor time a million rows: broker", kafka, "s");
        report.add(keys[3], "  others on this machine meanwhile", cost.others, "cores");
        report.add(keys[4], "  ingester: peak memory", cost.peak, "MiB");
    }

    /// Measures PostgreSQL's own limit with the rows that the ingester wrote.
    fn copy(&self, report: &mut Report, database: &str) -> Result<()> {
        let dump = self.runtime.block_on(postgres::Dump::write(database))?;
        self.runtime.block_on(postgres::execute(database, &["TRUNCATE publication"]))?;
        let used = || self.postgres.pid().map_or(Ok(0.0), cpu_with_children);
        let before = used()?;
        let seconds = self.runtime.block_on(dump.copy_into("publication", database))?;
        let cpu = used()? - before;
        let records = f64::from(self.records);
        let text = "PostgreSQL alone: binary COPY from files, two sessions";
        report.add("copy", text, records / seconds, "rows/s");
        let text = "  processor time a million rows: PostgreSQL";
        report.add("copy_postgres_cpu", text, cpu / records * 1e6, "s");
        Ok(())
    }

    /// Measures in a table that already has many rows. `round` separates the events of several rounds.
    pub(crate) fn latency(&self, report: &mut Report, database: &str, round: u32) -> Result<()> {
        let (brokers, topic) = (self.kafka.brokers(), format!("latency-{round}"));
        self.runtime.block_on(testkit::topic(&brokers, &topic, broker::PARTITIONS, &[]));
        let events = self.events(latency::EVENTS, u64::from(round + 1) * 1_000);
        let place = self.place(&brokers, &topic, database);
        latency::run(report, &self.runtime, &place, events)
    }

    fn sqlite(&self, report: &mut Report) -> Result<()> {
        let directory = tempfile::Builder::new().prefix("sqlite-").tempdir()?;
        let file = directory.path().join("publications.db");
        let url = format!("sqlite://{}", file.display());
        let brokers = self.kafka.brokers();
        let place = self.place(&brokers, TOPIC, &url);
        let fresh = ingest(&place, "sqlite", 1, self.records, self.processes())?;
        report.add("sqlite", "SQLite: fresh rows", fresh.rate, "rows/s");
        let million = f64::from(self.records) / 1e6;
        let cpu = (fresh.ingester - self.start) / million;
        report.add("sqlite_cpu", "  processor time a million rows: ingester", cpu, "s");
        let bare = sqlite::bare_insert(&file).context("the bare insert")?;
        report.add("sqlite_bare", "SQLite alone: a prepared insert, one by one", bare, "rows/s");
        Ok(())
    }
}
