//! The index over time: which addresses were seen as exits, when, by which source, and which times are covered.
//!
//! Evidence times of an address that lie no further apart than the window are merged into a run `(first, last)`. Nothing
//! is lost by that: T has evidence in `(T − w, T]` exactly when a run has `first ≤ T` and `last > T − w` (within a run the
//! evidence before T is nearer than w), and where it has none, the next evidence after T is the `first` of a run.
//!
//! What a history says is a function of the set of lists that were given to it, of the rules and of the time of the last
//! [`Update::finish`]; the order in which lists came plays no part. To that end every list is kept, packed, and all are
//! evaluated again, in the order of their times, whenever the set changes: an older list that comes late may take away the
//! validity of a newer one, or give it back.

mod bucket;
mod coverage;
mod databases;
mod explain;
mod lists;
mod mark;
mod update;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use model::Timestamp;

use crate::{Family, Source, TorRules};
pub use coverage::{DayCoverage, Span};
use databases::DatabaseHistory;
pub use explain::{Covering, Evidence, Explanation};
use lists::ListHistory;
pub use update::{Change, Update};

/// Evidence over time. Cloning is cheap (parts are shared); it is extended aside, by [`Self::update`].
#[derive(Clone)]
pub struct ExitHistory {
    rules: Arc<TorRules>,
    exit_lists: ListHistory,
    snapshots: ListHistory,
    databases: DatabaseHistory,
    evidence_until: Option<Timestamp>,
}

/// What the evidence says about a global address at a time, before the edge and the prefixes have their say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Rule 2: an exit, by the first source of the table's order that says so.
    Exit(Source),
    /// Rule 3: seen as an exit just afterwards.
    ListedAfter,
    /// Rule 4: the time is covered, and nothing names the address.
    NotListed,
    /// Rule 5.
    NoCoverage,
}

/// Where the evidence of one source lies, seen from a time.
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

    /// The rules it was made with. They cannot be changed: the runs are merged by them.
    #[must_use]
    pub fn rules(&self) -> &TorRules {
        &self.rules
    }

    /// The time of the newest valid list or database, of any source; none without any. An exit list is no newer than its
    /// newest scan, here and below.
    #[must_use]
    pub const fn evidence_until(&self) -> Option<Timestamp> {
        self.evidence_until
    }

    /// The time of the newest valid list or database of a source; `exit_list_age_seconds` is the clock less this.
    #[must_use]
    pub fn newest(&self, source: Source) -> Option<Timestamp> {
        match source {
            Source::ExitList => self.exit_lists.newest(),
            Source::Snapshot => self.snapshots.newest(),
            Source::AnonymousIp => self.databases.newest(),
        }
    }

    /// How many lists or databases of a source are valid.
    #[must_use]
    pub fn valid(&self, source: Source) -> usize {
        match source {
            Source::ExitList => self.exit_lists.valid(),
            Source::Snapshot => self.snapshots.valid(),
            Source::AnonymousIp => self.databases.valid(),
        }
    }

    /// Rules 2 to 5 for a canonical, global address (crates/enrich/README.md, Rules).
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
    /// `max_age` stands for c.
    #[must_use]
    pub fn covers(&self, family: Family, at: Timestamp) -> bool {
        let rules = &*self.rules;
        let until = at.after(rules.settle_after);
        let since = at.before(rules.coverage);
        self.exit_lists.covers(family, since, until)
            || self.snapshots.covers(family, since, until)
            || self.databases.covers(family, at.before(rules.max_age), until)
    }

    /// Begins a change, aside: this history stays what it is.
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
        // Addresses are never printed.
        f.debug_struct("ExitHistory")
            .field("exit_lists", &self.valid(Source::ExitList))
            .field("snapshots", &self.valid(Source::Snapshot))
            .field("databases", &self.valid(Source::AnonymousIp))
            .field("evidence_until", &self.evidence_until)
            .finish()
    }
}

/// Whether any of the sorted times lies in `[since, until]`.
fn any_within(times: &[Timestamp], since: Timestamp, until: Timestamp) -> bool {
    times.get(times.partition_point(|&time| time < since)).is_some_and(|&time| time <= until)
}
