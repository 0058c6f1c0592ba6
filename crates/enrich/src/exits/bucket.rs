//! The lists of one time span, packed, and the runs of their addresses.
//!
//! A bucket is the unit that is rebuilt when one of its lists is added, removed or changes its validity, so it bounds
//! the cost of a change. Most addresses stay for weeks, so a bucket stores each of them once for hundreds of lists.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use model::Timestamp;

use super::Near;
use super::version::Version;
use crate::{Family, List, TorRules};

/// 30 days: a month of hourly lists, some 700, is evaluated and merged in a few milliseconds.
pub(super) const BUCKET_MICROS: i64 = 30 * 86_400 * 1_000_000;

/// One list.
#[derive(Clone)]
pub(super) struct Entry {
    /// The list's own time, on which its validity depends.
    pub(super) time: Timestamp,
    /// The time up to which the list is evidence; it decides coverage and settling ([`List::as_of`]).
    pub(super) as_of: Timestamp,
    pub(super) version: Version,
    pub(super) distinct: [usize; 2],
    /// [`List::digest`].
    pub(super) digest: u64,
    /// Sightings in the format of [`pack`].
    sightings: Arc<[u8]>,
}

impl Entry {
    /// Whether the list has enough addresses to cover the family. The caller handles that exit lists cover IPv4 only.
    pub(super) fn has_enough(&self, family: Family, rules: &TorRules) -> bool {
        self.distinct[family as usize] >= rules.min_addresses
    }

    /// The sightings: the address's number in the bucket, and the time.
    pub(super) fn sightings(&self) -> impl Iterator<Item = (u32, Timestamp)> + '_ {
        unpack(self.time, &self.sightings)
    }
}

/// A run: evidence times of an address with gaps no longer than the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: Timestamp,
    last: Timestamp,
}

#[derive(Clone, Default)]
pub(super) struct Bucket {
    /// Sorted by time, then serial.
    pub(super) entries: Vec<Entry>,
    /// The addresses in the lists of this bucket, numbered in the order of their first occurrence.
    numbers: HashMap<IpAddr, u32>,
    /// The index of each address's first run, by the address's number, and the end index as one more element.
    starts: Vec<usize>,
    /// The runs of the valid lists, sorted by address number, then time.
    runs: Vec<Run>,
    /// The first and last evidence time of the valid lists, which may be outside the bucket's own span.
    pub(super) range: Option<(Timestamp, Timestamp)>,
}

impl Bucket {
    /// Adds a list, which is not evaluated yet.
    pub(super) fn insert(&mut self, list: &List, origin: Arc<Path>, serial: u64) {
        let mut numbered: Vec<(u32, Timestamp)> = Vec::with_capacity(list.sightings().len());
        for &(address, seen) in list.sightings() {
            let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
            numbered.push((*self.numbers.entry(address).or_insert(next), seen));
        }
        numbered.sort_unstable();
        let entry = Entry {
            time: list.time(),
            as_of: list.as_of(),
            version: Version::new(origin, serial),
            distinct: Family::ALL.map(|family| list.distinct(family)),
            digest: list.digest(),
            sightings: pack(list.time(), &numbered).into(),
        };
        let at = self
            .entries
            .partition_point(|other| (other.time, other.version.serial) <= (entry.time, serial));
        self.entries.insert(at, entry);
    }

    /// Merges the sightings of the valid lists again.
    pub(super) fn rebuild(&mut self, window: i64) {
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); self.numbers.len()];
        self.range = None;
        for entry in self.entries.iter().filter(|entry| entry.version.is_valid()) {
            for (number, seen) in entry.sightings() {
                if let Some(runs) = runs.get_mut(number as usize) {
                    extend(runs, seen, window);
                }
                let (first, last) = self.range.unwrap_or((seen, seen));
                self.range = Some((first.min(seen), last.max(seen)));
            }
        }
        self.starts.clear();
        self.runs.clear();
        for of_address in runs {
            self.starts.push(self.runs.len());
            self.runs.extend(of_address);
        }
        self.starts.push(self.runs.len());
        self.runs.shrink_to_fit();
    }

    /// `Before` if there is evidence in `(since, at]`, else `After` if there is evidence in `(at, until]`.
    pub(super) fn near(
        &self,
        address: IpAddr,
        since: Timestamp,
        at: Timestamp,
        until: Timestamp,
    ) -> Near {
        let Some(&number) = self.numbers.get(&address) else { return Near::None };
        let number = number as usize;
        let (Some(&start), Some(&end)) = (self.starts.get(number), self.starts.get(number + 1))
        else {
            return Near::None;
        };
        let runs = &self.runs[start..end];
        let begun = runs.partition_point(|run| run.first <= at);
        if begun > 0 && runs[begun - 1].last > since {
            Near::Before
        } else if runs.get(begun).is_some_and(|run| run.first <= until) {
            Near::After
        } else {
            Near::None
        }
    }

    /// The addresses by their numbers.
    pub(super) fn addresses(&self) -> Vec<Option<IpAddr>> {
        let mut addresses = vec![None; self.numbers.len()];
        for (&address, &number) in &self.numbers {
            if let Some(place) = addresses.get_mut(number as usize) {
                *place = Some(address);
            }
        }
        addresses
    }

    /// The times at which an entry of this bucket saw the address.
    pub(super) fn seen_by<'a>(
        &'a self,
        entry: &'a Entry,
        address: IpAddr,
    ) -> impl Iterator<Item = Timestamp> + 'a {
        let number = self.numbers.get(&address).copied();
        entry.sightings().filter(move |&(other, _)| Some(other) == number).map(|(_, seen)| seen)
    }
}

