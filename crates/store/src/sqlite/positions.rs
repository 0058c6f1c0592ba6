//! The account of positions.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior};

use super::SqliteWriter;
use crate::{Account, Error, FileIdentity, GroupAccount, PositionKey, Positions, TablePosition};

const CLAIM: &str = "INSERT INTO ingest_position (consumer_group, topic_id, partition, owner) VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT (consumer_group, topic_id, partition) DO UPDATE SET owner = excluded.owner \
    RETURNING partition, owner, next_offset, leader_epoch, evidence";
const STANDS: &str = "SELECT partition, owner, next_offset, leader_epoch, evidence FROM ingest_position \
    WHERE consumer_group = ?1 AND topic_id = ?2 AND partition = ?3";
const WRITE: &str = "UPDATE ingest_position SET next_offset = ?5, leader_epoch = ?6, evidence = ?7 \
    WHERE consumer_group = ?1 AND topic_id = ?2 AND partition = ?3 AND owner = ?4";
const ACCOUNTS: &str = "SELECT partition, owner, next_offset, leader_epoch, evidence, topic_id FROM ingest_position \
    WHERE consumer_group = ?1 ORDER BY topic_id, partition";

#[async_trait]
impl Positions for SqliteWriter {
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Vec<Account>, Error> {
        let claim = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut accounts = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let values = (&key.group, &key.topic_id, partition, owner);
                accounts.push(transaction.prepare_cached(CLAIM)?.query_row(values, account)?);
            }
            transaction.commit()?;
            Ok(accounts)
        };
        self.connection.with(claim).await
    }

    async fn advance(
        &self,
        key: &PositionKey,
        owner: &str,
        positions: &[(i32, TablePosition)],
    ) -> Result<Vec<Option<Account>>, Error> {
        let advance = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut accounts = Vec::with_capacity(positions.len());
            for (partition, position) in positions {
                let of = (&key.group, &key.topic_id, partition);
                let before = transaction.prepare_cached(STANDS)?.query_row(of, account).optional();
                accounts.push(before?);
                transaction.prepare_cached(WRITE)?.execute((
                    &key.group,
                    &key.topic_id,
                    partition,
                    owner,
                    position.next_offset,
                    position.leader_epoch,
                    &position.evidence,
                ))?;
            }
            transaction.commit()?;
            Ok(accounts)
        };
        self.connection.with(advance).await
    }

    async fn accounts(&self, group: &str) -> Result<Vec<GroupAccount>, Error> {
        let list = |connection: &mut Connection| {
            let mut statement = connection.prepare(ACCOUNTS)?;
            let read =
                |row: &Row<'_>| Ok(GroupAccount { topic_id: row.get(5)?, account: account(row)? });
            Ok(statement.query_map([group], read)?.collect::<Result<_, _>>()?)
        };
        self.connection.with(list).await
    }

    async fn file_identity(&self) -> Result<Option<FileIdentity>, Error> {
        self.connection.identity().map(Some)
    }
}

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    let next_offset: Option<i64> = row.get(2)?;
    let (leader_epoch, evidence) = (row.get(3)?, row.get(4)?);
    let position =
        next_offset.map(|next_offset| TablePosition { next_offset, leader_epoch, evidence });
    Ok(Account { partition: row.get(0)?, owner: row.get(1)?, position })
}
