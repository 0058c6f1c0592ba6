//! Writes a batch by one `COPY` while every publication is new, else by upserts with the merge rule.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use model::{Publication, Timestamp, merge_all};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::connections::Connections;
use super::copy;
use super::fresh::FreshKeys;
use super::inspect::PARTITIONS;
use super::migrate::migrate;
use super::row::Row as RowValue;
use super::values::Time;
use crate::columns::{COLUMNS, Kind, list, names};
use crate::merge::POSTGRES;
use crate::settings::PostgresUrl;
use crate::typical::{self, typical_rows};
use crate::{Error, PublicationTable, PublicationWriter, Recorded, StoreSettings};

/// For fewer rows than this, the single round trip of an upsert is faster than the three of `COPY`.
const COPY_MIN_ROWS: usize = 1_000;
/// The most rows of one upsert. More are no faster, and need more memory: sqlx encodes a statement's parameter as a whole, and
/// copies it to send it.
const UPSERT_ROWS: usize = 1_250;

/// Writes to PostgreSQL.
#[derive(Debug)]
pub(crate) struct PostgresWriter {
    pub(super) connections: Connections,
    upsert: String,
    /// The upsert, which writes no row if the table has triggers.
    upsert_without_triggers: String,
    unwritten: String,
    bypassed: String,
    fresh: FreshKeys,
    /// Whether the table had triggers when it was last looked at.
    has_triggers: AtomicBool,
}

impl PostgresWriter {
    pub(crate) fn open(url: PostgresUrl, settings: &StoreSettings) -> Self {
        Self {
            connections: Connections::new(url, settings).following(),
            upsert: upsert("true"),
            upsert_without_triggers: upsert("(SELECT names IS NULL FROM triggers)"),
            unwritten: unwritten(),
            bypassed: bypassed(),
            fresh: FreshKeys::default(),
            has_triggers: AtomicBool::new(false),
        }
    }

