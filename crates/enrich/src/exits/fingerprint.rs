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

    /// The time of the oldest evidence of this history that the history with this fingerprint lacked, if it is not newer than that
    /// history's newest list or database; verdicts that it settled may change from `tor.settle_after` before that. `None` if it has
    /// all evidence of that history and otherwise only newer evidence. The epoch if an older list or database was added, changed or
    /// taken away in between, and for an invalid fingerprint.
    #[must_use]
    pub fn differs_since(&self, fingerprint: &str) -> Option<Timestamp> {
        let epoch = Timestamp::from_micros(0);
        let until = fingerprint.rsplit_once('-').and_then(|(until, _)| until.parse().ok());
        let Some(until) = until.map(Timestamp::from_micros) else { return Some(epoch) };
        if self.fingerprint_until(until) != fingerprint {
            return Some(epoch);
        }
        // Coverage by a newer list, and a newer database, are of their own times.
        self.lists().into_iter().filter_map(|lists| lists.oldest_unknown(until)).min()
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

    /// An exit list has scans that are older than the newest list known, which may be of another source.
    #[test]
    fn a_newer_list_may_have_an_older_scan() {
        // Each exit list is of the hour of its last scan, and the first address has one more scan.
        let with = |exit_lists: &[(i64, i64)], snapshots: &[i64]| {
            let mut update = ExitHistory::new(TorRules::default()).update();
            let text: Vec<String> = (1..=60).map(|last| format!("185.220.100.{last}")).collect();
            for (number, hour) in snapshots.iter().enumerate() {
                let time = Timestamp::from_micros(hour * HOUR);
                let list = format::snapshot(text.join("\n").as_bytes(), time).unwrap();
                update.snapshot(&list, Path::new(&number.to_string()));
            }
            for (number, (hour, scan)) in exit_lists.iter().enumerate() {
                let seen = |last, hour| {
                    format!(
                        "ExitNode {last:040}\nExitAddress 185.220.100.{last} 1970-01-01 {hour:02}:00:00\n"
                    )
                };
                let text: String = (2..=60).map(|last| seen(last, *hour)).collect();
                let text = text + &seen(1, *scan);
                let time = Timestamp::from_micros(hour * HOUR);
                let list = format::exit_list(text.as_bytes(), time).unwrap();
                update.exit_list(&list, Path::new(&number.to_string()));
            }
            update.finish(Timestamp::from_micros(1_000 * HOUR)).0
        };
        let at = |hour| Some(Timestamp::from_micros(hour * HOUR));
        let fingerprint = with(&[(10, 9)], &[11, 12]).fingerprint().unwrap();
        let since = |exit_lists, snapshots| with(exit_lists, snapshots).differs_since(&fingerprint);
        assert_eq!(since(&[(10, 9)], &[11, 12]), None);
        assert_eq!(since(&[(10, 9)], &[11, 12, 13]), None);
        assert_eq!(since(&[(10, 9), (14, 13)], &[11, 12]), None, "its scans are newer");
        assert_eq!(since(&[(10, 9), (14, 9)], &[11, 12]), None, "the list before had the scan");
        assert_eq!(since(&[(10, 9), (14, 12)], &[11, 12]), at(12));
        assert_eq!(since(&[(10, 9), (14, 8), (15, 11)], &[11, 12]), at(8));
        assert_eq!(
            since(&[(10, 9), (11, 11)], &[11, 12]),
            at(0),
            "it is older than what was known"
        );
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
