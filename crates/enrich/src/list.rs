//! A parsed list: its time and its sightings.

use std::fmt;
use std::net::IpAddr;

use model::{Timestamp, TorReason};

use crate::Refusal;

/// Where evidence comes from, in the order of the table in crates/enrich/README.md, Evidence, which decides the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// TorDNSEL exit lists.
    ExitList,
    /// Lists of bare exit addresses.
    Snapshot,
    /// MaxMind Anonymous IP databases.
    AnonymousIp,
}

impl Source {
    /// Every source, in the table's order.
    pub const ALL: [Self; 3] = [Self::ExitList, Self::Snapshot, Self::AnonymousIp];

    /// The specification's word, as metrics label it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.reason().as_str()
    }

    /// The reason of a verdict that this source made true.
    #[must_use]
    pub const fn reason(self) -> TorReason {
        match self {
            Self::ExitList => TorReason::ExitList,
            Self::Snapshot => TorReason::Snapshot,
            Self::AnonymousIp => TorReason::AnonymousIp,
        }
    }

    /// The key of the configuration that says where this source lies.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::ExitList => "tor.exit_lists",
            Self::Snapshot => "tor.snapshots",
            Self::AnonymousIp => "tor.anonymous_ip",
        }
    }
}

/// The two families of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a canonical address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A list that parsed whole: which addresses were seen as exits, and when.
#[derive(Clone, PartialEq, Eq)]
pub struct List {
    time: Timestamp,
    /// Sorted, each once.
    sightings: Vec<(IpAddr, Timestamp)>,
    distinct: [usize; 2],
}

impl List {
    /// Puts a list together.
    ///
    /// # Errors
    /// [`Refusal::Empty`] without a sighting.
    pub(crate) fn new(
        time: Timestamp,
        mut sightings: Vec<(IpAddr, Timestamp)>,
    ) -> Result<Self, Refusal> {
        sightings.sort_unstable();
        sightings.dedup();
        let mut distinct = [0; 2];
        let mut before = None;
        for &(address, _) in &sightings {
            if before != Some(address) {
                distinct[Family::of(address) as usize] += 1;
                before = Some(address);
            }
        }
        if sightings.is_empty() {
            return Err(Refusal::Empty);
        }
        Ok(Self { time, sightings, distinct })
    }

    /// The list's own time.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Up to when it says anything: its own time, or that of its newest sighting, if that is earlier. A list is no newer
    /// than its newest scan, however late it was written down.
    #[must_use]
    pub fn as_of(&self) -> Timestamp {
        let newest = self.sightings.iter().map(|&(_, seen)| seen).max();
        newest.map_or(self.time, |newest| newest.min(self.time))
    }

    /// How many distinct addresses of a family it holds.
    #[must_use]
    pub const fn distinct(&self, family: Family) -> usize {
        self.distinct[family as usize]
    }

    /// The sightings, canonical address and time, sorted, each once.
    #[must_use]
    pub fn sightings(&self) -> &[(IpAddr, Timestamp)] {
        &self.sightings
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses are never printed.
        f.debug_struct("List").field("time", &self.time).field("distinct", &self.distinct).finish()
    }
}