    /// Writes the rows by one statement. A trigger may change or remove a row that the statement wrote, so if the table has one,
    /// or fewer rows were written than were meant, looks for the rows before the commit.
    async fn upsert(&self, rows: &[Cow<'_, Publication>]) -> Result<Recorded, Error> {
        if self.has_triggers.load(Ordering::Relaxed) {
            return self.upsert_and_look(rows).await;
        }
        let upsert =
            || sqlx::query(AssertSqlSafe(&*self.upsert_without_triggers)).bind(given(rows));
        let upserted = Upserted::of(&self.connections.fetch_one(upsert).await?)?;
        self.has_triggers.store(upserted.triggers.is_some(), Ordering::Relaxed);
        let mut recorded = upserted.recorded();
        if upserted.triggers.is_some() || upserted.written < upserted.meant {
            recorded += self.upsert_and_look(rows).await?;
        }
        Ok(recorded)
    }

    /// Writes the rows, and looks whether they are in the table then. If one is not, none is written.
    async fn upsert_and_look(&self, rows: &[Cow<'_, Publication>]) -> Result<Recorded, Error> {
        let mut tries = self.connections.tries().await?;
        loop {
            let mut session = tries.session().await?;
            let writing = async {
                let mut transaction = session.connection.begin().await?;
                let looked = self.write_and_look(&mut transaction, rows).await;
                // Roll back at once: a dropped transaction holds its locks until the connection is used again.
                match &looked {
                    Ok((_, 0)) => transaction.commit().await?,
                    _ => transaction.rollback().await?,
                }
                looked
            };
            let done = self.connections.limited(writing).await;
            if let Some(written) = tries.ended(session, done).await {
                let (upserted, missing) = written?;
                self.has_triggers.store(upserted.triggers.is_some(), Ordering::Relaxed);
                return match missing {
                    0 => Ok(upserted.recorded()),
                    _ => Err(swallowed(missing, upserted.triggers.as_deref())),
                };
            }
        }
    }

    /// Writes the rows in a transaction, and counts those that are not in the table then.
    async fn write_and_look(
        &self,
        transaction: &mut PgConnection,
        rows: &[Cow<'_, Publication>],
    ) -> sqlx::Result<(Upserted, i64)> {
        let upsert = sqlx::query(AssertSqlSafe(&*self.upsert)).bind(given(rows));
        let upserted = Upserted::of(&upsert.fetch_one(&mut *transaction).await?)?;
        // Run the triggers and checks that are deferred to the commit.
        sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
        let unwritten = sqlx::query_scalar(AssertSqlSafe(&*self.unwritten)).bind(given(rows));
        Ok((upserted, unwritten.fetch_one(transaction).await?))
    }

    /// Tries to insert the rows by `COPY`; returns the number of rows inserted. `None`: none was, and an upsert may succeed.
    /// `COPY` does not report which rows a trigger changed or removed, and rules do not apply to it.
    async fn copy(&self, rows: &[Cow<'_, Publication>]) -> Result<Option<u64>, Error> {
        let mut tries = self.connections.tries().await?;
        loop {
            let mut session = tries.session().await?;
            let copying = async {
                let bypassed = sqlx::query_scalar::<_, bool>(AssertSqlSafe(&*self.bypassed));
                if bypassed.fetch_optional(&mut session.connection).await? == Some(true) {
                    return Ok(None);
                }
                match copy::copy_in(&mut session.connection, rows).await {
                    Ok(written) => Ok(Some(written)),
                    // 23505: unique_violation, a key exists already. 0A000: the table has row level security, which
                    // COPY does not support. COPY has written no row then.
                    Err(sqlx::Error::Database(error))
                        if matches!(error.code().as_deref(), Some("23505" | "0A000")) =>
                    {
                        Ok(None)
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

    /// The first of these rows of one key that is not in the table after it was written, one after the other.
    async fn first_dropped<'r>(
        &self,
        transaction: &mut PgConnection,
        rows: &'r [Publication],
    ) -> sqlx::Result<Option<&'r Publication>> {
        for row in rows {
            let (_, missing) = self.write_and_look(transaction, &[Cow::Borrowed(row)]).await?;
            if missing > 0 {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

/// The answer of the upsert.
struct Upserted {
    /// The rows that should change the table, and the new rows among them.
    meant: u64,
    new: u64,
    written: u64,
    disputed: u64,
    /// The names of the table's triggers.
    triggers: Option<String>,
}

impl Upserted {
    fn of(row: &PgRow) -> sqlx::Result<Self> {
        let count = |index| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(index)?.cast_unsigned());
        let (meant, new, written, disputed) = (count(0)?, count(1)?, count(2)?, count(3)?);
        Ok(Self { meant, new, written, disputed, triggers: row.try_get(4)? })
    }

    fn recorded(&self) -> Recorded {
        let inserted = self.new.min(self.written);
        let updated = self.written - inserted;
        Recorded { inserted, updated, unchanged: 0, disputed: self.disputed }
    }
}

fn given<'r>(rows: &'r [Cow<'_, Publication>]) -> Vec<RowValue<'r>> {
    rows.iter().map(|row| RowValue(row)).collect()
}

fn swallowed(rows: i64, triggers: Option<&str>) -> Error {
    let triggers = triggers.map(|names| format!("; its triggers are {names}")).unwrap_or_default();
    Error::Data(
        format!("{rows} rows are not in the table publication as they were written{triggers}")
            .into(),
    )
}

#[async_trait]
impl PublicationWriter for PostgresWriter {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        if records.is_empty() {
            return Ok(Recorded::default());
        }
        let rows = merge_all(records);
        let mut recorded = Recorded::default();
        let has_triggers = self.has_triggers.load(Ordering::Relaxed);
        if rows.len() >= COPY_MIN_ROWS && !has_triggers && self.fresh.expected() {
            if let Some(written) = self.copy(&rows).await? {
                recorded.inserted = written;
                recorded.disputed = rows.iter().filter(|row| row.info.disputed).count() as u64;
            }
            self.fresh.learn(recorded.inserted > 0);
        }
        // Also if COPY wrote all but a few rows that a new trigger dropped: the upsert finds out.
        if recorded.inserted < rows.len() as u64 {
            for rows in rows.chunks(UPSERT_ROWS) {
                recorded += self.upsert(rows).await?;
            }
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
                let mut transaction = session.connection.begin().await?;
                let dropped = self.first_dropped(&mut transaction, &rows).await;
                // Roll back at once: a dropped transaction holds its locks until the connection is used again.
                transaction.rollback().await?;
                match dropped {
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
        migrate(&self.connections).await
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
         WHERE (kept.name IS NULL OR {})",
        POSTGRES.changes("kept", "incoming")
    )
}

/// The upsert. Rows that would not change are excluded before `ON CONFLICT` sees them, because it locks, and so writes,
/// each row it meets. The counts are: rows that should change the table, the new rows among them, rows written, and
/// rows that became disputed. All counts except the third read the table as it was before the statement. The last value are the
/// names of the table's triggers. If the condition does not hold, no row is written.
fn upsert(condition: &str) -> String {
    format!(
        "WITH incoming AS ({incoming}), triggers AS MATERIALIZED ({triggers}),
         meant AS MATERIALIZED ({meant} AND {condition}), written AS (
             INSERT INTO publication ({columns}) SELECT {columns} FROM meant
             {on_conflict}
             RETURNING name, version, disputed
         )
         SELECT (SELECT count(*) FROM meant), (SELECT count(*) FROM meant WHERE is_new), count(*),
             count(*) FILTER (WHERE disputed AND NOT EXISTS (
                 SELECT FROM publication AS before
                 WHERE before.name = written.name AND before.version = written.version AND before.disputed)),
             (SELECT names FROM triggers)
         FROM written",
        incoming = incoming(),
        triggers = triggers(),
        meant = changing(),
        columns = names(),
        on_conflict = POSTGRES.on_conflict(),
    )
}

/// The SQL of the names of the triggers that run for an insert or an update of `publication` or one of its partitions, without
/// those of constraints.
fn triggers() -> String {
    format!(
        "WITH RECURSIVE partitions AS ({PARTITIONS}) SELECT string_agg(DISTINCT tgname::text, ', ') AS names \
         FROM partitions JOIN pg_trigger ON tgrelid = partitions.relid \
         WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgtype & 20 <> 0"
    )
}

/// The SQL of whether the table has triggers or rules.
fn bypassed() -> String {
    format!(
        "SELECT triggers.names IS NOT NULL OR relhasrules FROM ({}) AS triggers, pg_class \
         WHERE pg_class.oid = to_regclass('publication')",
        triggers()
    )
}

/// The SQL that counts the rows that would still change the table after they were written.
fn unwritten() -> String {
    format!("WITH incoming AS ({}) SELECT count(*) FROM ({}) AS meant", incoming(), changing())
}
