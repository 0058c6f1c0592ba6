//! Runs the measurements in order.

use std::time::SystemTime;

use anyhow::Result;
use model::Timestamp;

use crate::args::{Args, Part};
use crate::report::Report;
use crate::workspace::Workspace;
use crate::{broker, decode, growth, history, hostile, ingest, peers, query, tor};

/// Runs the selected measurements and reports.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let mut report = Report::new(workspace);
    report.fact("librdkafka", broker::version());
    let now = Timestamp::from_micros(0).after(SystemTime::UNIX_EPOCH.elapsed()?);
    if args.part == Part::Peers {
        peers::run(workspace, &mut report, args, now)?;
    }
    let wanted = |part| args.part == part || args.part == Part::All;
    // First, because it measures this process's own memory.
    if wanted(Part::Tor) {
        tor::run(&mut report, now)?;
    }
    if wanted(Part::Decode) {
        decode::run(&mut report, args.records, now)?;
    }
    if wanted(Part::Ingest) {
        ingest::run(workspace, &mut report, args.records, now)?;
    }
    if wanted(Part::Growth) {
        growth::run(workspace, &mut report, args, now)?;
    }
    if wanted(Part::Query) {
        let served = query::run(workspace, &mut report)?;
        history::run(&served, &mut report)?;
    }
    if wanted(Part::Hostile) {
        hostile::run(workspace, &mut report)?;
    }
    report.finish(args.json.as_deref(), args.check)
}
