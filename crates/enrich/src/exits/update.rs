//! Updates of a history.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Timestamp;

use super::ExitHistory;
use super::change::Change;
use super::lists::ListHistory;
use crate::{Database, List, Refused, Source};

/// An update of a copy of a history. The original history does not change; [`Self::finish`] returns the new one.
///
/// An origin, the path of a file or of an archive's member, identifies a list. A new list of an origin replaces the
/// previous list once it is valid, because a corrupt replacement must not displace a valid list.
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

    /// Adds an exit list.
    pub fn exit_list(&mut self, list: &List, origin: impl Into<Arc<Path>>) {
        self.history.exit_lists.insert(list, origin.into());
    }

    /// Adds a snapshot.
    pub fn snapshot(&mut self, list: &List, origin: impl Into<Arc<Path>>) {
        self.history.snapshots.insert(list, origin.into());
    }

    /// Adds a database.
    pub fn database(&mut self, database: Database, origin: impl Into<Arc<Path>>) {
        self.history.databases.insert(database, origin.into());
    }

    /// Removes the list or database that an origin had before this update began.
    pub fn remove(&mut self, source: Source, origin: &Path) {
        self.removed[source as usize].insert(origin.to_path_buf());
    }

    /// Evaluates all lists at the clock's time `now`, and returns the new history with its changes.
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
    /// Every list and database that is kept but refused, by source, then time.
    pub fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        self.lists().into_iter().flat_map(ListHistory::refused).chain(self.databases.refused())
    }
}
