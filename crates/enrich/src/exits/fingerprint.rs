//! The fingerprint of a history, a text that is stored with the positions whose verdicts were evaluated with it.

use model::Timestamp;
use sha2::{Digest, Sha256};

use super::ExitHistory;
use super::lists::ListHistory;
use crate::Source;

impl ExitHistory {
    /// A fingerprint of the set of valid lists and databases: the time of the newest in microseconds since 1970, `-`,
    /// and a hash of their times and contents. `None` without any valid list or database.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        self.evidence_until.map(|until| self.fingerprint_until(until))
    }

    /// From when this history may have evidence that the history with this fingerprint lacked, of a time for which that one had
    /// evidence; verdicts that it settled may change from `tor.settle_after` before that. `None` if it has all evidence of that
    /// history and otherwise only newer evidence. The epoch if evidence was taken away, changed or added in between, and for an
    /// invalid fingerprint.
    #[must_use]
    pub fn differs_since(&self, fingerprint: &str) -> Option<Timestamp> {
        let epoch = Timestamp::from_micros(0);
        let until = fingerprint.rsplit_once('-').and_then(|(until, _)| until.parse().ok());
        let Some(until) = until.map(Timestamp::from_micros) else { return Some(epoch) };
        if self.fingerprint_until(until) != fingerprint {
            return Some(epoch);
        }
        // A newer list of a source that was behind the others has evidence since the list before it.
        let since = |source: Source| {
            let times = || self.known().filter(|own| own.0 == source).map(|(_, time, _)| time);
            let before = times().filter(|&time| time <= until).max().unwrap_or(epoch);
            (before < until && times().any(|time| time > until)).then_some(before)
        };
        Source::ALL.into_iter().filter_map(since).min()
    }

    /// Source, time and digest of every valid list and database.
    fn known(&self) -> impl Iterator<Item = (Source, Timestamp, u64)> {
        self.lists().into_iter().flat_map(ListHistory::known).chain(self.databases.known())
    }

    fn fingerprint_until(&self, until: Timestamp) -> String {
        let mut known: Vec<_> = self.known().collect();
        known.retain(|&(_, time, _)| time <= until);
        known.sort_unstable();
        // A scanner that has stopped has its old list published again, which is not new evidence.
        known.dedup();
        let mut hash = Sha256::new();
        for (source, time, digest) in known {
            hash.update([source as u8]);
            hash.update(time.as_micros().to_be_bytes());
            hash.update(digest.to_be_bytes());
        }
        let digest: String =
            hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", until.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::path::Path;

    use super::*;
    use crate::{TorRules, format};

    const HOUR: i64 = 3_600_000_000;

    /// A history with lists of these hours; each list has the first `addresses` addresses.
    fn history(lists: &[(i64, u8)]) -> ExitHistory {
        let lists: Vec<_> = lists.iter().map(|&(hour, count)| (hour, 1..=count)).collect();
        history_of(&lists)
    }

    /// A history with lists of these hours and addresses.
    fn history_of(lists: &[(i64, RangeInclusive<u8>)]) -> ExitHistory {
        let mut update = ExitHistory::new(TorRules::default()).update();
        for (number, (hour, addresses)) in lists.iter().enumerate() {
            let text: Vec<String> =
                addresses.clone().map(|last| format!("185.220.100.{last}")).collect();
            let time = Timestamp::from_micros(hour * HOUR);
            let list = format::snapshot(text.join("\n").as_bytes(), time).unwrap();
            update.snapshot(&list, Path::new(&number.to_string()));
        }
        update.finish(Timestamp::from_micros(1_000 * HOUR)).0
    }

    #[test]
    fn only_newer_lists_extend_what_was_known() {
        let known = history(&[(10, 60), (20, 60)]);
        let fingerprint = known.fingerprint().unwrap();
        let extended_by = |lists| history(lists).differs_since(&fingerprint).is_none();
        assert!(extended_by(&[(10, 60), (20, 60)]));
        assert!(extended_by(&[(20, 60), (30, 60), (10, 60), (40, 70)]));
        assert!(!extended_by(&[(10, 60), (15, 60), (20, 60)]), "an older one came");
        assert!(!extended_by(&[(20, 60), (30, 60)]), "one was taken away");
        assert!(!extended_by(&[(10, 60), (20, 61)]), "one has another content");
        assert!(!extended_by(&[(10, 60)]), "the newest was taken away");
        assert!(!extended_by(&[]));
        assert_eq!(history(&[]).fingerprint(), None);
    }

    #[test]
    fn another_address_is_another_list_of_the_same_size() {
        let known = history_of(&[(10, 1..=60), (20, 1..=60)]);
        let fingerprint = known.fingerprint().unwrap();
        for other in [[(10, 1..=60), (20, 2..=61)], [(10, 2..=61), (20, 1..=60)]] {
            assert!(history_of(&other).differs_since(&fingerprint).is_some(), "{other:?}");
            let fingerprint = history_of(&other).fingerprint().unwrap();
            assert!(known.differs_since(&fingerprint).is_some(), "{other:?}");
        }
        let second = [(10, 1..=60), (20, 1..=60), (20, 2..=61)];
        assert!(
            history_of(&second).differs_since(&fingerprint).is_some(),
            "another of the same time"
        );
        let twice = [(10, 1..=60), (20, 1..=60), (20, 1..=60)];
        assert_eq!(history_of(&twice).fingerprint().unwrap(), fingerprint, "the same list twice");
    }

    /// The newest list known was of another source, and the exit list before it is older.
    #[test]
    fn a_newer_list_of_a_source_that_was_behind_has_older_evidence() {
        let with = |exit_lists: &[i64], snapshots: &[i64]| {
            let mut update = ExitHistory::new(TorRules::default()).update();
            let text: Vec<String> = (1..=60).map(|last| format!("185.220.100.{last}")).collect();
            for (number, hour) in snapshots.iter().enumerate() {
                let time = Timestamp::from_micros(hour * HOUR);
                let list = format::snapshot(text.join("\n").as_bytes(), time).unwrap();
                update.snapshot(&list, Path::new(&number.to_string()));
            }
            for (number, hour) in exit_lists.iter().enumerate() {
                let node = |last| {
                    format!(
                        "ExitNode {last:040}\nExitAddress 185.220.100.{last} 1970-01-01 {hour:02}:00:00\n"
                    )
                };
                let text: String = (1..=60).map(node).collect();
                let time = Timestamp::from_micros(hour * HOUR);
                let list = format::exit_list(text.as_bytes(), time).unwrap();
                update.exit_list(&list, Path::new(&number.to_string()));
            }
            update.finish(Timestamp::from_micros(1_000 * HOUR)).0
        };
        let fingerprint = with(&[10], &[11, 12]).fingerprint().unwrap();
        let since = |exit_lists, snapshots| with(exit_lists, snapshots).differs_since(&fingerprint);
        let at = |hour| Some(Timestamp::from_micros(hour * HOUR));
        assert_eq!(since(&[10], &[11, 12]), None);
        assert_eq!(since(&[10], &[11, 12, 13]), None);
        assert_eq!(since(&[10, 14], &[11, 12]), at(10));
        assert_eq!(since(&[10, 11], &[11, 12]), at(0), "it is older than what was known");
    }

    #[test]
    fn what_is_no_mark_says_nothing() {
        let known = history(&[(10, 60)]);
        for fingerprint in ["", "-", "36000000000", "36000000000-", "x-0", "-1-0"] {
            let epoch = Some(Timestamp::from_micros(0));
            assert_eq!(known.differs_since(fingerprint), epoch, "{fingerprint}");
        }
    }
}
