//! What an update of a history changed.

use model::Timestamp;

use crate::Refused;

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

    pub(super) fn and(mut self, other: Self) -> Self {
        self.changed |= other.changed;
        self.oldest_newly_valid =
            self.oldest_newly_valid.into_iter().chain(other.oldest_newly_valid).min();
        self.newly_valid += other.newly_valid;
        self.refused.extend(other.refused);
        self
    }
}