/// Adds a time to sorted runs, which are separated by more than the window.
fn extend(runs: &mut Vec<Run>, seen: Timestamp, window: i64) {
    let at = runs.partition_point(|run| seen.micros_since(run.last) > window);
    match runs.get_mut(at) {
        Some(run) if run.first.micros_since(seen) <= window => {
            run.first = run.first.min(seen);
            run.last = run.last.max(seen);
            let last = run.last;
            // The time may have closed the gap to the next run.
            if let Some(&next) = runs.get(at + 1)
                && next.first.micros_since(last) <= window
            {
                runs[at].last = last.max(next.last);
                runs.remove(at + 1);
            }
        }
        _ => runs.insert(at, Run { first: seen, last: seen }),
    }
}

/// Packs sightings, sorted by number: for each the difference from the previous number, and its age relative to the
/// list. The first mostly takes one byte; the second takes one to three, because a scan's times are whole seconds.
fn pack(time: Timestamp, sightings: &[(u32, Timestamp)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sightings.len() * 2);
    let mut before = 0;
    for &(number, seen) in sightings {
        let age = time.micros_since(seen);
        // The lowest bit says whether an age follows. It does not for a snapshot, whose sightings have the list's own time.
        write(&mut bytes, u64::from(number - before) << 1 | u64::from(age != 0));
        if age != 0 {
            let whole_seconds = age % 1_000_000 == 0;
            let value = if whole_seconds { age / 1_000_000 } else { age };
            write(&mut bytes, zigzag(value) << 1 | u64::from(whole_seconds));
        }
        before = number;
    }
    bytes
}

fn unpack(time: Timestamp, mut bytes: &[u8]) -> impl Iterator<Item = (u32, Timestamp)> + '_ {
    let mut number = 0_u32;
    std::iter::from_fn(move || {
        let step = read(&mut bytes)?;
        number = number.wrapping_add(u32::try_from(step >> 1).ok()?);
        if step & 1 == 0 {
            return Some((number, time));
        }
        let age = read(&mut bytes)?;
        let value = unzigzag(age >> 1);
        let micros = if age & 1 == 1 { value * 1_000_000 } else { value };
        Some((number, Timestamp::from_micros(time.as_micros() - micros)))
    })
}

/// Maps numbers of small magnitude to small unsigned numbers. The top bit stays free, because a time in microseconds up
/// to the year 9999 needs 59 bits.
const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// LEB128: seven bits per byte, the lowest first; the top bit is set if more bytes follow.
fn write(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push((value & 0x7f) as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_unpacks(
            time in -1_000_000_000_000_000_i64..253_402_300_799_999_999,
            mut sightings in proptest::collection::vec((0_u32.., prop_oneof![
                Just(None),
                (-200_000_i64..200_000).prop_map(|age| Some(age * 1_000_000)),
                (-200_000_000_000_i64..200_000_000_000).prop_map(Some),
            ]), 0..40),
        ) {
            sightings.sort_unstable();
            let time = Timestamp::from_micros(time);
            let sightings: Vec<_> = sightings.into_iter().map(|(number, age)| (number, Timestamp::from_micros(time.as_micros() - age.unwrap_or(0)))).collect();
            let packed = pack(time, &sightings);
            prop_assert_eq!(unpack(time, &packed).collect::<Vec<_>>(), sightings);
        }

        #[test]
        fn runs_do_not_depend_on_the_order(times in proptest::collection::vec(0_i64..300, 1..30), window in 0_i64..40) {
            let build = |times: &[i64]| {
                let mut runs = Vec::new();
                for &time in times {
                    extend(&mut runs, Timestamp::from_micros(time), window);
                }
                runs
            };
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let runs = build(&times);
            prop_assert_eq!(&runs, &build(&sorted));
            prop_assert!(runs.windows(2).all(|pair| pair[1].first.micros_since(pair[0].last) > window));
        }
    }

    #[test]
    fn a_snapshot_takes_a_byte_an_address() {
        let time = Timestamp::from_micros(9);
        let sightings: Vec<_> = (0..1_500).map(|number| (number, time)).collect();
        assert_eq!(pack(time, &sightings).len(), 1_500);
    }
}
