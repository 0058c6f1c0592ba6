//! Writing: one connection, one transaction a batch, several rows a statement.

use std::borrow::Cow;
use std::collections::HashSet;

use async_trait::async_trait;
use model::{Publication, PublicationId, Timestamp, merge_all};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row, Sqlite, SqliteConnection};

use super::{MIGRATOR, tuned};
use crate::fresh::FreshKeys;
use crate::merge::{COLUMNS, SQLITE};
use crate::{Error, PublicationWriter, Recorded};

/// Rows of one statement, greatest first; few sizes, so that each is prepared once. 128 rows are 2,048 values, well
/// under SQLite's 32,766, and more rows save no more.
const STATEMENT_ROWS: [usize; 3] = [128, 16, 1];

/// Writes to SQLite.
#[derive(Debug)]
pub struct SqliteWriter {
    /// Of one connection: SQLite has one writer, and waiting in our own queue is fair where its lock is not.
    pub(super) pool: SqlitePool,
    /// The statement for each of [`STATEMENT_ROWS`].
    upserts: [String; 3],
    /// The same where every key is new.
    inserts: [String; 3],
    fresh: FreshKeys,
}

impl SqliteWriter {
    pub(crate) fn open(options: SqliteConnectOptions) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            // A batch waits for the ones before it, however long those take.
            .acquire_timeout(std::time::Duration::from_secs(600))
            .connect_lazy_with(tuned(options.create_if_missing(true)));
        let upserts = STATEMENT_ROWS.map(|rows| insert("INSERT", rows, &SQLITE.on_conflict()));
        // A statement that fails need not take its own rows back, which would cost a copy of every page that it changes:
        // the whole transaction is taken back.
        let inserts = STATEMENT_ROWS.map(|rows| insert("INSERT OR FAIL", rows, ""));
        Self { pool, upserts, inserts, fresh: FreshKeys::default() }
    }

    /// Writes rows whose keys are all new, without asking which are there: half of the work. `None` when one was there;
    /// nothing is written then.
    async fn insert_new(&self, rows: &[Cow<'_, Publication>]) -> Result<Option<Recorded>, Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let inserted = match execute(&mut transaction, &self.inserts, rows).await {
            Ok(inserted) => inserted,
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                transaction.rollback().await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        transaction.commit().await?;
        let disputed = rows.iter().filter(|row| row.info.disputed).count() as u64;
        Ok(Some(Recorded { inserted, disputed, ..Recorded::default() }))
    }
}

#[async_trait]
impl PublicationWriter for SqliteWriter {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        if records.is_empty() {
            return Ok(Recorded::default());
        }
        let rows = merge_all(records);
        if self.fresh.expected() {
            let recorded = self.insert_new(&rows).await?;
            self.fresh.learn(recorded.is_some());
            if let Some(mut recorded) = recorded {
                recorded.unchanged = records.len() as u64 - recorded.inserted;
                return Ok(recorded);
            }
        }
        // IMMEDIATE: what is read below stays true until the commit.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let before = Before::read(&mut transaction, &rows).await?;
        let changed = execute(&mut transaction, &self.upserts, &rows).await?;
        let fresh = |row: &&Cow<'_, Publication>| !before.present.contains(&row.id);
        let inserted = rows.iter().filter(fresh).count() as u64;
        let mut disputed = rows.iter().filter(fresh).filter(|row| row.info.disputed).count() as u64;
        if changed > inserted {
            let after = Before::read(&mut transaction, &rows).await?;
            disputed += before
                .present
                .intersection(&after.disputed)
                .filter(|id| !before.disputed.contains(id))
                .count() as u64;
        }
        transaction.commit().await?;
        let updated = changed - inserted;
        Ok(Recorded {
            inserted,
            updated,
            unchanged: records.len() as u64 - inserted - updated,
            disputed,
        })
    }

    fn is_serial(&self) -> bool {
        true
    }

    async fn migrate(&self) -> Result<(), Error> {
        Ok(MIGRATOR.run(&self.pool).await?)
    }

    async fn generation(&self) -> Result<u32, Error> {
        let highest: Option<u32> =
            sqlx::query_scalar("SELECT max(generation) FROM publication WHERE generation > 0")
                .fetch_one(&self.pool)
                .await?;
        Ok(highest.unwrap_or(0))
    }

    async fn oldest_unsettled(&self) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT created FROM publication WHERE NOT tor_settled ORDER BY created LIMIT 1";
        let oldest: Option<String> = sqlx::query_scalar(sql).fetch_optional(&self.pool).await?;
        let parse = |text: String| {
            Timestamp::parse(&text).map_err(|error| Error::fatal(format!("a row's time: {error}")))
        };
        oldest.map(parse).transpose()
    }
}

