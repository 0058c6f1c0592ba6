//! Anonymous IP databases over time.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Timestamp;

use super::bucket::State;
use super::change::Change;
use super::lists::AHEAD;
use super::{Near, any_within};
use crate::{Database, Family, Refusal, Refused, Source};

#[derive(Clone)]
struct Entry {
    database: Arc<Database>,
    origin: Arc<Path>,
    serial: u64,
    state: State,
    before: State,
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
    pub(super) fn naming(
        &self,
        address: IpAddr,
        since: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, &Arc<Path>)> {
        self.entries
            .iter()
            .filter(|entry| entry.state == State::Valid)
            .filter(move |entry| entry.database.time() > since && entry.database.time() <= until)
            .filter(move |entry| entry.database.contains(address))
            .map(|entry| (entry.database.time(), &entry.origin))
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn insert(&mut self, database: Database, origin: Arc<Path>) {
        self.serial += 1;
        let entry = Entry {
            database: Arc::new(database),
            origin,
            serial: self.serial,
            state: State::New,
            before: State::New,
        };
        self.entries.push(entry);
        self.entries.sort_by_key(|entry| (entry.database.time(), entry.serial));
    }

    /// Evaluates the databases at the clock's time `now`, and drops removed ones. As for lists, drops replaced versions
    /// if a valid version has taken their place.
    pub(super) fn finish(
        &mut self,
        now: Timestamp,
        removed: &HashSet<PathBuf>,
        known: u64,
    ) -> Change {
        let mut change = Change::default();
        let latest = now.after(AHEAD);
        for entry in &mut self.entries {
            let ahead = entry.database.time() > latest;
            entry.state = if ahead { State::Refused(Refusal::AheadOfClock) } else { State::Valid };
        }
        let outdated = self.outdated();
        self.entries.retain(|entry| {
            let gone = outdated.contains(&entry.serial)
                || (entry.serial <= known && removed.contains(&*entry.origin));
            change.changed |= gone && entry.before == State::Valid;
            !gone
        });
        for entry in self.entries.iter_mut().filter(|entry| entry.state != entry.before) {
            change.changed |= State::Valid == entry.state || State::Valid == entry.before;
            match entry.state {
                State::Valid => change.became_valid(entry.database.time()),
                State::Refused(reason) => change.refused.push(Refused {
                    source: Source::AnonymousIp,
                    path: entry.origin.to_path_buf(),
                    reason,
                }),
                State::New => {}
            }
            entry.before = entry.state;
        }
        if change.changed {
            self.index();
        }
        change
    }

    fn outdated(&self) -> HashSet<u64> {
        let mut outdated = HashSet::new();
        for entry in &self.entries {
            let newer = self
                .entries
                .iter()
                .filter(|other| other.origin == entry.origin && other.serial > entry.serial);
            let (mut is_current, mut is_superseded) = (true, false);
            for other in newer {
                is_current = false;
                is_superseded |= other.state == State::Valid;
            }
            if !is_current && (is_superseded || entry.state != State::Valid) {
                outdated.insert(entry.serial);
            }
        }
        outdated
    }

    fn index(&mut self) {
        let valid = self.entries.iter().filter(|entry| entry.state == State::Valid);
        self.valid = valid.map(|entry| Arc::clone(&entry.database)).collect();
        self.covering = Family::ALL.map(|family| {
            let covering = self.valid.iter().filter(|database| database.covers(family));
            covering.map(|database| database.time()).collect()
        });
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        self.entries.iter().filter_map(|entry| match entry.state {
            State::Refused(reason) => Some(Refused {
                source: Source::AnonymousIp,
                path: entry.origin.to_path_buf(),
                reason,
            }),
            State::Valid | State::New => None,
        })
    }
}
