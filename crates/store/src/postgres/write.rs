//! Writes one statement per batch: by `COPY` while every publication is new, else by an upsert with the merge rule.

use std::borrow::Cow;

use async_trait::async_trait;
use model::{Publication, Timestamp, merge_all};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::connections::Connections;
use super::copy;
use super::fresh::FreshKeys;
use super::migrate::migrate;
use super::values::Time;
use crate::columns::{COLUMNS, Kind, list, names};
use crate::merge::POSTGRES;
use crate::settings::PostgresUrl;
use crate::typical::{self, typical_rows};
use crate::{Error, PublicationTable, PublicationWriter, Recorded, StoreSettings};

/// For fewer rows than this, the single round trip of an upsert is faster than the three of `COPY`.
const COPY_MIN_ROWS: usize = 1_000;

/// Writes to PostgreSQL.
#[derive(Debug)]
pub struct PostgresWriter {
    pub(super) connections: Connections,
    schema: String,
    upsert: String,
    unwritten: String,
    fresh: FreshKeys,
}

impl PostgresWriter {
    pub(crate) fn open(url: PostgresUrl, settings: &StoreSettings) -> Self {
        Self {
            connections: Connections::new(url, settings).following(),
            schema: settings.schema.clone(),
            upsert: upsert(),
            unwritten: unwritten(),
            fresh: FreshKeys::default(),
        }
    }

    async fn upsert(&self, rows: &[Cow<'_, Publication>]) -> Result<Recorded, Error> {
        let given = || rows.iter().map(|row| super::row::Row(row)).collect::<Vec<_>>();
        let upsert = || sqlx::query(AssertSqlSafe(self.upsert.as_str())).bind(given());
        let written = self.connections.fetch_one(upsert).await?;
        let count = |index| Ok::<u64, Error>(written.try_get::<i64, _>(index)?.cast_unsigned());
        let (changing, new, written_rows, disputed) = (count(0)?, count(1)?, count(2)?, count(3)?);
        if written_rows < changing {
            // Another writer may have written the same rows meanwhile, or a trigger drops them.
            let unwritten = || sqlx::query(AssertSqlSafe(self.unwritten.as_str())).bind(given());
            let left: i64 = self.connections.fetch_one(unwritten).await?.try_get(0)?;
            if left > 0 {
                return Err(swallowed(left));
            }
        }
        let inserted = new.min(written_rows);
        Ok(Recorded { inserted, updated: written_rows - inserted, unchanged: 0, disputed })
    }

    /// Tries to insert the rows by `COPY`; returns the number of rows inserted, or that `COPY` refused them.
    async fn copy(&self, rows: &[Cow<'_, Publication>]) -> Result<Copied, Error> {
        let mut tries = self.connections.tries().await?;
        loop {
            let mut session = tries.session().await?;
            let copying = async {
                match copy::copy_in(&mut session.connection, rows).await {
                    Ok(written) => Ok(Copied::Rows(written)),
                    // 23505: unique_violation, a key exists already. 0A000: the table has row level security, which
                    // COPY does not support. COPY has written no row then.
                    Err(sqlx::Error::Database(error))
                        if matches!(error.code().as_deref(), Some("23505" | "0A000")) =>
                    {
                        Ok(Copied::Refused)
                    }
                    Err(error) => Err(error),
                }
            };
            let done = self.connections.limited(copying).await;
            if let Some(copied) = tries.ended(session, done).await {
                return copied;
            }
        }
    }

    /// Writes rows of one key by the upsert, one after the other, and rolls them back; returns the first that is not in the
    /// table after it was written.
    async fn rolled_back<'r>(
        &self,
        connection: &mut PgConnection,
        rows: &'r [Publication],
    ) -> sqlx::Result<Option<&'r Publication>> {
        let mut transaction = connection.begin().await?;
        let mut dropped = Ok(None);
        for row in rows {
            dropped = self.is_kept(&mut transaction, row).await.map(|kept| (!kept).then_some(row));
            if !matches!(dropped, Ok(None)) {
                break;
            }
        }
        // Roll back at once, also after an error: a dropped transaction holds its locks until the connection is used again.
        transaction.rollback().await?;
        dropped
    }

