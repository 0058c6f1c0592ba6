//! Stores positions.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};

use super::SqliteWriter;
use crate::{
    Account, Advance, Advanced, Claimed, DatabaseId, Error, PositionKey, Positions, TablePosition,
};

const CLAIM: &str = "INSERT INTO ingest_position (consumer_group, topic_id, partition, owner) VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT (consumer_group, topic_id, partition) DO UPDATE SET owner = excluded.owner \
    RETURNING partition, owner, next_offset, leader_epoch, evidence";
const STANDS: &str = "SELECT partition, owner, next_offset, leader_epoch, evidence FROM ingest_position \
    WHERE consumer_group = ?1 AND topic_id = ?2 AND partition = ?3";
const WRITE: &str = "UPDATE ingest_position SET next_offset = ?5, leader_epoch = ?6, evidence = ?7 \
    WHERE consumer_group = ?1 AND topic_id = ?2 AND partition = ?3 AND owner = ?4 \
    AND (?8 IS NULL OR next_offset >= ?8)";
const ACCOUNTS: &str = "SELECT partition, owner, next_offset, leader_epoch, evidence, topic_id FROM ingest_position \
    WHERE consumer_group = ?1 ORDER BY topic_id, partition";

#[async_trait]
impl Positions for SqliteWriter {
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Claimed, Error> {
        let claim = |database: &DatabaseId, connection: &mut Connection| {
            let transaction = Self::begin(connection)?;
            let mut accounts = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let values = (&key.group, &key.topic_id, partition, owner);
                accounts.push(transaction.prepare_cached(CLAIM)?.query_row(values, account)?);
            }
            transaction.commit()?;
            Ok(Claimed { database: database.clone(), accounts })
        };
        self.connection.with_file(claim).await
    }

    async fn advance(&self, key: &PositionKey, positions: &[Advance]) -> Result<Advanced, Error> {
        let advance = |database: &DatabaseId, connection: &mut Connection| {
            let transaction = Self::begin(connection)?;
            let mut accounts = Vec::with_capacity(positions.len());
            for position in positions {
                let Advance { partition, owner, at_least, to, .. } = position;
                let of = (&key.group, &key.topic_id, partition);
                let before = transaction.prepare_cached(STANDS)?.query_row(of, account).optional();
                accounts.push(before?);
                if position.database == *database {
                    transaction.prepare_cached(WRITE)?.execute((
                        &key.group,
                        &key.topic_id,
                        partition,
                        owner,
                        to.next_offset,
                        to.leader_epoch,
                        &to.evidence,
                        at_least,
                    ))?;
                }
            }
            transaction.commit()?;
            Ok(Advanced { database: database.clone(), before: accounts })
        };
        self.connection.with_file(advance).await
    }

    async fn accounts(&self, group: &str) -> Result<Vec<(String, Account)>, Error> {
        let list = |connection: &mut Connection| {
            let mut statement = connection.prepare(ACCOUNTS)?;
            let read = |row: &Row<'_>| Ok((row.get(5)?, account(row)?));
            Ok(statement.query_map([group], read)?.collect::<Result<_, _>>()?)
        };
        self.connection.with(list).await
    }
}

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    let next_offset: Option<i64> = row.get(2)?;
    let (leader_epoch, evidence) = (row.get(3)?, row.get(4)?);
    let position =
        next_offset.map(|next_offset| TablePosition { next_offset, leader_epoch, evidence });
    Ok(Account { partition: row.get(0)?, owner: row.get(1)?, position })
}
