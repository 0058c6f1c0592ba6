//! The query daemon under requests that are meant to hurt it: each one's answer, time and memory, and whether others were
//! answered meanwhile.
#![expect(clippy::print_stdout, reason = "the table is the program's output")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use testkit::hostile::{Attack, Survived, attacks, carry_out};

use crate::query::{self, Served};
use crate::report::Report;
use crate::workspace::Workspace;

/// How deep and how often.
const SIZE: usize = 100_000;
/// Enough for the largest answer.
const ROWS: u32 = 10_000;
/// What the process may take at its worst, in MB.
const MEMORY: f64 = 150.0;

/// Carries out every attack and fails where one did harm.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    query::build(workspace)?;
    let mut served = Served::start(workspace, ROWS)?;
    let http: SocketAddr = served.http.parse()?;
    println!(
        "| {:42} | {:>11} | {:36} | {:>8} | {:>7} | {:>18} |",
        "input", "bytes", "answer", "seconds", "MB", "others (longest)"
    );
    let (mut peak, mut slowest) = (0.0_f64, Duration::ZERO);
    let mut harm = Vec::new();
    for attack in attacks(SIZE) {
        let survived = carry_out(&attack, http, served.daemon.pid());
        let alive = served.daemon.is_running();
        show(&attack, &survived);
        peak = peak.max(megabytes(&survived));
        slowest = slowest.max(survived.longest.unwrap_or_default());
        if !alive {
            bail!("{}: the daemon died:\n{}", attack.name, served.daemon.log());
        }
        if survived.longest.is_none() || megabytes(&survived) > MEMORY {
            harm.push(attack.name);
        }
    }
    report.add("hostile_peak", "hostile requests: peak memory", peak, "MB");
    let longest = slowest.as_secs_f64() * 1e3;
    report.add("hostile_wait", "  longest wait of an ordinary request", longest, "ms");
    if harm.is_empty() {
        return Ok(());
    }
    bail!("over {MEMORY} MB, or others were not answered: {}", harm.join("; "))
}

fn megabytes(survived: &Survived) -> f64 {
    survived.peak as f64 / 1e6
}

fn show(attack: &Attack, survived: &Survived) {
    let others = match survived.longest {
        Some(longest) => format!("{} ({} ms)", survived.others, longest.as_millis()),
        None => "NOT ANSWERED".to_owned(),
    };
    println!(
        "| {:42} | {:>11} | {:36} | {:>8.3} | {:>7.1} | {others:>18} |",
        attack.name,
        survived.bytes,
        survived.answer,
        survived.time.as_secs_f64(),
        megabytes(survived)
    );
}
