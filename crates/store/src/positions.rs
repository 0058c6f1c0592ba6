//! The positions that the table stores beside its rows (crates/ingester/README.md, Positions).

use std::collections::HashMap;

use async_trait::async_trait;

use crate::Error;

/// The consumer group and topic to which positions belong.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PositionKey {
    /// The consumer group.
    pub group: String,
    /// The topic's id. A topic that was deleted and created again has another id.
    pub topic_id: String,
}

/// The position of a partition in the table: every record before the offset is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePosition {
    /// The next offset.
    pub next_offset: i64,
    /// The leader epoch of the record before it, if the broker gave it.
    pub leader_epoch: Option<i32>,
    /// The evidence fingerprint of the exit lists with which the partition's verdicts are settled.
    pub evidence: Option<String>,
}

/// The stored account of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The partition.
    pub partition: i32,
    /// The token of the owner that claimed the partition last.
    pub owner: String,
    /// The position; `None` if the partition was claimed but no position has been written.
    pub position: Option<TablePosition>,
}

/// The identity of the database that answered. PostgreSQL: the database's OID, the server's address and its timeline,
/// so that a restored database and a promoted standby differ. SQLite: device and inode of the file. A position is valid
/// only in the database that stored it, because another database may lack rows that were written shortly before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseId(pub String);

/// The result of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The database that answered.
    pub database: DatabaseId,
    /// The accounts, in the order of the partitions.
    pub accounts: Vec<Account>,
}

/// A position to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: i32,
    /// The token with which the partition was claimed.
    pub owner: String,
    /// The database that answered the previous operation.
    pub database: DatabaseId,
    /// The smallest offset that must be stored if the database has not gone back in time; `None` if no offset was stored.
    pub at_least: Option<i64>,
    /// The new position.
    pub to: TablePosition,
}

/// The accounts before positions were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advanced {
    /// The database that answered.
    pub database: DatabaseId,
    /// The accounts in the order of the given positions; `None` for a partition without an account.
    pub before: Vec<Option<Account>>,
}

/// Stores positions beside the rows. A consumer that is assigned a partition claims it first, with a unique token; from
/// then on a write with another token changes nothing.
///
/// Every operation is one statement and may be repeated.
#[async_trait]
pub trait Positions: Send + Sync {
    /// Makes `owner` the owner of the partitions and returns their accounts, in the same order. A partition without an
    /// account gets one without a position.
    ///
    /// # Errors
    /// As [`crate::PublicationWriter::record`], here and below.
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Claimed, Error>;

    /// Writes positions and returns the accounts as they were before. A position is written if its owner still owns the
    /// partition, the database is the one that answered last, and the stored offset is not less than [`Advance::at_least`]. The
    /// caller sees from the result which positions were skipped, and an account never passes rows that the database has lost:
    ///
    /// - no account, or one with another token: another owner has the partition, or the database went back to before the claim;
    /// - an offset below `at_least`, or no position: the database went back in time;
    /// - another database: rows written since the last advance may be missing in it.
    async fn advance(&self, key: &PositionKey, positions: &[Advance]) -> Result<Advanced, Error>;

    /// Reads all accounts of a group, each with its topic's id, by topic and partition.
    async fn accounts(&self, group: &str) -> Result<Vec<(String, Account)>, Error>;
}

/// Sorts accounts into the order of the requested partitions.
pub(crate) fn in_order(
    partitions: impl Iterator<Item = i32>,
    accounts: Vec<Account>,
) -> Vec<Option<Account>> {
    let mut accounts: HashMap<i32, Account> =
        accounts.into_iter().map(|account| (account.partition, account)).collect();
    partitions.map(|partition| accounts.remove(&partition)).collect()
}
