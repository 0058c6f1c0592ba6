//! The table's account of a partition, and the evaluation of the database's answers about it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use store::{Account, Advance, Advanced, Claimed, DatabaseId, PositionKey, TablePosition};

use crate::pipeline::ports::AssignmentId;

/// How often the positions of idle partitions are stored too. A database that went back in time is detected after this,
/// and one that went back to before the claim a few seconds later: both within ten seconds.
pub(super) const IDLE_STORE_INTERVAL: Duration = Duration::from_secs(3);
/// How long a claim may take before the wait for it is reported.
pub(super) const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the account of a partition is claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Claim {
    /// Not claimed yet.
    #[default]
    Unclaimed,
    /// No account is kept: the broker has no topic ids, so it could belong to another topic; or it is a unit test.
    NotKept,
    /// The claim was sent at this time and is not answered yet.
    Asked(Instant),
    /// Claimed.
    Owned(OwnedAccount),
}

/// A claimed account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnedAccount {
    pub(super) topic_id: String,
    pub(super) owner: String,
    pub(super) database: DatabaseId,
    /// The position in the account when it was claimed.
    pub(super) position: Option<TablePosition>,
    /// The smallest position that the account can have unless the database goes back in time.
    pub(super) at_least: Option<i64>,
    /// The time since which the account has had another owner.
    pub(super) foreign_since: Option<Instant>,
}

/// A request to the database.
#[derive(Debug)]
pub(crate) enum Request {
    Claim { key: PositionKey, owner: String, partitions: Vec<(i32, AssignmentId)> },
    Advance { key: PositionKey, positions: Vec<(AssignmentId, Advance)> },
}

/// An answer of the database.
#[derive(Debug)]
pub(crate) enum Answer {
    Claimed {
        topic_id: String,
        owner: String,
        partitions: Vec<(i32, AssignmentId)>,
        claimed: Claimed,
    },
    Advanced {
        positions: Vec<(AssignmentId, Advance)>,
        advanced: Advanced,
    },
    /// The request failed for good: the run ends.
    Failed(store::Error),
}

/// The result of storing a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdvanceResult {
    /// The position was stored.
    Stored,
    /// The account has another owner: another member's claim, or the database went back to before ours.
    Foreign,
    /// The database went back in time, or is another one: rows written since the last position may be missing.
    Doubted,
}

/// Evaluates from the account's state just before whether a position was stored.
pub(crate) fn evaluate_advance(
    asked: &Advance,
    database: &DatabaseId,
    before: Option<&Account>,
) -> AdvanceResult {
    let Some(before) = before else { return AdvanceResult::Doubted };
    if before.owner != asked.owner {
        return AdvanceResult::Foreign;
    }
    let stood = before.position.as_ref().map(|position| position.next_offset);
    if *database == asked.database && stood >= asked.at_least {
        AdvanceResult::Stored
    } else {
        AdvanceResult::Doubted
    }
}

/// A token that is unique to this process.
pub(super) fn token() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{random:016x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_proves_a_position_or_does_not() {
        let database = DatabaseId("one".into());
        let at = |next_offset| TablePosition { next_offset, leader_epoch: None, evidence: None };
        let asked = |at_least| Advance {
            partition: 0,
            owner: "us".into(),
            database: database.clone(),
            at_least,
            to: at(9),
        };
        let stood = |owner: &str, offset: Option<i64>| Account {
            partition: 0,
            owner: owner.into(),
            position: offset.map(at),
        };
        let evaluated = |at_least, before: Option<Account>| {
            evaluate_advance(&asked(at_least), &database, before.as_ref())
        };
        assert_eq!(evaluated(Some(7), Some(stood("us", Some(7)))), AdvanceResult::Stored);
        assert_eq!(
            evaluated(Some(7), Some(stood("us", Some(9)))),
            AdvanceResult::Stored,
            "a lost answer"
        );
        assert_eq!(evaluated(None, Some(stood("us", None))), AdvanceResult::Stored);
        assert_eq!(evaluated(Some(7), Some(stood("us", Some(6)))), AdvanceResult::Doubted);
        assert_eq!(evaluated(Some(7), Some(stood("us", None))), AdvanceResult::Doubted);
        assert_eq!(evaluated(Some(7), None), AdvanceResult::Doubted);
        assert_eq!(evaluated(Some(7), Some(stood("them", Some(6)))), AdvanceResult::Foreign);
        let other = DatabaseId("two".into());
        let before = stood("us", Some(7));
        let result = evaluate_advance(&asked(Some(7)), &other, Some(&before));
        assert_eq!(result, AdvanceResult::Doubted);
    }

    #[test]
    fn no_two_processes_have_the_same_token() {
        assert_ne!(token(), token());
    }
}
