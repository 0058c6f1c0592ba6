//! The table's own account of a partition, and what an answer of the database says of it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use store::{Account, Advance, Advanced, Claimed, DatabaseId, PositionKey, TablePosition};

use crate::pipeline::ports::AssignmentId;

/// How often the accounts of idle partitions are written too. A database that went back is seen after it, and one that
/// went back to before the claim after a few seconds more: together within ten seconds.
pub(super) const IDLE: Duration = Duration::from_secs(3);
/// How long a claim may take before reading is told to wait for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the account of a partition is claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Claim {
    /// To be claimed.
    #[default]
    Unclaimed,
    /// The broker names no topic ids, so an account could be of another topic: none is kept.
    NotKept,
    /// Being claimed, since when.
    Asked(Instant),
    /// Claimed.
    Held(Held),
}

/// A claimed account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) topic_id: String,
    pub(super) owner: String,
    pub(super) database: DatabaseId,
    /// What stood there when it was claimed.
    pub(super) position: Option<TablePosition>,
    /// What stands there at least, unless the database goes back.
    pub(super) at_least: Option<i64>,
    /// Since when it has been another's.
    pub(super) foreign_since: Option<Instant>,
}

/// What the database is asked.
#[derive(Debug)]
pub(crate) enum Request {
    Claim { key: PositionKey, owner: String, partitions: Vec<(i32, AssignmentId)> },
    Advance { key: PositionKey, positions: Vec<(AssignmentId, Advance)> },
}

/// What the database answers.
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
    /// Nothing more is written.
    Failed(store::Error),
}

/// What an answer says of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is written.
    Stored,
    /// The account is another's: the partition went to another member, or the database went back to before the claim.
    Foreign,
    /// The database went back, or is another: what was written since the last position is not proved.
    Doubted,
}

/// Evaluates what stood in the account when this position was to be written.
pub(crate) fn verdict(asked: &Advance, database: &DatabaseId, before: Option<&Account>) -> Verdict {
    let Some(before) = before else { return Verdict::Doubted };
    if before.owner != asked.owner {
        return Verdict::Foreign;
    }
    let stood = before.position.as_ref().map(|position| position.next_offset);
    if *database == asked.database && stood >= asked.at_least {
        Verdict::Stored
    } else {
        Verdict::Doubted
    }
}

/// A token that no other process has.
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
            verdict(&asked(at_least), &database, before.as_ref())
        };
        assert_eq!(evaluated(Some(7), Some(stood("us", Some(7)))), Verdict::Stored);
        assert_eq!(
            evaluated(Some(7), Some(stood("us", Some(9)))),
            Verdict::Stored,
            "a lost answer"
        );
        assert_eq!(evaluated(None, Some(stood("us", None))), Verdict::Stored);
        assert_eq!(evaluated(Some(7), Some(stood("us", Some(6)))), Verdict::Doubted);
        assert_eq!(evaluated(Some(7), Some(stood("us", None))), Verdict::Doubted);
        assert_eq!(evaluated(Some(7), None), Verdict::Doubted);
        assert_eq!(evaluated(Some(7), Some(stood("them", Some(6)))), Verdict::Foreign);
        let other = DatabaseId("two".into());
        let before = stood("us", Some(7));
        assert_eq!(verdict(&asked(Some(7)), &other, Some(&before)), Verdict::Doubted);
    }

    #[test]
    fn no_two_processes_have_the_same_token() {
        assert_ne!(token(), token());
    }
}
