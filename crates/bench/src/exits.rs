//! Exit lists, generated from a seed: hourly snapshots in a directory, as an operator collects them.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use enrich::{ExitHistory, Library, Source, SourcePaths, TorRules};
use model::Timestamp;
use tempfile::TempDir;

pub(crate) const HOUR: i64 = 3_600_000_000;

/// Sebastiano Vigna's splitmix64 (public domain): the same numbers in every run on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// One item of a list, which must not be empty.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        // The remainder is smaller than the length.
        &from[usize::try_from(self.below(from.len() as u64)).unwrap_or_default()]
    }

    /// A public address. A third are IPv6, like real exits.
    pub(crate) fn address(&mut self) -> IpAddr {
        let bits = u32::try_from(self.below(1 << 29)).unwrap_or_default();
        if self.below(3) == 0 {
            Ipv6Addr::from(0x2a00_u128 << 112 | u128::from(bits)).into()
        } else {
            Ipv4Addr::from(0x2000_0000 | bits).into()
        }
    }
}

/// A directory with snapshots.
pub(crate) struct Lists {
    directory: TempDir,
    count: usize,
    /// The time of the newest list.
    pub(crate) last: Timestamp,
    /// The exits in the newest list.
    pub(crate) exits: Vec<IpAddr>,
    /// For each hour an exit and an address that is not an exit, to be evaluated.
    pub(crate) asked: Vec<(IpAddr, Timestamp)>,
}

impl Lists {
    /// Writes `count` hourly lists with about `addresses` addresses each, the newest at `last`.
    pub(crate) fn write(last: Timestamp, count: usize, addresses: usize) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("exits-").tempdir()?;
        let mut random = Random::new(7);
        let mut exits: Vec<IpAddr> = (0..addresses).map(|_| random.address()).collect();
        let mut asked = Vec::with_capacity(2 * count);
        for hour in (0..count).rev() {
            // Each hour about one exit in 150 is replaced, and one in twenty is missing.
            for _ in 0..addresses / 150 {
                let at = usize::try_from(random.below(addresses as u64))?;
                exits[at] = random.address();
            }
            let mut text = String::with_capacity(addresses * 16);
            for exit in &exits {
                if random.below(20) != 0 {
                    writeln!(text, "{exit}")?;
                }
            }
            let time = Timestamp::from_micros(last.as_micros() - i64::try_from(hour)? * HOUR);
            let name = time.to_rfc3339_millis()[..19].replace(['T', ':'], "-");
            fs::write(directory.path().join(name), text)?;
            asked.push((exits[0], time));
            asked.push((random.address(), time));
        }
        Ok(Self { directory, count, last, exits, asked })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Loads the lists as the ingester does at start.
    pub(crate) fn load(&self) -> Result<ExitHistory> {
        let paths = SourcePaths::only(Source::Snapshot, self.path().to_owned());
        let mut library = Library::new(paths, TorRules::default());
        library.refresh(self.last).context("loading the lists")?;
        let history = library.history().clone();
        let valid = history.valid(Source::Snapshot);
        anyhow::ensure!(valid == self.count, "{valid} of {} made-up lists are valid", self.count);
        Ok(history)
    }
}
