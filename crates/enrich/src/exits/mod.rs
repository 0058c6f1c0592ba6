//! The index over time: the addresses seen as exits, their times and sources, and the times that are covered.
//!
//! Evidence times of an address with gaps no longer than the window are merged into a run `(first, last)`. This loses
//! no information: T has evidence in `(T − w, T]` exactly if a run has `first ≤ T` and `last > T − w` (within a run the
//! evidence before T is nearer than w). Otherwise the next evidence after T is the `first` of a run.
//!
//! A history is a function of the set of lists that were added, of the rules and of the time of the last
//! [`Update::finish`]; the order in which lists were added does not matter. To achieve that, every list is kept,
//! packed, and all lists are evaluated again, in the order of their times, whenever the set changes: an older list that
//! is added late may make a newer list invalid, or valid again.

mod bucket;
mod change;
mod coverage;
mod databases;
mod fingerprint;
mod lists;
mod sightings;
mod update;
mod version;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use model::Timestamp;

use crate::{Family, Source, TorRules};
pub use change::Change;
pub use coverage::{DayCoverage, Span};
use databases::DatabaseHistory;
use lists::ListHistory;
pub use sightings::{Covering, Evidence};
pub use update::Update;

/// Evidence over time. Cloning is cheap, because parts are shared. [`Self::update`] changes a copy.
#[derive(Clone)]
pub struct ExitHistory {
    rules: Arc<TorRules>,
    exit_lists: ListHistory,
    snapshots: ListHistory,
    databases: DatabaseHistory,
    evidence_until: Option<Timestamp>,
}

/// The evidence about a global address at a time, without the edge's verdict and the configured prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Rule 2: an exit, by the first source of the table that has the address.
    Exit(Source),
    /// Rule 3: seen as an exit just afterwards.
    ListedAfter,
    /// Rule 4: the time is covered, and no list has the address.
    NotListed,
    /// Rule 5: the time is not covered.
    NoCoverage,
}

/// Where a source's evidence is, relative to a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Near {
    None,
    After,
    Before,
}

impl ExitHistory {
    /// A history without evidence.
    #[must_use]
    pub fn new(rules: TorRules) -> Self {
        Self {
            exit_lists: ListHistory::new(Source::ExitList),
            snapshots: ListHistory::new(Source::Snapshot),
            databases: DatabaseHistory::default(),
            evidence_until: None,
            rules: Arc::new(rules),
        }
    }

    /// The rules of this history. They cannot be changed, because the runs depend on them.
    #[must_use]
    pub fn rules(&self) -> &TorRules {
        &self.rules
    }

    /// The time of the newest valid list or database of any source; `None` without any. Here and below, the time of an
    /// exit list is at most that of its newest scan.
    #[must_use]
    pub const fn evidence_until(&self) -> Option<Timestamp> {
        self.evidence_until
    }

    /// The time of the newest valid list or database of a source; the clock minus this is `exit_list_age_seconds`.
    #[must_use]
    pub fn newest(&self, source: Source) -> Option<Timestamp> {
        match source {
            Source::ExitList => self.exit_lists.newest(),
            Source::Snapshot => self.snapshots.newest(),
            Source::AnonymousIp => self.databases.newest(),
        }
    }

    /// The number of valid lists or databases of a source.
    #[must_use]
    pub fn valid(&self, source: Source) -> usize {
        match source {
            Source::ExitList => self.exit_lists.valid(),
            Source::Snapshot => self.snapshots.valid(),
            Source::AnonymousIp => self.databases.valid(),
        }
    }

    /// Applies rules 2 to 5 to a canonical, global address (crates/enrich/README.md, Rules).
    #[must_use]
    pub fn find(&self, address: IpAddr, at: Timestamp) -> Finding {
        let rules = &*self.rules;
        let until = at.after(rules.settle_after);
        let since = at.before(rules.window);
        let mut after = false;
        for lists in [&self.exit_lists, &self.snapshots] {
            match lists.near(address, since, at, until) {
                Near::Before => return Finding::Exit(lists.source()),
                near => after |= near == Near::After,
            }
        }
        match self.databases.near(address, at.before(rules.max_age), at, until) {
            Near::Before => return Finding::Exit(Source::AnonymousIp),
            near => after |= near == Near::After,
        }
        if after {
            Finding::ListedAfter
        } else if self.covers(Family::of(address), at) {
            Finding::NotListed
        } else {
            Finding::NoCoverage
        }
    }

    /// Whether a valid list or database that covers the family has a time in `[T − c, T + settle_after]`; for databases
    /// c is `max_age`.
    #[must_use]
    pub fn covers(&self, family: Family, at: Timestamp) -> bool {
        let rules = &*self.rules;
        let until = at.after(rules.settle_after);
        let since = at.before(rules.coverage);
        self.exit_lists.covers(family, since, until)
            || self.snapshots.covers(family, since, until)
            || self.databases.covers(family, at.before(rules.max_age), until)
    }

    /// Begins an update of a copy; this history does not change.
    #[must_use]
    pub fn update(&self) -> Update {
        Update::new(self.clone())
    }

    fn lists(&self) -> [&ListHistory; 2] {
        [&self.exit_lists, &self.snapshots]
    }
}

impl fmt::Debug for ExitHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never print addresses.
        f.debug_struct("ExitHistory")
            .field("exit_lists", &self.valid(Source::ExitList))
            .field("snapshots", &self.valid(Source::Snapshot))
            .field("databases", &self.valid(Source::AnonymousIp))
            .field("evidence_until", &self.evidence_until)
            .finish()
    }
}

/// Whether any of the sorted times is in `[since, until]`.
fn any_within(times: &[Timestamp], since: Timestamp, until: Timestamp) -> bool {
    times.get(times.partition_point(|&time| time < since)).is_some_and(|&time| time <= until)
}
