//! A parsed list: its time and its sightings.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv6Addr};

use model::Timestamp;

use crate::{Family, Refusal};

/// A completely parsed list: the addresses seen as exits, and when.
#[derive(Clone, PartialEq, Eq)]
pub struct List {
    time: Timestamp,
    /// Sorted, without duplicates.
    sightings: Vec<(IpAddr, Timestamp)>,
    distinct: [usize; 2],
}

impl List {
    /// Builds a list.
    ///
    /// # Errors
    /// [`Refusal::Empty`] if there are no sightings.
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

    /// The time up to which the list is evidence: its own time, or that of its newest sighting if that is earlier. A
    /// list is no newer than its newest scan, however late it was published.
    #[must_use]
    pub fn as_of(&self) -> Timestamp {
        let newest = self.sightings.iter().map(|&(_, seen)| seen).max();
        newest.map_or(self.time, |newest| newest.min(self.time))
    }

    /// The number of distinct addresses of a family.
    #[must_use]
    pub const fn distinct(&self, family: Family) -> usize {
        self.distinct[family as usize]
    }

    /// A hash of the addresses and their times. It need not be the same in every build: where it is not, a pass over the
    /// settled rows finds nothing to change.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for &(address, seen) in &self.sightings {
            // One write a sighting takes half of the time of the derived hash, and six years of lists have 80 million.
            let mut bytes = [0; 24];
            bytes[..16].copy_from_slice(&in_v6(address).octets());
            bytes[16..].copy_from_slice(&seen.as_micros().to_be_bytes());
            hasher.write(&bytes);
        }
        hasher.finish()
    }

    /// The sightings as canonical address and time, sorted, without duplicates.
    #[must_use]
    pub fn sightings(&self) -> &[(IpAddr, Timestamp)] {
        &self.sightings
    }
}

/// The address in one space: a canonical IPv6 address is never an IPv4-mapped one.
const fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never print addresses.
        f.debug_struct("List").field("time", &self.time).field("distinct", &self.distinct).finish()
    }
}
