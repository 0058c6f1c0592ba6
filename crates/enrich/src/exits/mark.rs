//! What a history knew, in a word that is kept beside what was evaluated by it.

use model::Timestamp;
use sha2::{Digest, Sha256};

use super::ExitHistory;
use super::lists::ListHistory;

impl ExitHistory {
    /// A word for the set of valid lists and databases: the time of the newest in microseconds since 1970, `-`, and a hash
    /// of their times and sizes. None without any.
    #[must_use]
    pub fn mark(&self) -> Option<String> {
        self.evidence_until.map(|until| self.mark_until(until))
    }

    /// Whether this history knows what the one with this mark knew, and besides only what is newer. Then it can change no
    /// verdict that was settled; a word that is no mark says nothing.
    #[must_use]
    pub fn extends(&self, mark: &str) -> bool {
        let until = mark.rsplit_once('-').and_then(|(until, _)| until.parse().ok());
        until.is_some_and(|until| self.mark_until(Timestamp::from_micros(until)) == mark)
    }

    fn mark_until(&self, until: Timestamp) -> String {
        let lists = self.lists().into_iter().flat_map(ListHistory::known);
        let mut known: Vec<_> = lists.chain(self.databases.known()).collect();
        known.retain(|&(_, time, _)| time <= until);
        known.sort_unstable();
        // A scanner that stands still has the same written down again, which is nothing new.
        known.dedup();
        let mut hash = Sha256::new();
        for (source, time, distinct) in known {
            hash.update([source as u8]);
            hash.update(time.as_micros().to_be_bytes());
            distinct.iter().for_each(|&number| hash.update((number as u64).to_be_bytes()));
        }
        let digest: String =
            hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", until.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{TorRules, format};

    const HOUR: i64 = 3_600_000_000;

    /// With lists of these hours, each of the addresses from the first one on.
    fn history(lists: &[(i64, u8)]) -> ExitHistory {
        let mut update = ExitHistory::new(TorRules::default()).update();
        for &(hour, addresses) in lists {
            let text: Vec<String> =
                (1..=addresses).map(|last| format!("185.220.100.{last}")).collect();
            let time = Timestamp::from_micros(hour * HOUR);
            let list = format::snapshot(text.join("\n").as_bytes(), time).unwrap();
            update.snapshot(&list, Path::new(&format!("{hour}")));
        }
        update.finish(Timestamp::from_micros(1_000 * HOUR)).0
    }

    #[test]
    fn only_newer_lists_extend_what_was_known() {
        let known = history(&[(10, 60), (20, 60)]);
        let mark = known.mark().unwrap();
        let extended_by = |lists| history(lists).extends(&mark);
        assert!(extended_by(&[(10, 60), (20, 60)]));
        assert!(extended_by(&[(20, 60), (30, 60), (10, 60), (40, 70)]));
        assert!(!extended_by(&[(10, 60), (15, 60), (20, 60)]), "an older one came");
        assert!(!extended_by(&[(20, 60), (30, 60)]), "one was taken away");
        assert!(!extended_by(&[(10, 60), (20, 61)]), "one has another content");
        assert!(!extended_by(&[(10, 60)]), "the newest was taken away");
        assert!(!extended_by(&[]));
        assert_eq!(history(&[]).mark(), None);
    }

    #[test]
    fn what_is_no_mark_says_nothing() {
        let known = history(&[(10, 60)]);
        for mark in ["", "-", "36000000000", "36000000000-", "x-0", "-1-0"] {
            assert!(!known.extends(mark), "{mark}");
        }
    }
}
