//! The result of an update of a history.

use model::Timestamp;

use crate::Refused;

/// The result of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether the set of valid lists and databases changed. If so, unsettled verdicts must be evaluated again.
    pub changed: bool,
    /// The time of the oldest list or database that became valid, from which settling starts (crates/enrich/README.md,
    /// Settling).
    pub oldest_newly_valid: Option<Timestamp>,
    /// The number of lists and databases that became valid.
    pub newly_valid: usize,
    /// The newly refused files and those refused for another reason than before, unsorted: to be counted and logged once.
    pub refused: Vec<Refused>,
}

impl Change {
    pub(super) fn became_valid(&mut self, time: Timestamp) {
        let oldest = self.oldest_newly_valid.map_or(time, |oldest| oldest.min(time));
        self.oldest_newly_valid = Some(oldest);
        self.newly_valid += 1;
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.changed |= other.changed;
        self.oldest_newly_valid =
            self.oldest_newly_valid.into_iter().chain(other.oldest_newly_valid).min();
        self.newly_valid += other.newly_valid;
        self.refused.extend(other.refused);
        self
    }
}
