//! The evidence and the lists about an address at a time. Slow, because it scans the lists.

use std::net::IpAddr;
use std::path::PathBuf;

use model::Timestamp;

use super::ExitHistory;
use crate::{Family, Source};

/// Evidence that a source saw the address as an exit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// The time of the evidence: a line's scan, a snapshot's or a database's own time.
    pub time: Timestamp,
    /// The source.
    pub source: Source,
    /// The first list or database by time that has this evidence.
    pub path: PathBuf,
}

/// A valid list or database that covers the time for the address's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Covering {
    /// The list's time; for an exit list at most that of its newest scan.
    pub time: Timestamp,
    /// The source.
    pub source: Source,
}

impl ExitHistory {
    pub(crate) fn evidence(&self, address: IpAddr, at: Timestamp) -> Vec<Evidence> {
        let rules = self.rules();
        let until = at.after(rules.settle_after);
        let since = at.before(rules.window);
        let mut found = Vec::new();
        for lists in self.lists() {
            for bucket in lists.slots_within(since, until) {
                let valid = bucket.entries.iter().filter(|entry| entry.version.is_valid());
                for entry in valid {
                    let seen = bucket.seen_by(entry, address);
                    let counting = seen.filter(|&time| time > since && time <= until);
                    found.extend(counting.map(|time| {
                        let path = entry.version.origin.to_path_buf();
                        (entry.time, Evidence { time, source: lists.source(), path })
                    }));
                }
            }
        }
        let since = at.before(rules.max_age);
        found.extend(self.databases.containing(address, since, until).map(|(time, origin)| {
            let path = origin.to_path_buf();
            (time, Evidence { time, source: Source::AnonymousIp, path })
        }));
        // Many lists have the same sighting; the result has the first of them.
        found.sort_by(|(listed_a, a), (listed_b, b)| {
            (a.time, a.source, listed_a, &a.path).cmp(&(b.time, b.source, listed_b, &b.path))
        });
        let mut evidence: Vec<Evidence> = found.into_iter().map(|(_, evidence)| evidence).collect();
        evidence.dedup_by_key(|evidence| (evidence.time, evidence.source));
        evidence
    }

    pub(crate) fn covering_at(&self, family: Family, at: Timestamp) -> Vec<Covering> {
        let rules = self.rules();
        let until = at.after(rules.settle_after);
        let mut covering = Vec::new();
        let mut take = |source, times: &[Timestamp], since: Timestamp| {
            let within = times.iter().filter(|&&time| since <= time && time <= until);
            covering.extend(within.map(|&time| Covering { time, source }));
        };
        for lists in self.lists() {
            take(lists.source(), lists.covering(family), at.before(rules.coverage));
        }
        let databases = self.databases.covering(family);
        take(Source::AnonymousIp, databases, at.before(rules.max_age));
        covering.sort_unstable();
        covering
    }
}
