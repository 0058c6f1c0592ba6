//! Finds the error of a row, by comparison with the merged records of a range.
//!
//! A row is right if merging it with the range does not change it. It may be greater than the range's result, because of events
//! outside of the range. But it must not claim an event of the range and have other facts than that event. The merge rule
//! trusts the table, so it may keep a row that was altered by hand: such a row is reported, and only a person can repair it. A
//! row claims an event by its identity, its revision and a time that is not earlier: a row with a higher revision or an earlier
//! time under the same identity may be another event, of a producer that repeats its ids.

use model::{Publication, PublicationId};

use crate::commands::preview::{Difference, differences, only_of_the_evaluation};

/// A row that differs from its expected state, or that no record of the range explains.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) id: PublicationId,
    pub(super) kind: Kind,
    /// The changes from the row to its expected state; for an unproven row, to the range's result.
    pub(super) changes: Vec<Difference>,
    /// Whether merging the range's result repairs the row.
    pub(super) is_mended_by_merge: bool,
}

/// The kind of error of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Missing,
    Different,
    /// The row has the identity of an event of the range and precedes it, and no record of the range explains the row.
    Unproven,
}

impl Kind {
    /// The word that is printed.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Unproven => "unproven",
        }
    }
}

/// Compares a publication's row with `from_range`, the merged records of the range.
pub(super) fn find(from_range: &Publication, row: Option<&Publication>) -> Option<Finding> {
    let finding = |kind, changes, is_mended_by_merge| {
        Some(Finding { id: from_range.id.clone(), kind, changes, is_mended_by_merge })
    };
    let Some(row) = row else { return finding(Kind::Missing, Vec::new(), true) };
    let is_altered = claims(row, from_range) && !agrees_with_its_event(row, from_range);
    let trusted = if is_altered { as_claimed(from_range, row) } else { row.clone() };
    let expected = trusted.merge(from_range.clone());
    let changes = differences(row, &expected);
    if !only_of_the_evaluation(&changes) {
        return finding(
            Kind::Different,
            changes,
            row.clone().merge(from_range.clone()) == expected,
        );
    }
    let is_namesake = row.identity == from_range.identity && !claims(row, from_range);
    if is_namesake { finding(Kind::Unproven, differences(row, from_range), false) } else { None }
}

/// Whether the row claims to be this event. A row that precedes it by revision or time is another event.
fn claims(row: &Publication, from_range: &Publication) -> bool {
    row.identity == from_range.identity
        && row.revision == from_range.revision
        && row.info.created >= from_range.info.created
}

/// Whether a row that claims this event has the facts that follow from the event.
fn agrees_with_its_event(row: &Publication, from_range: &Publication) -> bool {
    let (a, b) = (&row.info, &from_range.info);
    // An older generation evaluated the flags by other rules.
    let same_rules = row.generation == from_range.generation;
    a.created == b.created
        && a.username == b.username
        && a.credential == b.credential
        && a.actor == b.actor
        && (!same_rules || (a.tfa, a.tfa_reason) == (b.tfa, b.tfa_reason))
        && (a.disputed
            || a.integrity.is_none()
            || b.integrity.is_none()
            || a.integrity == b.integrity)
        && tor_can_be(row, from_range)
}

/// Whether an evaluation can have produced the row's verdict on Tor: the reason fits the verdict, and with evidence up
/// to the same time the verdict is the same. With other evidence it may know more, because old lists are removed. A
/// staged version can have another reason for the same verdict: an older list may have been added since for one of its
/// acts, and the merge keeps the smaller reason.
fn tor_can_be(row: &Publication, from_range: &Publication) -> bool {
    let same_evidence = row.generation == from_range.generation
        && row.tor_evidence_until == from_range.tor_evidence_until;
    let (a, b) = (&row.info, &from_range.info);
    a.tor == a.tor_reason.verdict() && (!same_evidence || a.tor == b.tor)
}

/// The row as the event gives it, with the row's own verdict on Tor if that can be right.
fn as_claimed(from_range: &Publication, row: &Publication) -> Publication {
    let mut right = from_range.clone();
    right.info.disputed |= row.info.disputed;
    if right.info.integrity.is_none() || row.info.disputed {
        // Another event of the same revision can have supplied it.
        right.info.integrity.clone_from(&row.info.integrity);
    }
    if row.generation == from_range.generation && tor_can_be(row, from_range) {
        right.info.tor = row.info.tor;
        right.info.tor_reason = row.info.tor_reason;
        right.info.tor_settled = row.info.tor_settled;
        right.tor_evidence_until = row.tor_evidence_until;
    }
    right
}

#[cfg(test)]
mod tests {
    use model::{
        Actor, Credential, EventIdentity, PublicationInfo, TfaReason, Timestamp, TorReason,
        Username,
    };

    use super::*;

