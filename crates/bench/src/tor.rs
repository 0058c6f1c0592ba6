//! Six years of hourly exit lists: the time to load them, their memory, and the time of a verdict.

use std::hint::black_box;
use std::process;

use anyhow::Result;
use enrich::Finding;
use model::Timestamp;

use crate::exits::Lists;
use crate::process::{cpu, forget_peak, memory};
use crate::report::Report;

/// The hours of six years, and about as many exits as the Tor network.
const LISTS: usize = 52_000;
const ADDRESSES: usize = 1_500;
const VERDICTS: usize = 2_000_000;

pub(crate) fn run(report: &mut Report, now: Timestamp) -> Result<()> {
    eprintln!("bench: writing {LISTS} exit lists");
    let lists = Lists::write(now, LISTS, ADDRESSES)?;
    forget_peak()?;
    let (memory_before, cpu_before) = (memory("self", "VmRSS")?, cpu(process::id())?);
    let history = lists.load()?;
    let seconds = cpu(process::id())? - cpu_before;
    report.add("tor_load", "six years of hourly exit lists: load, one core", seconds, "s");
    let peak = memory("self", "VmHWM")? - memory_before;
    report.add("tor_peak", "six years of hourly exit lists: peak while loading", peak, "MiB");
    let held = memory("self", "VmRSS")? - memory_before;
    report.add("tor_held", "six years of hourly exit lists: held", held, "MiB");

    let cpu_before = cpu(process::id())?;
    let mut exits = 0_usize;
    for &(address, at) in lists.asked.iter().cycle().take(VERDICTS) {
        exits += usize::from(matches!(history.find(black_box(address), at), Finding::Exit(_)));
    }
    black_box(exits);
    let nanoseconds = (cpu(process::id())? - cpu_before) * 1e9 / VERDICTS as f64;
    report.add("tor_verdict", "six years of hourly exit lists: a look-up", nanoseconds, "ns");
    Ok(())
}
