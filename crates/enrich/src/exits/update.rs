//! Changing a history, aside.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Timestamp;

use super::ExitHistory;
use super::lists::ListHistory;
use crate::{Database, List, Refused, Source};

/// What an update changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether the set of valid lists and databases changed: the sign to evaluate again what is not settled.
    pub changed: bool,
    /// The time of the oldest list or database that became valid; settling looks back from there
    /// (crates/enrich/README.md, Settling).
    pub oldest_newly_valid: Option<Timestamp>,
    /// How many lists and databases became valid.
    pub newly_valid: usize,
    /// What is refused and was not before, or for another reason, in no particular order: to be counted and named once.
    pub refused: Vec<Refused>,
}

impl Change {
    pub(super) fn became_valid(&mut self, time: Timestamp) {
        let oldest = self.oldest_newly_valid.map_or(time, |oldest| oldest.min(time));
        self.oldest_newly_valid = Some(oldest);
        self.newly_valid += 1;
    }

    fn and(mut self, other: Self) -> Self {
        self.changed |= other.changed;
        self.oldest_newly_valid =
            self.oldest_newly_valid.into_iter().chain(other.oldest_newly_valid).min();
        self.newly_valid += other.newly_valid;
        self.refused.extend(other.refused);
        self
    }
}

/// A history under change. Nothing is seen of it before [`Self::finish`], and the history it began from stays what it is.
///
/// An origin, the path of a file or of an archive's member, names a list. Another list of an origin replaces the one
/// before, but only once it is valid: a corrupt replacement never displaces a good one.
#[derive(Debug)]
pub struct Update {
    history: ExitHistory,
    removed: [HashSet<PathBuf>; 3],
    known: [u64; 3],
}

impl Update {
    pub(super) fn new(history: ExitHistory) -> Self {
        let known =
            [history.exit_lists.serial(), history.snapshots.serial(), history.databases.serial()];
        Self { history, removed: Default::default(), known }
    }

    /// Gives an exit list.
    pub fn exit_list(&mut self, list: &List, origin: impl Into<Arc<Path>>) {
        self.history.exit_lists.insert(list, origin.into());
    }

    /// Gives a snapshot.
    pub fn snapshot(&mut self, list: &List, origin: impl Into<Arc<Path>>) {
        self.history.snapshots.insert(list, origin.into());
    }

    /// Gives a database.
    pub fn database(&mut self, database: Database, origin: impl Into<Arc<Path>>) {
        self.history.databases.insert(database, origin.into());
    }

    /// Takes away what an origin held before this update began.
    pub fn remove(&mut self, source: Source, origin: &Path) {
        self.removed[source as usize].insert(origin.to_path_buf());
    }

    /// Evaluates all lists at the time of the clock, and says what changed.
    #[must_use]
    pub fn finish(self, now: Timestamp) -> (ExitHistory, Change) {
        let Self { mut history, removed: [exit_lists, snapshots, databases], known } = self;
        let rules = &*history.rules;
        let change = history.exit_lists.finish(rules, now, &exit_lists, known[0]);
        let change = change.and(history.snapshots.finish(rules, now, &snapshots, known[1]));
        let change = change.and(history.databases.finish(now, &databases, known[2]));
        let newest = Source::ALL.iter().filter_map(|&source| history.newest(source));
        history.evidence_until = newest.max();
        (history, change)
    }
}

impl ExitHistory {
    /// Every list and database that is held and refused, by source, then time.
    pub fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        self.lists().into_iter().flat_map(ListHistory::refused).chain(self.databases.refused())
    }
}