    /// The evaluated event `id` at a minute.
    fn event(id: u8, minute: i64) -> Publication {
        Publication {
            id: PublicationId::new("pg", "1.0.0").unwrap(),
            info: PublicationInfo {
                username: Username::new("brianc").ok(),
                created: Timestamp::from_millis(minute * 60_000),
                tor: Some(false),
                tfa: Some(true),
                tor_reason: TorReason::NotListed,
                tfa_reason: TfaReason::SecondFactor,
                tor_settled: true,
                credential: Credential::SessionToken,
                actor: Actor::User,
                disputed: false,
                integrity: None,
            },
            tor_evidence_until: Some(Timestamp::from_millis(0)),
            revision: 0,
            generation: 0,
            identity: EventIdentity([id; 16]),
        }
    }

    /// The finding for a row and a range of these records.
    fn find_in_range(row: &Publication, range: &[Publication]) -> Option<Finding> {
        let from_range = range.iter().cloned().reduce(Publication::merge).unwrap();
        find(&from_range, Some(row))
    }

    fn kind(row: &Publication, range: &[Publication]) -> Option<Kind> {
        find_in_range(row, range).map(|finding| finding.kind)
    }

    #[test]
    fn an_earlier_event_of_the_same_id_outside_of_the_range_is_left_alone() {
        let (earlier, later) = (event(1, 1), event(1, 10));
        let row = earlier.clone().merge(later.clone());
        assert_eq!(row.info.created, earlier.info.created);
        let found = find_in_range(&row, std::slice::from_ref(&later)).unwrap();
        assert_eq!((found.kind, found.is_mended_by_merge), (Kind::Unproven, false));
        assert_eq!(kind(&row, &[later.clone(), earlier.clone()]), None, "the range explains it");
        assert_eq!(kind(&row, std::slice::from_ref(&earlier)), None);

        // One of the two was never written. The merge repairs a row that the range does not explain otherwise.
        let found = find_in_range(&earlier, std::slice::from_ref(&later)).unwrap();
        assert_eq!((found.kind, found.is_mended_by_merge), (Kind::Different, true));
        let found = find_in_range(&later, &[earlier, later.clone()]).unwrap();
        assert_eq!((found.kind, found.is_mended_by_merge), (Kind::Different, true));
    }

    #[test]
    fn a_correction_of_the_same_id_outside_of_the_range_is_left_alone() {
        let first = event(1, 1);
        let row = Publication { revision: 1, ..event(1, 10) };
        assert_eq!(kind(&row, std::slice::from_ref(&first)), Some(Kind::Unproven));
        assert_eq!(kind(&row, &[first.clone(), row.clone()]), None);
        // The correction was never written.
        let found = find_in_range(&first, &[first.clone(), row]).unwrap();
        assert_eq!((found.kind, found.is_mended_by_merge), (Kind::Different, true));
    }

    #[test]
    fn a_row_that_says_something_else_than_the_event_it_claims_is_different() {
        let record = event(1, 1);
        let alter = |change: fn(&mut PublicationInfo)| {
            let mut row = record.clone();
            change(&mut row.info);
            row
        };
        // The flag says whether the merge rule repairs the row; otherwise it keeps the error, or marks the event as disputed.
        for (row, is_mended_by_merge) in [
            (alter(|info| info.tor = Some(true)), false),
            (alter(|info| info.tor = None), true),
            (alter(|info| (info.tor, info.tor_reason) = (Some(true), TorReason::ExitList)), false),
            (alter(|info| info.tfa_reason = TfaReason::Amr), false),
            (alter(|info| info.tfa = None), true),
            (alter(|info| info.username = Username::new("aaa").ok()), false),
            (alter(|info| info.username = Username::new("zzz").ok()), false),
            (alter(|info| info.created = Timestamp::from_millis(61_000)), false),
        ] {
            let found = find_in_range(&row, std::slice::from_ref(&record)).unwrap();
            assert_eq!(found.kind, Kind::Different, "{row:?}");
            assert_eq!(found.is_mended_by_merge, is_mended_by_merge, "{row:?}");
        }
    }

    /// For a staged version with one act that was true at once, and another that became true with an older list.
    #[test]
    fn of_two_reasons_for_one_verdict_the_merge_keeps_the_smaller() {
        let because = |tor_reason| {
            let mut row = event(1, 1);
            (row.info.tor, row.info.tor_reason) = (Some(true), tor_reason);
            row
        };
        let (edge, snapshot) = (because(TorReason::Edge), because(TorReason::Snapshot));
        assert_eq!(kind(&edge, std::slice::from_ref(&snapshot)), None);
        let found = find_in_range(&snapshot, std::slice::from_ref(&edge)).unwrap();
        assert_eq!((found.kind, found.is_mended_by_merge), (Kind::Different, true));
    }
}
