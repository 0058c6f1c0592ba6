//! Measures whether cost is proportional to the records and to the instances of a group, and what the table's size and its
//! partitions cost.

use anyhow::{Result, ensure};
use model::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::args::Args;
use crate::daemon::ingest;
use crate::ingest::Bench;
use crate::report::Report;
use crate::workspace::Workspace;
use crate::{broker, postgres};

/// A measurement: its two keys and its text.
type Line = ([&'static str; 2], &'static str);

/// Multiples of the records, ingested by one instance.
const RECORDS: [(u32, Line); 3] = [
    (1, (["records_1", "records_1_cpu"], "the records once, by one instance")),
    (2, (["records_2", "records_2_cpu"], "twice the records")),
    (4, (["records_4", "records_4_cpu"], "four times the records")),
];
/// The records once, ingested by several instances.
const INSTANCES: [(usize, Line); 2] = [
    (2, (["instances_2", "instances_2_cpu"], "once, by two instances")),
    (4, (["instances_4", "instances_4_cpu"], "once, by four instances")),
];
const PER_PROCESSOR: &str = "  rows a second of processor time, ingesters and PostgreSQL";
const PARTITIONED: &str = include_str!("../../../deploy/postgresql/partitioned.sql");
/// The partitions of the measured table.
const PARTS: u32 = 64;
/// The first major versions of the records for a table that has rows already.
const LATER: u64 = 500_000;
/// Adds rows to the table: each existing row once more per number, with a version and a time of its own. So they lie between
/// the existing rows in every index, as the versions of a package do.
const COPIES: &str = "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason, credential, \
    actor, tor_settled, disputed, tor, tfa, username, event_identity, tor_evidence_until, integrity) \
    SELECT name, version || '-' || number, created - number * interval '1 day', revision, generation, tor_reason, tfa_reason, \
    credential, actor, tor_settled, disputed, tor, tfa, username, event_identity, tor_evidence_until, integrity \
    FROM publication CROSS JOIN generate_series(1, $1) AS number";

pub(crate) fn run(
    workspace: &Workspace,
    report: &mut Report,
    args: &Args,
    now: Timestamp,
) -> Result<()> {
    let records = args.records;
    let bench = Bench::start(workspace, records, now)?;
    let (brokers, database) =
        (bench.kafka.brokers(), bench.runtime.block_on(bench.postgres.database()).url);
    report.fact("once", format!("{records} records, {} partitions", broker::PARTITIONS));
    let mut measure = |topic: &str, records: u32, instances: usize, line: Line| -> Result<()> {
        let group = format!("{topic}-{instances}");
        let place = bench.place(&brokers, topic, &database);
        let cost = ingest(&place, &group, instances, records, bench.processes())?;
        let rows = bench.runtime.block_on(postgres::count(&database))?;
        ensure!(rows == i64::from(records), "{rows} rows of {records} records");
        bench.runtime.block_on(postgres::execute(&database, &["TRUNCATE publication"]))?;
        let ([rate, cpu], text) = line;
        report.add(rate, text, cost.rate, "rows/s");
        let processor = f64::from(records) / (cost.ingester + cost.postgres);
        report.add(cpu, PER_PROCESSOR, processor, "rows/s");
        Ok(())
    };
    for (times, line) in RECORDS {
        let (topic, records) = (format!("times-{times}"), records * times);
        bench.runtime.block_on(testkit::topic(&brokers, &topic, broker::PARTITIONS, &[]));
        broker::fill(&brokers, &topic, bench.events(records, 0))?;
        measure(&topic, records, 1, line)?;
    }
    for (instances, line) in INSTANCES {
        measure("times-1", records, instances, line)?;
    }
    tables(&bench, report, args, &database)?;
    let text = "four times the records / once, rows a second of processor time";
    report.ratio("records_growth", text, "records_4_cpu", "records_1_cpu");
    let text = "four instances / one, rows a second of processor time";
    report.ratio("instances_growth", text, "instances_4_cpu", "records_1_cpu");
    let text = "into a table that has many rows / into an empty one";
    report.ratio("table_growth", text, "records_full", "records_1");
    let text = "into 64 partitions / into one table";
    report.ratio("partitions_cost", text, "records_parted", "records_1");
    Ok(())
}

/// The same number of fresh records into a table that has many rows, and into an empty table of many partitions.
fn tables(bench: &Bench, report: &mut Report, args: &Args, database: &str) -> Result<()> {
    let brokers = bench.kafka.brokers();
    let fresh = |topic: &str, group: &str| -> Result<f64> {
        let place = bench.place(&brokers, topic, database);
        Ok(ingest(&place, group, 1, args.records, bench.processes())?.rate)
    };
    fresh("times-1", "base")?;
    let copies = args.table_rows.div_ceil(args.records).saturating_sub(1);
    bench.runtime.block_on(copy_rows(database, copies))?;
    bench.runtime.block_on(testkit::topic(&brokers, "later", broker::PARTITIONS, &[]));
    broker::fill(&brokers, "later", bench.events(args.records, LATER))?;
    let before = bench.runtime.block_on(postgres::count(database))?;
    let rate = fresh("later", "later")?;
    let rows = bench.runtime.block_on(postgres::count(database))?;
    ensure!(rows == before + i64::from(args.records), "{rows} rows, {before} before");
    report.fact("many rows", format!("{before} before"));
    report.add("records_full", "once, into a table that has many rows", rate, "rows/s");
    let size = bench.runtime.block_on(postgres::size(database))?;
    report.add("full_row_size", "  a row there, indexes included", size / rows as f64, "bytes");

    let parted = PARTITIONED.replace("integer := 16;", &format!("integer := {PARTS};"));
    ensure!(parted != PARTITIONED, "partitioned.sql has another number of partitions");
    bench.runtime.block_on(postgres::execute(database, &["TRUNCATE publication"]))?;
    bench.runtime.block_on(async {
        let mut connection = PgConnection::connect(database).await?;
        sqlx::raw_sql(AssertSqlSafe(parted)).execute(&mut connection).await
    })?;
    let rate = fresh("times-1", "parted")?;
    report.add("records_parted", "once, into an empty table of 64 partitions", rate, "rows/s");
    Ok(())
}

/// Copies the rows of the table this many times.
async fn copy_rows(database: &str, times: u32) -> Result<()> {
    let mut connection = PgConnection::connect(database).await?;
    sqlx::query(COPIES).bind(i64::from(times)).execute(&mut connection).await?;
    sqlx::raw_sql("VACUUM ANALYZE publication").execute(&mut connection).await?;
    postgres::settle(database).await
}
