//! Measures the history at scale: writes hourly snapshots, made up from a seed, into a temporary directory, loads them,
//! and asks for verdicts. `cargo run --release -p enrich --example history -- [LISTS] [ADDRESSES]`; Linux tells the
//! memory.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use enrich::{Finding, Library, Places, Source, TorRules};
use model::Timestamp;

const HOUR: i64 = 3_600_000_000;
/// 2020-01-01T00:00:00Z.
const START: i64 = 1_577_836_800_000_000;

/// A linear congruential generator (Knuth, MMIX), good enough to make addresses up.
struct Made(u64);

impl Made {
    fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// A third of the exits have IPv6.
    fn address(&mut self) -> IpAddr {
        let bits = u32::try_from(self.next(1 << 31)).unwrap_or(0);
        if self.next(3) == 0 {
            Ipv6Addr::from(0x2a00_u128 << 112 | u128::from(bits)).into()
        } else {
            Ipv4Addr::from(0x2000_0000 | bits >> 3).into()
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let lists = arguments.next().unwrap_or(Ok(52_000))?;
    let addresses = arguments.next().unwrap_or(Ok(1_500))?;
    let mut out = std::io::stdout();

    let directory = tempfile::tempdir()?;
    let mut made = Made(7);
    let mut exits: Vec<IpAddr> = (0..addresses).map(|_| made.address()).collect();
    let mut asked = Vec::new();
    for hour in 0..lists {
        // About one exit in a hundred and fifty changes each hour, and one in twenty is away for it.
        for _ in 0..addresses / 150 {
            let at = usize::try_from(made.next(addresses as u64))?;
            exits[at] = made.address();
        }
        let mut text = String::new();
        for exit in &exits {
            if made.next(20) != 0 {
                writeln!(text, "{exit}")?;
            }
        }
        let time = Timestamp::from_micros(START + i64::try_from(hour)? * HOUR);
        let name = time.to_rfc3339_millis()[..19].replace(['T', ':'], "-");
        std::fs::write(directory.path().join(name), text)?;
        asked.push((exits[0], time));
        asked.push((made.address(), time));
    }

    let rules = TorRules::default();
    let places = Places::only(Source::Snapshot, directory.path().to_path_buf());
    let mut library = Library::new(places, rules);
    let now = Timestamp::from_micros(START + i64::try_from(lists)? * HOUR);
    let before = resident()?;
    let (began, cpu_before) = (Instant::now(), cpu_seconds()?);
    library.refresh(now)?;
    let cpu = cpu_seconds()? - cpu_before;
    writeln!(
        out,
        "load: {} valid of {lists} lists in {:.1?}, {cpu:.1} s of one core",
        library.history().valid(Source::Snapshot),
        began.elapsed()
    )?;
    writeln!(
        out,
        "memory: {} MiB resident, {} MiB before, {} MiB peak",
        resident()?,
        before,
        status("VmHWM:")?
    )?;

    let history = library.history().clone();
    let began = Instant::now();
    let rounds = 2_000_000 / asked.len().max(1) + 1;
    let mut exits = 0_u64;
    for _ in 0..rounds {
        for &(address, at) in &asked {
            exits += u64::from(matches!(history.find(address, at), Finding::Exit(_)));
        }
    }
    let asked = rounds * asked.len();
    let nanos = began.elapsed().as_nanos() / u128::try_from(asked.max(1))?;
    writeln!(out, "verdict: {nanos} ns each over {asked}, {exits} exits")?;

    let began = Instant::now();
    library.refresh(now)?;
    writeln!(out, "nothing new: {:.1?}", began.elapsed())?;
    let name = now.to_rfc3339_millis()[..19].replace(['T', ':'], "-");
    let last = START + (i64::try_from(lists)? - 1) * HOUR;
    let from = Timestamp::from_micros(last).to_rfc3339_millis()[..19].replace(['T', ':'], "-");
    std::fs::copy(directory.path().join(from), directory.path().join(name))?;
    let began = Instant::now();
    let change = library.refresh(now)?;
    writeln!(out, "one new list: {:.1?}, {} newly valid", began.elapsed(), change.newly_valid)?;
    Ok(())
}

/// What this process used of the cores, which a busy machine does not change. Linux counts in hundredths of a second.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no such field")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    status("VmRSS:")
}

fn status(key: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1_024)
}
