//! The query daemon under hostile requests: the answer, the time and the memory of each, and whether other clients were
//! answered meanwhile.
#![expect(clippy::print_stdout, reason = "the table is the program's output")]

use std::time::Duration;

use anyhow::{Result, bail};
use testkit::hostile::{Attack, AttackResult, Target, attacks, run_attack};

use crate::query::Served;
use crate::report::Report;
use crate::workspace::Workspace;

/// The depth and the number of repetitions.
const SIZE: usize = 100_000;
/// Enough rows for the largest answer.
const ROWS: u32 = 10_000;
/// The limit of the process's memory in MB: the default of `limits.max_memory`.
const MEMORY: f64 = (128 << 20) as f64 / 1e6;

/// Runs every attack. Fails when one did harm.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) -> Result<()> {
    let mut served = Served::start(workspace, ROWS)?;
    let pid = served.daemon.pid();
    let target = Target { http: served.http.parse()?, admin: served.admin.parse()?, pid };
    println!("| input | answer | MB | slowest witness |\n| --- | --- | --- | --- |");
    let (mut peak, mut slowest) = (0.0_f64, Duration::ZERO);
    let mut harm = Vec::new();
    for attack in attacks(SIZE) {
        let result = run_attack(&attack, target);
        let alive = served.daemon.is_running();
        show(&attack, &result);
        peak = peak.max(megabytes(&result));
        slowest = result.witnesses.iter().fold(slowest, |all, own| all.max(own.longest));
        if !alive {
            bail!("{}: the daemon died:\n{}", attack.name, served.daemon.log());
        }
        let is_well = result.witnesses.iter().all(|own| own.is_well(1) && own.busy == 0);
        if !is_well || megabytes(&result) > MEMORY {
            harm.push(attack.name);
        }
    }
    report.add("hostile_peak", "hostile requests: peak memory", peak, "MB");
    let longest = slowest.as_secs_f64() * 1e3;
    report.add("hostile_wait", "  longest wait of a witness", longest, "ms");
    if harm.is_empty() {
        return Ok(());
    }
    bail!("over {MEMORY:.0} MB, or others were not answered in time: {}", harm.join("; "))
}

fn megabytes(result: &AttackResult) -> f64 {
    result.peak as f64 / 1e6
}

fn show(attack: &Attack, result: &AttackResult) {
    let failed = result.witnesses.iter().find_map(|own| Some((own.name, own.failed.as_ref()?)));
    let slowest = result.witnesses.iter().max_by_key(|own| own.longest);
    let told = match (failed, slowest) {
        (Some((name, failed)), _) => format!("{name}: {failed}"),
        (None, Some(own)) => format!("{}: {} ms", own.name, own.longest.as_millis()),
        (None, None) => "none".to_owned(),
    };
    println!("| {} | {} | {:.1} | {told} |", attack.name, result.answer, megabytes(result));
}
