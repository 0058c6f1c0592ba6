//! The state of a list or database over the versions of its file.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::Change;
use crate::{Refusal, Refused, Source};

/// The result of a validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not evaluated yet.
    New,
    Valid,
    Refused(Refusal),
}

/// One version of the list or database of an origin.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) origin: Arc<Path>,
    /// Increases with every version added; of two versions of one origin the higher serial is the current one.
    pub(super) serial: u64,
    /// The state after the last evaluation.
    pub(super) state: State,
    /// The state before the current update.
    pub(super) before: State,
}

impl Version {
    pub(super) const fn new(origin: Arc<Path>, serial: u64) -> Self {
        Self { origin, serial, state: State::New, before: State::New }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.state == State::Valid
    }

    /// Whether the update removes this version: its origin is removed, and the version existed before the update began.
    pub(super) fn is_removed(&self, removed: &HashSet<PathBuf>, known: u64) -> bool {
        self.serial <= known && removed.contains(&*self.origin)
    }

    /// Whether the update made this version valid. After [`Version::record_change`] this is `false`.
    pub(super) fn became_valid(&self) -> bool {
        self.is_valid() && self.before != State::Valid
    }

    /// Adds a new refusal to the changes of the update, and takes the present state as the state before. Returns
    /// whether the evidence has changed.
    pub(super) fn record_change(&mut self, source: Source, change: &mut Change) -> bool {
        if self.state == self.before {
            return false;
        }
        change.refused.extend(self.refused(source));
        let before = std::mem::replace(&mut self.before, self.state);
        self.is_valid() || before == State::Valid
    }

    /// The refusal of this version, if it is refused.
    pub(super) fn refused(&self, source: Source) -> Option<Refused> {
        match self.state {
            State::Refused(reason) => {
                Some(Refused { source, path: self.origin.to_path_buf(), reason })
            }
            State::Valid | State::New => None,
        }
    }
}

/// The serials of outdated versions. Of an origin with several versions, the newest is kept, and the newest valid one as
/// well, because a corrupt replacement must not displace a valid list. The others are outdated.
pub(super) fn outdated<'v>(versions: impl Iterator<Item = &'v Version>) -> HashSet<u64> {
    let mut by_origin: HashMap<&Path, Vec<&Version>> = HashMap::new();
    for version in versions {
        by_origin.entry(&version.origin).or_default().push(version);
    }
    let mut outdated = HashSet::new();
    for mut of_origin in by_origin.into_values().filter(|of_origin| of_origin.len() > 1) {
        of_origin.sort_unstable_by_key(|version| std::cmp::Reverse(version.serial));
        let kept = of_origin.iter().position(|version| version.is_valid());
        for (position, version) in of_origin.iter().enumerate() {
            if position != 0 && Some(position) != kept {
                outdated.insert(version.serial);
            }
        }
    }
    outdated
}
