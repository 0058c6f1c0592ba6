//! The account of positions.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresWriter;
use crate::positions::in_order;
use crate::{Account, Error, FileIdentity, GroupAccount, PositionKey, Positions, TablePosition};

// Rows are locked in the order of their partitions, so that two writers cannot wait for each other.
const CLAIM: &str = "INSERT INTO ingest_position AS p (consumer_group, topic_id, partition, owner) \
    SELECT $1, $2, a.partition, $3 FROM unnest($4::integer[]) AS a(partition) ORDER BY a.partition \
    ON CONFLICT (consumer_group, topic_id, partition) DO UPDATE SET owner = excluded.owner \
    RETURNING p.partition, p.owner, p.next_offset, p.leader_epoch, p.evidence";

const ADVANCE: &str = "WITH asked AS ( \
        SELECT * FROM unnest($4::integer[], $5::bigint[], $6::integer[], $7::text[]) \
            AS a(partition, next_offset, leader_epoch, evidence) \
    ), before AS MATERIALIZED ( \
        SELECT p.partition, p.owner, p.next_offset, p.leader_epoch, p.evidence FROM ingest_position AS p \
        WHERE p.consumer_group = $1 AND p.topic_id = $2 AND p.partition = ANY ($4::integer[]) \
        ORDER BY p.partition FOR UPDATE \
    ), written AS ( \
        UPDATE ingest_position AS p \
        SET next_offset = asked.next_offset, leader_epoch = asked.leader_epoch, evidence = asked.evidence \
        FROM asked JOIN before USING (partition) \
        WHERE p.consumer_group = $1 AND p.topic_id = $2 AND p.partition = asked.partition AND before.owner = $3 \
    ) SELECT partition, owner, next_offset, leader_epoch, evidence FROM before";

const ACCOUNTS: &str = "SELECT partition, owner, next_offset, leader_epoch, evidence, topic_id FROM ingest_position \
    WHERE consumer_group = $1 ORDER BY topic_id, partition";

#[async_trait]
impl Positions for PostgresWriter {
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Vec<Account>, Error> {
        let claim = || {
            sqlx::query(CLAIM)
                .bind(key.group.as_str())
                .bind(key.topic_id.as_str())
                .bind(owner)
                .bind(partitions)
        };
        let rows = self.connections.fetch_all(claim).await?;
        let accounts = rows.iter().map(account).collect::<Result<_, _>>()?;
        Ok(in_order(partitions.iter().copied(), accounts).into_iter().flatten().collect())
    }

    async fn advance(
        &self,
        key: &PositionKey,
        owner: &str,
        positions: &[(i32, TablePosition)],
    ) -> Result<Vec<Option<Account>>, Error> {
        let partitions = || positions.iter().map(|(partition, _)| *partition);
        let advance = || {
            let each = || positions.iter().map(|(_, position)| position);
            sqlx::query(ADVANCE)
                .bind(key.group.as_str())
                .bind(key.topic_id.as_str())
                .bind(owner)
                .bind(partitions().collect::<Vec<_>>())
                .bind(each().map(|position| position.next_offset).collect::<Vec<_>>())
                .bind(each().map(|position| position.leader_epoch).collect::<Vec<_>>())
                .bind(each().map(|position| position.evidence.as_deref()).collect::<Vec<_>>())
        };
        let rows = self.connections.fetch_all(advance).await?;
        let accounts = rows.iter().map(account).collect::<Result<_, _>>()?;
        Ok(in_order(partitions(), accounts))
    }

    async fn accounts(&self, group: &str) -> Result<Vec<GroupAccount>, Error> {
        let rows = self.connections.fetch_all(|| sqlx::query(ACCOUNTS).bind(group)).await?;
        let read =
            |row: &PgRow| Ok(GroupAccount { topic_id: row.try_get(5)?, account: account(row)? });
        rows.iter().map(read).collect()
    }

    async fn file_identity(&self) -> Result<Option<FileIdentity>, Error> {
        Ok(None)
    }
}

fn account(row: &PgRow) -> Result<Account, Error> {
    let next_offset: Option<i64> = row.try_get(2)?;
    let (leader_epoch, evidence) = (row.try_get(3)?, row.try_get(4)?);
    let position =
        next_offset.map(|next_offset| TablePosition { next_offset, leader_epoch, evidence });
    Ok(Account { partition: row.try_get(0)?, owner: row.try_get(1)?, position })
}
