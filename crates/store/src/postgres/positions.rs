//! Stores positions.

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresWriter;
use crate::positions::in_order;
use crate::{
    Account, Advance, Advanced, Claimed, DatabaseId, Error, PositionKey, Positions, TablePosition,
};

/// [`DatabaseId`]: a restored database has another OID, and a promoted standby another timeline, even if it has taken over the
/// address. A restarted server keeps its identity.
macro_rules! database {
    () => {
        "((SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || \
          coalesce(host(inet_server_addr()) || ':' || inet_server_port(), '') || \
          CASE current_setting('publication.timeline', true) WHEN 'on' \
              THEN '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) ELSE '' END)"
    };
}

// Rows are locked in the order of their partitions, so that two writers cannot deadlock.
const CLAIM: &str = concat!(
    "INSERT INTO ingest_position AS p (consumer_group, topic_id, partition, owner) \
     SELECT $1, $2, a.partition, $3 FROM unnest($4::integer[]) AS a(partition) ORDER BY a.partition \
     ON CONFLICT (consumer_group, topic_id, partition) DO UPDATE SET owner = excluded.owner \
     RETURNING p.partition, p.owner, p.next_offset, p.leader_epoch, p.evidence, ",
    database!()
);

// The outer join returns the database's identity even if there is no account. The group and the topic are columns of what is
// asked, so that an account is found by its whole key: as constants they made PostgreSQL expect a single account of the
// group, and compare each account with each position.
const ADVANCE: &str = concat!(
    "WITH asked AS MATERIALIZED ( \
        SELECT $1::text AS consumer_group, $2::text AS topic_id, a.* FROM unnest( \
            $3::integer[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::integer[], $9::text[]) \
            AS a(partition, for_owner, database, at_least, to_offset, to_epoch, to_evidence) \
    ), before AS MATERIALIZED ( \
        SELECT asked.*, p.owner, p.next_offset, p.leader_epoch, p.evidence \
        FROM asked JOIN ingest_position AS p USING (consumer_group, topic_id, partition) \
        ORDER BY partition FOR UPDATE OF p \
    ), written AS ( \
        UPDATE ingest_position AS p \
        SET next_offset = b.to_offset, leader_epoch = b.to_epoch, evidence = b.to_evidence FROM before AS b \
        WHERE p.consumer_group = b.consumer_group AND p.topic_id = b.topic_id AND p.partition = b.partition \
            AND b.owner = b.for_owner AND b.database = ",
    database!(),
    " AND (b.at_least IS NULL OR b.next_offset >= b.at_least) \
    ) SELECT b.partition, b.owner, b.next_offset, b.leader_epoch, b.evidence, ",
    database!(),
    " FROM (VALUES (0)) AS always LEFT JOIN before AS b ON true"
);

const ACCOUNTS: &str = "SELECT partition, owner, next_offset, leader_epoch, evidence, topic_id FROM ingest_position \
    WHERE consumer_group = $1 ORDER BY topic_id, partition";

#[async_trait]
impl Positions for PostgresWriter {
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Claimed, Error> {
        let claim = || {
            sqlx::query(CLAIM)
                .bind(key.group.as_str())
                .bind(key.topic_id.as_str())
                .bind(owner)
                .bind(partitions)
        };
        let rows = self.connections.fetch_without_rows(claim).await?;
        let accounts = rows.iter().map(account).collect::<Result<_, _>>()?;
        let accounts =
            in_order(partitions.iter().copied(), accounts).into_iter().flatten().collect();
        Ok(Claimed { database: database(&rows)?, accounts })
    }

    async fn advance(&self, key: &PositionKey, positions: &[Advance]) -> Result<Advanced, Error> {
        let advance = || {
            let to = || positions.iter().map(|position| &position.to);
            let owners = positions.iter().map(|position| position.owner.as_str());
            let databases = positions.iter().map(|position| position.database.0.as_str());
            sqlx::query(ADVANCE)
                .bind(key.group.as_str())
                .bind(key.topic_id.as_str())
                .bind(positions.iter().map(|position| position.partition).collect::<Vec<_>>())
                .bind(owners.collect::<Vec<_>>())
                .bind(databases.collect::<Vec<_>>())
                .bind(positions.iter().map(|position| position.at_least).collect::<Vec<_>>())
                .bind(to().map(|to| to.next_offset).collect::<Vec<_>>())
                .bind(to().map(|to| to.leader_epoch).collect::<Vec<_>>())
                .bind(to().map(|to| to.evidence.as_deref()).collect::<Vec<_>>())
        };
        let rows = self.connections.fetch_without_rows(advance).await?;
        let there = rows.iter().filter(|row| !matches!(row.try_get(0), Ok(None::<i32>)));
        let accounts = there.map(account).collect::<Result<_, _>>()?;
        let before = in_order(positions.iter().map(|position| position.partition), accounts);
        Ok(Advanced { database: database(&rows)?, before })
    }

    async fn accounts(&self, group: &str) -> Result<Vec<(String, Account)>, Error> {
        let rows =
            self.connections.fetch_without_rows(|| sqlx::query(ACCOUNTS).bind(group)).await?;
        let read = |row: &PgRow| Ok((row.try_get(5)?, account(row)?));
        rows.iter().map(read).collect()
    }
}

fn database(rows: &[PgRow]) -> Result<DatabaseId, Error> {
    Ok(DatabaseId(rows.first().map_or(Ok(String::new()), |row| row.try_get(5))?))
}

fn account(row: &PgRow) -> Result<Account, Error> {
    let next_offset: Option<i64> = row.try_get(2)?;
    let (leader_epoch, evidence) = (row.try_get(3)?, row.try_get(4)?);
    let position =
        next_offset.map(|next_offset| TablePosition { next_offset, leader_epoch, evidence });
    Ok(Account { partition: row.try_get(0)?, owner: row.try_get(1)?, position })
}
