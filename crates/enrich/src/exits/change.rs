//! The result of an update of a history.

use model::Timestamp;

use crate::Refused;

/// The result of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether the set of valid lists and databases changed. If so, unsettled verdicts must be evaluated again.
    pub changed: bool,
    /// The time of the oldest evidence that no valid list or database had before: a sighting, or the time of a list that covers a
    /// family. Verdicts on acts up to `tor.settle_after` earlier can change (crates/enrich/README.md, Settling).
    pub oldest_new_evidence: Option<Timestamp>,
    /// The newly refused files and those refused for another reason than before, unsorted: to be counted and logged once.
    pub refused: Vec<Refused>,
}

impl Change {
    /// The time of the oldest new evidence, if it is not newer than `known`, the time of the newest list or database before the update.
    /// Only such evidence concerns acts whose verdicts are settled.
    #[must_use]
    pub fn oldest_within(&self, known: Option<Timestamp>) -> Option<Timestamp> {
        self.oldest_new_evidence.filter(|&oldest| known.is_some_and(|known| oldest <= known))
    }

    /// Adds the time of evidence that no list had before.
    pub(super) fn has_new(&mut self, time: Timestamp) {
        let oldest = self.oldest_new_evidence.map_or(time, |oldest| oldest.min(time));
        self.oldest_new_evidence = Some(oldest);
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.changed |= other.changed;
        self.oldest_new_evidence =
            self.oldest_new_evidence.into_iter().chain(other.oldest_new_evidence).min();
        self.refused.extend(other.refused);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_of_the_newest_time_known_concerns_settled_verdicts() {
        let at = Timestamp::from_micros;
        let change = Change { oldest_new_evidence: Some(at(7)), ..Change::default() };
        assert_eq!(change.oldest_within(Some(at(8))), Some(at(7)));
        assert_eq!(change.oldest_within(Some(at(7))), Some(at(7)));
        assert_eq!(change.oldest_within(Some(at(6))), None);
        assert_eq!(change.oldest_within(None), None);
    }
}
