//! The one merge rule (crates/model/README.md, Merge): which of two records of a publication is kept.
//!
//! `store::merge` implements the same rule in SQL, and the store's behaviour suite compares the two.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};

use crate::{Publication, TorReason};

impl Publication {
    /// Compares two records in the merge rule's order; `Greater` = `self` is kept. Equal only if no compared field
    /// differs, so that either may be kept. `disputed` and `integrity` are merged separately.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        // Each comparison runs only if the ones before it are equal; the first three decide most pairs.
        (self.revision.cmp(&other.revision))
            .then_with(|| other.info.created.cmp(&self.info.created))
            .then_with(|| other.identity.cmp(&self.identity))
            .then_with(|| self.generation.cmp(&other.generation))
            .then_with(|| self.tor_knowledge().cmp(&other.tor_knowledge()))
            .then_with(|| self.tor_evidence_until.cmp(&other.tor_evidence_until))
            .then_with(|| self.tie_break().cmp(&other.tie_break()))
    }

    /// Merges two records of a publication. Commutative, associative and idempotent, so that any order, grouping and
    /// repetition of the same records gives the same row.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        debug_assert_eq!(self.id, other.id, "only records of one publication are merged");
        let (mut kept, lost) =
            if self.precedence(&other) == Ordering::Less { (other, self) } else { (self, other) };
        if kept.revision == lost.revision {
            kept.info.disputed |= lost.info.disputed || kept.disagrees(&lost);
            // The smaller `integrity` of the two records, whichever record is kept; a missing one does not count.
            kept.info.integrity = kept.info.integrity.into_iter().chain(lost.info.integrity).min();
        }
        kept
    }

    fn disagrees(&self, other: &Self) -> bool {
        let differ = |(one, another)| one != another;
        self.info.created != other.info.created
            || self.info.username != other.info.username
            // A record without `integrity` disagrees with no other record.
            || self.info.integrity.as_ref().zip(other.info.integrity.as_ref()).is_some_and(differ)
    }

    /// Rule 4: within a generation a verdict only gains knowledge.
    fn tor_knowledge(&self) -> u8 {
        match (self.info.tor, self.info.tor_reason) {
            (Some(true), _) => 3,
            (None, TorReason::ListedAfter) => 2,
            (Some(false), _) => 1,
            (None, _) => 0,
        }
    }

    /// Rule 5: makes the result deterministic. The greater value is kept, hence `Reverse` where the smaller value is kept.
    fn tie_break(&self) -> impl Ord + '_ {
        let info = &self.info;
        // True is greater than false, which is greater than null.
        let tfa = match info.tfa {
            Some(true) => 2,
            Some(false) => 1,
            None => 0,
        };
        (
            Reverse(info.tor_reason),
            tfa,
            Reverse((info.tfa_reason, info.credential, info.actor)),
            Reverse(info.username.as_ref()),
            info.tor_settled,
        )
    }
}

/// Merges records until each publication occurs once, sorted by key. The databases are written in this order, because writers
/// that lock rows in the same order cannot deadlock. A publication with a single record, the usual case, is not copied.
#[must_use]
pub fn merge_all(records: &[Publication]) -> Vec<Cow<'_, Publication>> {
    let mut sorted: Vec<&Publication> = records.iter().collect();
    sorted.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let mut kept: Vec<Cow<'_, Publication>> = Vec::with_capacity(sorted.len());
    for record in sorted {
        match kept.pop_if(|last| last.id == record.id) {
            Some(same) => kept.push(Cow::Owned(same.into_owned().merge(record.clone()))),
            None => kept.push(Cow::Borrowed(record)),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    use super::*;

    fn record() -> impl Strategy<Value = Publication> {
        crate::arbitrary::publication(&["pg"])
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in record(), b in record(), c in record()) {
            prop_assert_eq!(a.clone().merge(b.clone()), b.clone().merge(a.clone()));
            prop_assert_eq!(a.clone().merge(a.clone()), a.clone());
            prop_assert_eq!(
                a.clone().merge(b.clone()).merge(c.clone()),
                a.merge(b.merge(c))
            );
        }

        #[test]
        fn only_equal_records_are_equal_in_precedence(a in record(), mut b in record()) {
            let order = a.precedence(&b);
            b.info.integrity.clone_from(&a.info.integrity);
            prop_assert_eq!(order == Ordering::Equal, a == b);
        }

        #[test]
        fn any_order_and_grouping_ends_in_the_same_row(
            records in prop::collection::vec(record(), 1..8),
            shuffled in Just(()).prop_perturb(|(), mut rng| rng.random::<u64>()),
            cut in 0..8_usize,
        ) {
            let fold = |records: &[Publication]| -> Vec<Publication> {
                merge_all(records).into_iter().map(Cow::into_owned).collect()
            };
            let whole = fold(&records);
            let mut order = records.clone();
            order.sort_by_key(|record| format!("{record:?}{shuffled}").bytes().map(u64::from).sum::<u64>() ^ shuffled);
            order.extend(records);
            let cut = cut.min(order.len());
            let (left, right) = order.split_at(cut);
            let mut grouped = fold(left);
            grouped.extend(fold(right));
            prop_assert_eq!(fold(&grouped), whole);
        }
    }

    #[test]
    fn a_higher_revision_starts_the_dispute_afresh() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let base = record().new_tree(&mut runner).unwrap().current();
        let mut other = base.clone();
        other.info.created = base.info.created.after(std::time::Duration::from_secs(1));
        let disputed = base.clone().merge(other.clone());
        assert!(disputed.info.disputed);
        assert_eq!(disputed.info.created, base.info.created, "the earlier is kept");
        other.revision = base.revision + 1;
        let corrected = disputed.merge(other.clone());
        assert_eq!(corrected, other);
    }

    #[test]
    fn the_smallest_integrity_is_kept_and_two_are_disputed() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let base = record().new_tree(&mut runner).unwrap().current();
        let with = |text: Option<&str>, revision| {
            let mut record = base.clone();
            record.info.integrity = text.map(|text| crate::Integrity::new(text).unwrap());
            record.revision = revision;
            record
        };
        let said = |record: Publication| {
            (record.info.integrity.map(|it| it.as_str().to_owned()), record.info.disputed)
        };
        let (none, a, b) = (with(None, 0), with(Some("sha512-a"), 0), with(Some("sha512-b"), 0));
        assert_eq!(said(none.clone().merge(b.clone())), (Some("sha512-b".into()), false));
        assert_eq!(said(b.clone().merge(a.clone())), (Some("sha512-a".into()), true));
        // A higher revision replaces the value, also by none.
        assert_eq!(said(b.clone().merge(a).merge(with(None, 1))), (None, false));
        assert_eq!(said(with(Some("z"), 1).merge(b)), (Some("z".into()), false));
    }
}
