//! The table's own account of how far it is (crates/ingester/README.md, Positions).

use async_trait::async_trait;

use crate::Error;

/// A topic of a group: what the positions belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PositionKey {
    /// The consumer group.
    pub group: String,
    /// The topic's id, by which a topic that was made again is another one.
    pub topic_id: String,
}

/// How far the table is with a partition: every record before the offset is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePosition {
    /// The next offset.
    pub next_offset: i64,
    /// The leader's epoch of the record before it, where the broker said one.
    pub leader_epoch: Option<i32>,
    /// The lists by which the partition's verdicts are settled (an evidence fingerprint).
    pub evidence: Option<String>,
}

/// What the account says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The partition.
    pub partition: i32,
    /// The token of the owner who claimed it last.
    pub owner: String,
    /// The position; none where it was claimed and nothing was written since.
    pub position: Option<TablePosition>,
}

/// The account of a partition, and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupAccount {
    /// The topic's id.
    pub topic_id: String,
    /// What is kept.
    pub account: Account,
}

/// The database that answered. PostgreSQL: the database's own number, the server's address and its timeline; a database
/// that was restored and a standby that was promoted differ. SQLite: device and inode of the file. A position is a proof only in
/// the database that it was written into: rows that were written shortly before may be in the other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseId(pub String);

/// What stands after a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The database that answered.
    pub database: DatabaseId,
    /// In the order of the partitions.
    pub accounts: Vec<Account>,
}

/// A position to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: i32,
    /// The token with which it was claimed.
    pub owner: String,
    /// The database that answered last.
    pub database: DatabaseId,
    /// The offset that stands there at least, if the database has not gone back; none where nothing stood there.
    pub at_least: Option<i64>,
    /// What is to stand there.
    pub to: TablePosition,
}

/// What stood before positions were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advanced {
    /// The database that answered.
    pub database: DatabaseId,
    /// In the order of the positions; none where the account has no such partition.
    pub before: Vec<Option<Account>>,
}

/// Keeping positions beside the rows. Whoever is assigned a partition claims it first, with a token that nobody else
/// has; from then on a write under another token changes nothing.
///
/// Every operation is one statement and may be repeated.
#[async_trait]
pub trait Positions: Send + Sync {
    /// Makes `owner` the owner of partitions and returns what stands for each of them, in their order. A partition that
    /// the account does not know gets a row without a position.
    ///
    /// # Errors
    /// As [`crate::PublicationWriter::record`], here and below.
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Claimed, Error>;

    /// Writes positions and returns what stood there before. One is written where its owner still owns the partition, the
    /// database is the one that answered last, and what stands there is not less than [`Advance::at_least`]. So what is
    /// left out is known from the answer, and an account never passes rows that the database has lost:
    ///
    /// - no account, or one under another token: somebody else owns the partition, or the database went back to before
    ///   the claim;
    /// - a position below `at_least`, or none: the database went back in time;
    /// - another database: what was written since the last advance is not proved.
    async fn advance(&self, key: &PositionKey, positions: &[Advance]) -> Result<Advanced, Error>;

    /// All accounts of a group, by topic and partition.
    async fn accounts(&self, group: &str) -> Result<Vec<GroupAccount>, Error>;
}

/// Puts accounts in the order of the partitions that were asked for.
pub(crate) fn in_order(
    partitions: impl Iterator<Item = i32>,
    mut accounts: Vec<Account>,
) -> Vec<Option<Account>> {
    partitions
        .map(|partition| {
            let place = accounts.iter().position(|account| account.partition == partition)?;
            Some(accounts.swap_remove(place))
        })
        .collect()
}