    async fn is_kept(
        &self,
        transaction: &mut PgConnection,
        row: &Publication,
    ) -> sqlx::Result<bool> {
        sqlx::query(AssertSqlSafe(self.upsert.as_str()))
            .bind(vec![super::row::Row(row)])
            .fetch_one(&mut *transaction)
            .await?;
        // Run the checks that are deferred to the commit.
        sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
        let sql = "SELECT revision FROM publication WHERE name = $1 AND version = $2";
        let kept: Option<i32> = sqlx::query_scalar(sql)
            .bind(row.id.name.as_str())
            .bind(row.id.version.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        Ok(kept.is_some_and(|revision| revision.cast_unsigned() == row.revision))
    }
}

/// The result of a `COPY`.
enum Copied {
    /// The number of rows inserted.
    Rows(u64),
    /// No row was inserted; an upsert may succeed.
    Refused,
}

fn swallowed(rows: i64) -> Error {
    Error::Data(format!("{rows} rows are not in the table publication after they were written: a trigger drops them").into())
}

#[async_trait]
impl PublicationWriter for PostgresWriter {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        if records.is_empty() {
            return Ok(Recorded::default());
        }
        let rows = merge_all(records);
        let mut recorded = Recorded::default();
        if rows.len() >= COPY_MIN_ROWS && self.fresh.expected() {
            if let Copied::Rows(written) = self.copy(&rows).await? {
                recorded.inserted = written;
                recorded.disputed = rows.iter().filter(|row| row.info.disputed).count() as u64;
            }
            self.fresh.learn(recorded.inserted > 0);
        }
        // Also if COPY wrote all but a few rows that a trigger dropped: the upsert finds out.
        if recorded.inserted < rows.len() as u64 {
            recorded += self.upsert(&rows).await?;
        }
        recorded.unchanged = records.len() as u64 - recorded.inserted - recorded.updated;
        Ok(recorded)
    }

    async fn probe(&self) -> Result<(), Error> {
        let rows = typical_rows()?;
        let mut tries = self.connections.tries().await?;
        loop {
            let mut session = tries.session().await?;
            let probing = async {
                match self.rolled_back(&mut session.connection, &rows).await {
                    // The row is synthetic, so the database's message reveals no data. Other errors concern the session.
                    Err(error) if Error::is_about_the_row(&error) => {
                        Ok(Err(Error::with_its_words(&error)))
                    }
                    other => other.map(Ok),
                }
            };
            let done = self.connections.limited(probing).await;
            if let Some(dropped) = tries.ended(session, done).await {
                return dropped??.map_or(Ok(()), |row| Err(typical::dropped(row)));
            }
        }
    }
}

#[async_trait]
impl PublicationTable for PostgresWriter {
    async fn migrate(&self) -> Result<(), Error> {
        migrate(&self.connections, &self.schema).await
    }

    async fn generation(&self) -> Result<u32, Error> {
        let sql = "SELECT max(generation) FROM publication WHERE generation > 0";
        let row = self.connections.fetch_one(|| sqlx::query(sql)).await?;
        Ok(row.try_get::<Option<i32>, _>(0)?.unwrap_or(0).cast_unsigned())
    }

    async fn oldest_unsettled(&self, since: Timestamp) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT created FROM publication WHERE NOT tor_settled AND created >= $1 \
                   ORDER BY created LIMIT 1";
        let rows = self.connections.fetch_all(|| sqlx::query(sql).bind(Time(since))).await?;
        let created = |row: &sqlx::postgres::PgRow| row.try_get_unchecked::<Time, _>(0);
        Ok(rows.first().map(created).transpose()?.map(|time| time.0))
    }

    async fn answers(&self) -> Result<(), Error> {
        self.connections.fetch_all(|| sqlx::query("SELECT 1 FROM publication LIMIT 0")).await?;
        Ok(())
    }
}

/// The SQL of the given rows, as a table.
fn incoming() -> String {
    let value = |kind: Kind, name: &str| match kind {
        Kind::Word(words, all) => format!("('{{{}}}'::{words}[])[i.{name} + 1]", all()),
        _ => format!("i.{name}"),
    };
    let values =
        list(&COLUMNS, |column| format!("{} AS {}", value(column.kind, column.name), column.name));
    format!("SELECT {values} FROM unnest($1::publication_record[]) AS i")
}

/// The SQL of the incoming rows that would change the table, with the flag whether each is new.
fn changing() -> String {
    format!(
        "SELECT incoming.*, kept.name IS NULL AS is_new \
         FROM incoming LEFT JOIN publication AS kept USING (name, version) \
         WHERE kept.name IS NULL OR {}",
        POSTGRES.changes("kept", "incoming")
    )
}

/// The upsert. Rows that would not change are excluded before `ON CONFLICT` sees them, because it locks, and so writes,
/// each row it meets. The counts are: rows that should change the table, the new rows among them, rows written, and
/// rows that became disputed. All counts except the third read the table as it was before the statement.
fn upsert() -> String {
    format!(
        "WITH incoming AS ({incoming}), meant AS MATERIALIZED ({meant}), written AS (
             INSERT INTO publication ({columns}) SELECT {columns} FROM meant
             {on_conflict}
             RETURNING name, version, disputed
         )
         SELECT (SELECT count(*) FROM meant), (SELECT count(*) FROM meant WHERE is_new), count(*),
             count(*) FILTER (WHERE disputed AND NOT EXISTS (
                 SELECT FROM publication AS before
                 WHERE before.name = written.name AND before.version = written.version AND before.disputed))
         FROM written",
        incoming = incoming(),
        meant = changing(),
        columns = names(),
        on_conflict = POSTGRES.on_conflict(),
    )
}

/// The SQL that counts the rows that would still change the table after they were written.
fn unwritten() -> String {
    format!("WITH incoming AS ({}) SELECT count(*) FROM ({}) AS meant", incoming(), changing())
}
