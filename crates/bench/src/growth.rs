//! Measures whether cost is proportional to the records, and to the instances of a group.

use anyhow::{Result, ensure};
use model::Timestamp;

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

pub(crate) fn run(
    workspace: &Workspace,
    report: &mut Report,
    records: u32,
    now: Timestamp,
) -> Result<()> {
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
    let text = "four times the records / once, rows a second of processor time";
    report.ratio("records_growth", text, "records_4_cpu", "records_1_cpu");
    let text = "four instances / one, rows a second of processor time";
    report.ratio("instances_growth", text, "instances_4_cpu", "records_1_cpu");
    Ok(())
}