/// Which of the rows are in the table, and which of those are disputed: SQLite does not tell an insertion from a change.
#[derive(Debug, Default)]
struct Before {
    present: HashSet<PublicationId>,
    disputed: HashSet<PublicationId>,
}

impl Before {
    async fn read(
        connection: &mut SqliteConnection,
        rows: &[Cow<'_, Publication>],
    ) -> Result<Self, Error> {
        let found = sqlx::query(
            "SELECT p.name, p.version, p.disputed FROM json_each($1) AS i \
             CROSS JOIN publication AS p ON p.name = i.value ->> 0 AND p.version = i.value ->> 1",
        )
        .bind(keys(rows.iter().map(|row| &row.id)))
        .fetch_all(connection)
        .await?;
        let mut before = Self::default();
        for row in found {
            let id = PublicationId::new(row.try_get(0)?, row.try_get(1)?)
                .map_err(|_| Error::fatal("a row holds a value that no event can have"))?;
            if row.try_get(2)? {
                before.disputed.insert(id.clone());
            }
            before.present.insert(id);
        }
        Ok(before)
    }
}

/// The keys as a JSON array of `[name, version]`, the one way to bind a list of any length.
pub(super) fn keys<'a>(ids: impl Iterator<Item = &'a PublicationId>) -> String {
    serde_json::Value::from_iter(ids.map(|id| vec![id.name.as_str(), id.version.as_str()]))
        .to_string()
}

/// Executes the statements over all of the rows; returns how many rows it changed.
async fn execute(
    connection: &mut SqliteConnection,
    statements: &[String; 3],
    rows: &[Cow<'_, Publication>],
) -> sqlx::Result<u64> {
    let mut bound = parts(rows).map(|(kind, part)| {
        let query = sqlx::query(AssertSqlSafe(statements[kind].as_str()));
        part.iter().fold(query, |query, row| bind_row(query, row))
    });
    let mut changed = 0;
    let mut next = bound.next();
    while let Some(query) = next {
        // SQLite works in a thread of its own: the next values are bound meanwhile.
        let executing = query.execute(&mut *connection);
        let (done, following) = tokio::join!(biased; executing, async { bound.next() });
        changed += done?.rows_affected();
        next = following;
    }
    Ok(changed)
}

/// Cuts the rows into parts of [`STATEMENT_ROWS`], each with its statement's place.
fn parts<T>(rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let kind = STATEMENT_ROWS.iter().position(|size| *size <= rest.len())?;
        let (part, behind) = rest.split_at(STATEMENT_ROWS[kind]);
        rest = behind;
        Some((kind, part))
    })
}

/// Binds the values of a row, in the order of `COLUMNS`.
pub(super) fn bind_row<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    row: &'q Publication,
) -> Query<'q, Sqlite, SqliteArguments> {
    let info = &row.info;
    query
        .bind(row.id.name.as_str())
        .bind(row.id.version.as_str())
        .bind(info.username.as_ref().map(model::Username::as_str))
        .bind(info.created.to_rfc3339_micros())
        .bind(info.tor)
        .bind(info.tfa)
        .bind(info.tor_reason.as_str())
        .bind(info.tfa_reason.as_str())
        .bind(row.tor_evidence_until.map(model::Timestamp::to_rfc3339_micros))
        .bind(info.tor_settled)
        .bind(info.credential.as_str())
        .bind(info.actor.as_str())
        .bind(row.revision)
        .bind(row.generation)
        .bind(&row.identity.0[..])
        .bind(info.disputed)
}

fn insert(verb: &str, rows: usize, on_conflict: &str) -> String {
    let row = format!("({})", ["?"; COLUMNS.len()].join(", "));
    format!(
        "{verb} INTO publication ({}) VALUES {} {on_conflict}",
        COLUMNS.join(", "),
        vec![row; rows].join(", ")
    )
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    #[tokio::test]
    async fn rows_of_the_first_layout_are_kept() {
        let first = include_str!("../../migrations/sqlite/0001_publication.sql");
        let third = include_str!("../../migrations/sqlite/0003_rowid.sql");
        let fourth = include_str!("../../migrations/sqlite/0004_unjournaled.sql");
        let row = "INSERT INTO publication VALUES ('a', '1', NULL, '2022-03-01T12:00:00.000000Z', NULL, 1, 'no_coverage',
            'second_factor', NULL, 0, 'session_token', 'user', 2, 0, zeroblob(16), 1)";
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for sql in [first, row, third, fourth] {
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
        let kept: (String, Option<bool>, Option<bool>, u32, bool) =
            sqlx::query_as("SELECT name, tor, tfa, revision, disputed FROM publication")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(kept, ("a".to_owned(), None, Some(true), 2, true));
        let again = sqlx::raw_sql(row).execute(&mut connection).await;
        assert!(again.unwrap_err().to_string().contains("UNIQUE"));
    }
}
