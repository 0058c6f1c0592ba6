//! What Linux says about processes: processor time and memory.

use std::fs;

use anyhow::{Context, Result};

/// Linux counts in hundredths of a second on every machine that this runs on (`getconf CLK_TCK`).
const TICKS: f64 = 100.0;
const MIB: f64 = 1024.0 * 1024.0;

/// The processor time of a process, of its threads, and of its children that it has waited for, in seconds.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = fields(&stat).context("an unknown format of /proc/PID/stat")?;
    // utime, stime, cutime, cstime: fields 14 to 17, and the first here is the third.
    let ticks = fields.iter().skip(11).take(4).map(|field| field.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// The same with all of its children that still run: a PostgreSQL server.
pub(crate) fn cpu_with_children(pid: u32) -> Result<f64> {
    let mut sum = cpu(pid)?;
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // Processes end while this looks at them.
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let parent = fields(&stat).and_then(|fields| fields.get(1)?.parse::<u32>().ok());
        if parent == Some(pid) {
            sum += cpu(child).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// Everything behind the program's name, which may itself hold spaces and brackets.
fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(") ")?.1.split_whitespace().collect())
}

/// The time that all processors together were busy since the machine started, in seconds.
pub(crate) fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = all.split_whitespace().skip(1).flat_map(str::parse).collect();
    // user, nice, system, then idle and iowait, which are not work.
    let work = |index: &usize| ![3, 4].contains(index);
    Ok((0..ticks.len().min(8)).filter(work).map(|index| ticks[index]).sum::<f64>() / TICKS)
}

/// A line of `/proc/PID/status`, in MiB.
pub(crate) fn memory(pid: &str, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kibibytes = line.with_context(|| format!("no {key} in /proc/PID/status"))?;
    Ok(kibibytes.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / MIB)
}

/// Lets this process's peak (`VmHWM`) begin anew.
pub(crate) fn forget_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("resetting the peak memory")
}
