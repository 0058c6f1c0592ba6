//! The fingerprint of a history, a text that is stored with the positions whose verdicts were evaluated with it.

use model::Timestamp;
use sha2::{Digest, Sha256};

use super::ExitHistory;
use super::lists::ListHistory;

impl ExitHistory {
    /// A fingerprint of the set of valid lists and databases: the time of the newest in microseconds since 1970, `-`,
    /// and a hash of their times and contents. `None` without any valid list or database.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        self.evidence_until.map(|until| self.fingerprint_until(until))
    }

    /// Whether this history has all evidence of the history with this fingerprint, and otherwise only newer evidence.
    /// If so, it does not change a settled verdict. `false` for an invalid fingerprint.
    #[must_use]
    pub fn extends(&self, fingerprint: &str) -> bool {
        let until = fingerprint.rsplit_once('-').and_then(|(until, _)| until.parse().ok());
        until.is_some_and(|until| {
            self.fingerprint_until(Timestamp::from_micros(until)) == fingerprint
        })
    }

    fn fingerprint_until(&self, until: Timestamp) -> String {
        let lists = self.lists().into_iter().flat_map(ListHistory::known);
        let mut known: Vec<_> = lists.chain(self.databases.known()).collect();
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
        let extended_by = |lists| history(lists).extends(&fingerprint);
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
            assert!(!history_of(&other).extends(&fingerprint), "{other:?}");
            assert!(!known.extends(&history_of(&other).fingerprint().unwrap()), "{other:?}");
        }
        let second = [(10, 1..=60), (20, 1..=60), (20, 2..=61)];
        assert!(!history_of(&second).extends(&fingerprint), "another of the same time");
        let twice = [(10, 1..=60), (20, 1..=60), (20, 1..=60)];
        assert_eq!(history_of(&twice).fingerprint().unwrap(), fingerprint, "the same list twice");
    }

    #[test]
    fn what_is_no_mark_says_nothing() {
        let known = history(&[(10, 60)]);
        for fingerprint in ["", "-", "36000000000", "36000000000-", "x-0", "-1-0"] {
            assert!(!known.extends(fingerprint), "{fingerprint}");
        }
    }
}
