//! Writing: one statement a batch, by `COPY` while every publication is new, else by an upsert with the merge rule.

use std::borrow::Cow;

use async_trait::async_trait;
use model::{Actor, Credential, Publication, TfaReason, Timestamp, TorReason, merge_all};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, Row};

use super::fresh::FreshKeys;
use super::values::Time;
use super::{MIGRATOR, copy, pool};
use crate::merge::{COLUMNS, POSTGRES};
use crate::{Error, PublicationTable, PublicationWriter, Recorded, StoreSettings};

/// Below this many rows an upsert's single round trip beats `COPY`'s three.
const COPY_MIN_ROWS: usize = 1_000;

/// Writes to PostgreSQL.
#[derive(Debug)]
pub struct PostgresWriter {
    pub(super) pool: PgPool,
    upsert: String,
    fresh: FreshKeys,
}

impl PostgresWriter {
    pub(crate) fn open(options: PgConnectOptions, settings: &StoreSettings) -> Self {
        Self { pool: pool(options, settings), upsert: upsert(), fresh: FreshKeys::default() }
    }

    async fn upsert(&self, rows: &[Cow<'_, Publication>]) -> Result<Recorded, Error> {
        let rows: Vec<_> = rows.iter().map(|row| super::row::Row(row)).collect();
        let written = sqlx::query(AssertSqlSafe(self.upsert.as_str()))
            .bind(rows)
            .fetch_one(&self.pool)
            .await?;
        let count = |index| Ok::<u64, Error>(written.try_get::<i64, _>(index)?.cast_unsigned());
        Ok(Recorded { inserted: count(0)?, updated: count(1)?, unchanged: 0, disputed: count(2)? })
    }

    /// `None` when a key was there already; nothing is written then.
    async fn copy(&self, rows: &[Cow<'_, Publication>]) -> Result<Option<Recorded>, Error> {
        let mut connection = self.pool.acquire().await?;
        match copy::copy_in(&mut connection, rows).await {
            Ok(inserted) => {
                let disputed = rows.iter().filter(|row| row.info.disputed).count() as u64;
                Ok(Some(Recorded { inserted, disputed, ..Recorded::default() }))
            }
            // 23505: unique_violation.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("23505") => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl PublicationWriter for PostgresWriter {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        if records.is_empty() {
            return Ok(Recorded::default());
        }
        let rows = merge_all(records);
        let mut recorded = None;
        if rows.len() >= COPY_MIN_ROWS && self.fresh.expected() {
            recorded = self.copy(&rows).await?;
            self.fresh.learn(recorded.is_some());
        }
        let mut recorded = match recorded {
            Some(recorded) => recorded,
            None => self.upsert(&rows).await?,
        };
        recorded.unchanged = records.len() as u64 - recorded.inserted - recorded.updated;
        Ok(recorded)
    }
}

#[async_trait]
impl PublicationTable for PostgresWriter {
    async fn migrate(&self) -> Result<(), Error> {
        if is_current(&self.pool).await? {
            return Ok(());
        }
        Ok(MIGRATOR.run(&self.pool).await?)
    }

    async fn generation(&self) -> Result<u32, Error> {
        let highest: Option<i32> =
            sqlx::query_scalar("SELECT max(generation) FROM publication WHERE generation > 0")
                .fetch_one(&self.pool)
                .await?;
        Ok(highest.unwrap_or(0).cast_unsigned())
    }

    async fn oldest_unsettled(&self, since: Timestamp) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT created FROM publication WHERE NOT tor_settled AND created >= $1 \
                   ORDER BY created LIMIT 1";
        let row = sqlx::query(sql).bind(Time(since)).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(row.try_get_unchecked::<Time, _>(0)?.0))
    }

    async fn answers(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1 FROM publication LIMIT 0").execute(&self.pool).await?;
        Ok(())
    }
}

/// Whether every migration was made, and unchanged. The migrator itself would make its table first, for which a role that
/// may only read and write rows has no right.
async fn is_current(pool: &PgPool) -> Result<bool, Error> {
    let made = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
    let rows = match sqlx::query_as::<_, (i64, Vec<u8>)>(made).fetch_all(pool).await {
        Ok(rows) => rows,
        // 42P01: undefined_table.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let known = |row: &(i64, Vec<u8>)| {
        MIGRATOR.iter().any(|own| own.version == row.0 && *own.checksum == *row.1)
    };
    Ok(rows.len() == MIGRATOR.iter().count() && rows.iter().all(known))
}

/// The upsert. Rows that would not change are left out before `ON CONFLICT` sees them: it locks, and so writes, each
/// row it meets. The three counts are rows inserted, rows changed, and rows that became disputed; the last one reads
/// the table as it was before the statement.
fn upsert() -> String {
    let words = |kind: &str, all: String| format!("('{{{all}}}'::{kind}[])[i.{{column}} + 1]");
    let value = |column: &&str| {
        match *column {
            "tor_reason" => words("tor_reason", join(TorReason::ALL, |word| word.as_str())),
            "tfa_reason" => words("tfa_reason", join(TfaReason::ALL, |word| word.as_str())),
            "credential" => {
                words("publication_credential", join(Credential::ALL, |word| word.as_str()))
            }
            "actor" => words("publication_actor", join(Actor::ALL, |word| word.as_str())),
            _ => "i.{column}".to_owned(),
        }
        .replace("{column}", column)
    };
    let values: Vec<String> =
        COLUMNS.iter().map(|column| format!("{} AS {column}", value(column))).collect();
    format!(
        "WITH incoming AS (
             SELECT {values}
             FROM unnest($1::publication_row[]) AS i
         ), written AS (
             INSERT INTO publication ({columns})
             SELECT incoming.* FROM incoming LEFT JOIN publication AS kept USING (name, version)
             WHERE kept.name IS NULL OR {changes}
             {on_conflict}
             RETURNING name, version, disputed, xmax = 0 AS inserted
         )
         SELECT count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted),
             count(*) FILTER (WHERE disputed AND NOT EXISTS (
                 SELECT FROM publication AS before
                 WHERE before.name = written.name AND before.version = written.version AND before.disputed))
         FROM written",
        values = values.join(", "),
        columns = COLUMNS.join(", "),
        changes = POSTGRES.changes("kept", "incoming"),
        on_conflict = POSTGRES.on_conflict(),
    )
}

fn join<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> String {
    all.iter().map(|&value| word(value)).collect::<Vec<_>>().join(",")
}
