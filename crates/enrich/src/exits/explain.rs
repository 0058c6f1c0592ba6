//! Why a verdict is what it is: the evidence and the lists that decided (`tor explain`).

use std::net::IpAddr;
use std::path::PathBuf;

use model::{Timestamp, TorReason};

use super::ExitHistory;
use super::bucket::State;
use crate::address::{self, Parsed};
use crate::{Family, Source, tor};

/// That a source saw the address as an exit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    /// When: a line's scan, a snapshot's or a database's own time.
    pub time: Timestamp,
    /// Which source.
    pub source: Source,
    /// The list or database that says so; of several the first by time.
    pub path: PathBuf,
}

/// That a valid list or database covers the time, for the address's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Covering {
    /// The list's time; an exit list is no newer than its newest scan.
    pub time: Timestamp,
    /// Which source.
    pub source: Source,
}

/// A verdict on an address with what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// True, false or not determined.
    pub tor: Option<bool>,
    /// The rule that decided, by its reason.
    pub reason: TorReason,
    /// What the address is worth; `Debug` does not show it.
    pub address: Parsed,
    /// Evidence within the spans that count, `(T − w, T + settle_after]`, by time.
    pub evidence: Vec<Evidence>,
    /// What covers the time, by time.
    pub covering: Vec<Covering>,
    /// The newest valid list or database of all.
    pub evidence_until: Option<Timestamp>,
    /// Whether later lists can no longer change the verdict.
    pub settled: bool,
}

impl ExitHistory {
    /// Explains the verdict on an address at a time, without an edge's verdict. Slow: it looks through the lists.
    #[must_use]
    pub fn explain(&self, address: &str, at: Timestamp) -> Explanation {
        let address = address::parse(address);
        let reason = tor::decide(Some(address), false, at, self);
        let tor = reason.verdict();
        let (evidence, covering) = match address {
            Parsed::Global(address) => {
                (self.evidence(address, at), self.covering_at(Family::of(address), at))
            }
            Parsed::NotGlobal(_) | Parsed::Unusable => Default::default(),
        };
        let settled = tor == Some(true) || tor::is_settled(reason, at, self);
        let evidence_until = self.evidence_until();
        Explanation { tor, reason, address, evidence, covering, evidence_until, settled }
    }

    fn evidence(&self, address: IpAddr, at: Timestamp) -> Vec<Evidence> {
        let rules = self.rules();
        let until = at.after(rules.settle_after);
        let since = at.before(rules.window);
        let mut found = Vec::new();
        for lists in self.lists() {
            for bucket in lists.slots_within(since, until) {
                let valid = bucket.entries.iter().filter(|entry| entry.state == State::Valid);
                for entry in valid {
                    let seen = bucket.seen_by(entry, address);
                    let counting = seen.filter(|&time| time > since && time <= until);
                    found.extend(counting.map(|time| {
                        let path = entry.origin.to_path_buf();
                        (entry.time, Evidence { time, source: lists.source(), path })
                    }));
                }
            }
        }
        let since = at.before(rules.max_age);
        found.extend(self.databases.naming(address, since, until).map(|(time, origin)| {
            let path = origin.to_path_buf();
            (time, Evidence { time, source: Source::AnonymousIp, path })
        }));
        // The same sighting stands in many lists; the first of them is named.
        found.sort_by(|(listed_a, a), (listed_b, b)| {
            (a.time, a.source, listed_a, &a.path).cmp(&(b.time, b.source, listed_b, &b.path))
        });
        let mut evidence: Vec<Evidence> = found.into_iter().map(|(_, evidence)| evidence).collect();
        evidence.dedup_by_key(|evidence| (evidence.time, evidence.source));
        evidence
    }

    fn covering_at(&self, family: Family, at: Timestamp) -> Vec<Covering> {
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
