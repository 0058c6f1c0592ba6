//! Anonymous IP databases over time.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Timestamp;

use super::change::Change;
use super::lists::MAX_CLOCK_SKEW;
use super::version::{State, Version, outdated};
use super::{Near, any_within};
use crate::{Database, Family, Refusal, Refused, Source};

#[derive(Clone)]
struct Entry {
    database: Arc<Database>,
    version: Version,
}

#[derive(Clone, Default)]
pub(super) struct DatabaseHistory {
    /// Sorted by build epoch, then serial.
    entries: Vec<Entry>,
    /// The valid databases, sorted by build epoch.
    valid: Vec<Arc<Database>>,
    /// By family, the times of the valid databases that cover it, sorted.
    covering: [Vec<Timestamp>; 2],
    serial: u64,
}

impl DatabaseHistory {
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.valid.last().map(|database| database.time())
    }

    pub(super) fn valid(&self) -> usize {
        self.valid.len()
    }

    /// Source, time and digest of the valid databases.
    pub(super) fn known(&self) -> impl Iterator<Item = (Source, Timestamp, u64)> {
        self.valid.iter().map(|one| (Source::AnonymousIp, one.time(), one.digest()))
    }

    pub(super) fn covering(&self, family: Family) -> &[Timestamp] {
        &self.covering[family as usize]
    }

    pub(super) fn covers(&self, family: Family, since: Timestamp, until: Timestamp) -> bool {
        any_within(self.covering(family), since, until)
    }

    pub(super) fn near(
        &self,
        address: IpAddr,
        since: Timestamp,
        at: Timestamp,
        until: Timestamp,
    ) -> Near {
        let mut near = Near::None;
        for database in self.within(since, until).filter(|database| database.contains(address)) {
            near = near.max(if database.time() <= at { Near::Before } else { Near::After });
        }
        near
    }

    /// The valid databases built in `(since, until]`.
    fn within(&self, since: Timestamp, until: Timestamp) -> impl Iterator<Item = &Arc<Database>> {
        let begin = self.valid.partition_point(|database| database.time() <= since);
        self.valid[begin..].iter().take_while(move |database| database.time() <= until)
    }

    /// Time and origin of the valid databases in `(since, until]` that contain an address.
    pub(super) fn containing(
        &self,
        address: IpAddr,
        since: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, &Arc<Path>)> {
        self.entries
            .iter()
            .filter(|entry| entry.version.is_valid())
            .filter(move |entry| entry.database.time() > since && entry.database.time() <= until)
            .filter(move |entry| entry.database.contains(address))
            .map(|entry| (entry.database.time(), &entry.version.origin))
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn insert(&mut self, database: Database, origin: Arc<Path>) {
        self.serial += 1;
        let version = Version::new(origin, self.serial);
        self.entries.push(Entry { database: Arc::new(database), version });
        self.entries.sort_by_key(|entry| (entry.database.time(), entry.version.serial));
    }

    /// Evaluates the databases at the clock's time `now`, and drops removed ones and outdated versions. As for lists,
    /// the newest version of an origin is kept, and the newest valid one.
    pub(super) fn finish(
        &mut self,
        now: Timestamp,
        removed: &HashSet<PathBuf>,
        known: u64,
    ) -> Change {
        let mut change = Change::default();
        let latest = now.after(MAX_CLOCK_SKEW);
        for entry in &mut self.entries {
            let ahead = entry.database.time() > latest;
            let refused = State::Refused(Refusal::AheadOfClock);
            entry.version.state = if ahead { refused } else { State::Valid };
        }
        let outdated = outdated(self.entries.iter().map(|entry| &entry.version));
        self.entries.retain(|Entry { version, .. }| {
            let gone = outdated.contains(&version.serial) || version.is_removed(removed, known);
            change.changed |= gone && version.before == State::Valid;
            !gone
        });
        // A database that is read again is not new evidence.
        let known: HashSet<_> = self.known().collect();
        for Entry { database, version } in &mut self.entries {
            let (time, digest) = (database.time(), database.digest());
            if version.became_valid() && !known.contains(&(Source::AnonymousIp, time, digest)) {
                change.has_new(time);
            }
            change.changed |= version.record_change(Source::AnonymousIp, &mut change);
        }
        if change.changed {
            self.index();
        }
        change
    }

    fn index(&mut self) {
        let valid = self.entries.iter().filter(|entry| entry.version.is_valid());
        self.valid = valid.map(|entry| Arc::clone(&entry.database)).collect();
        self.covering = Family::ALL.map(|family| {
            let covering = self.valid.iter().filter(|database| database.covers(family));
            covering.map(|database| database.time()).collect()
        });
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        self.entries.iter().filter_map(|entry| entry.version.refused(Source::AnonymousIp))
    }
}
