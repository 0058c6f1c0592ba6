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

/// The file that holds a database, by what stays with it when it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The device.
    pub device: u64,
    /// The file's number on it.
    pub inode: u64,
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
    ) -> Result<Vec<Account>, Error>;

    /// Writes positions, each where `owner` still owns the partition, and returns what stood there before, in their
    /// order. What the caller reads from it:
    ///
    /// - an account under its own token, with the position that it wrote last: all is well;
    /// - the same with a lower position, or without one: the database went back in time. The new position is written
    ///   all the same: the caller reads again from the one that stood there, and writes that down next;
    /// - an account under another token: somebody else owns the partition, or the database went back to before the
    ///   claim. Nothing was written;
    /// - none: the database went back to before the first claim. Nothing was written.
    async fn advance(
        &self,
        key: &PositionKey,
        owner: &str,
        positions: &[(i32, TablePosition)],
    ) -> Result<Vec<Option<Account>>, Error>;

    /// All accounts of a group, by topic and partition.
    async fn accounts(&self, group: &str) -> Result<Vec<GroupAccount>, Error>;

    /// The file that holds the database now; `None` where a server keeps it. Another file than before is another
    /// database, whatever the account in it says.
    async fn file_identity(&self) -> Result<Option<FileIdentity>, Error>;
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
