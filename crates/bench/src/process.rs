//! Processor time and memory of processes, from Linux's `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Ticks per second (`getconf CLK_TCK`), which is 100 on all supported machines.
const TICKS: f64 = 100.0;
const MIB: f64 = 1024.0 * 1024.0;

/// The processor time of a process with its threads and its reaped children, in seconds.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = fields(&stat).context("an unknown format of /proc/PID/stat")?;
    // utime, stime, cutime, cstime are fields 14 to 17. `fields` begins with field 3.
    let ticks = fields.iter().skip(11).take(4).map(|field| field.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// The same, with the children that still run, as in a PostgreSQL server.
pub(crate) fn cpu_with_children(pid: u32) -> Result<f64> {
    let mut sum = cpu(pid)?;
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let parent = fields(&stat).and_then(|fields| fields.get(1)?.parse::<u32>().ok());
        if parent == Some(pid) {
            sum += cpu(child).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// The fields after the program's name, which may contain spaces and parentheses.
fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(") ")?.1.split_whitespace().collect())
}

/// The time that all processors together were busy since boot, in seconds.
pub(crate) fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = all.split_whitespace().skip(1).flat_map(str::parse).collect();
    // The fields are user, nice, system, idle, iowait and others. idle and iowait are not work.
    let work = |index: &usize| ![3, 4].contains(index);
    Ok((0..ticks.len().min(8)).filter(work).map(|index| ticks[index]).sum::<f64>() / TICKS)
}

/// The value of a line in `/proc/PID/status`, in MiB.
pub(crate) fn memory(pid: &str, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kibibytes = line.with_context(|| format!("no {key} in /proc/PID/status"))?;
    Ok(kibibytes.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / MIB)
}

/// Resets this process's peak memory (`VmHWM`).
pub(crate) fn forget_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("resetting the peak memory")
}
