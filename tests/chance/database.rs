//! The database of a schedule, read and changed independently of the ingesters.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Column, PgPool, Row as _, SqlitePool};
use testkit::DatabaseAdmin;

use crate::run::PATIENCE;
use crate::support::{Row, Scene, replace_file};

/// A password in the URL of PostgreSQL, which does not check it. It must not be printed.
pub(crate) const SECRET: &str = "open-sesame-7";

/// A database of either kind.
pub(crate) enum Database {
    Postgres { pool: PgPool, admin: DatabaseAdmin },
    Sqlite { pool: SqlitePool, file: PathBuf },
}

const POSTGRES_ROWS: &str = r#"SELECT name, version, username,
    to_char(created AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created, tor::text, tfa::text,
    tor_reason::text, tfa_reason::text, tor_settled::text, credential::text, actor::text, revision::text,
    generation::text, encode(event_identity, 'hex') AS event_identity, disputed::text, integrity
    FROM publication"#;
const SQLITE_ROWS: &str = "SELECT name, version, username, created,
    CASE tor WHEN 1 THEN 'true' WHEN 0 THEN 'false' END AS tor,
    CASE tfa WHEN 1 THEN 'true' WHEN 0 THEN 'false' END AS tfa, tor_reason, tfa_reason,
    CASE tor_settled WHEN 1 THEN 'true' ELSE 'false' END AS tor_settled, credential, actor,
    CAST(revision AS TEXT) AS revision, CAST(generation AS TEXT) AS generation,
    lower(hex(event_identity)) AS event_identity,
    CASE disputed WHEN 1 THEN 'true' ELSE 'false' END AS disputed, integrity FROM publication";
/// Everything that the ingester stores in tables, as text.
const POSTGRES_TEXT: &str = "SELECT coalesce(string_agg(line, ' '), '') FROM (
    SELECT t::text AS line FROM publication t UNION ALL SELECT t::text FROM ingest_position t
    UNION ALL SELECT t::text FROM replay_job t) AS lines";

impl Database {
    pub(crate) fn of(scene: &Scene) -> Self {
        let patience = Duration::from_secs(5);
        if let Some(file) = scene.store.strip_prefix("sqlite://") {
            let url = format!("{}?mode=rw", scene.store);
            // A new connection for each statement, because the file may have been replaced.
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .max_lifetime(Duration::ZERO)
                .acquire_timeout(patience)
                .connect_lazy(&url);
            let pool = pool.expect("a URL of this run");
            return Self::Sqlite { pool, file: file.into() };
        }
        let options = PgPoolOptions::new().max_connections(2).acquire_timeout(patience);
        let pool = options.connect_lazy(&scene.store).expect("a URL of testkit's");
        Self::Postgres { pool, admin: DatabaseAdmin::of(&scene.store) }
    }

    /// All rows; `None` without an answer from the database.
    pub(crate) async fn rows(&self) -> Option<Vec<Row>> {
        macro_rules! fetch {
            ($pool:expr, $sql:expr) => {{
                let rows = sqlx::query($sql).fetch_all($pool).await.ok()?;
                let text = rows.iter().map(|row| {
                    let columns = row.columns().iter();
                    columns
                        .map(|column| (column.name().to_owned(), row.get(column.ordinal())))
                        .collect()
                });
                Some(text.collect())
            }};
        }
        match self {
            Self::Postgres { pool, .. } => fetch!(pool, POSTGRES_ROWS),
            Self::Sqlite { pool, .. } => fetch!(pool, SQLITE_ROWS),
        }
    }

    /// Everything that is stored, to search it for texts that must not be stored.
    pub(crate) async fn text(&self) -> String {
        match self {
            Self::Postgres { pool, .. } => {
                let text = sqlx::query_scalar(POSTGRES_TEXT).fetch_one(pool).await;
                text.expect("the database answers")
            }
            Self::Sqlite { file, .. } => {
                let log = PathBuf::from(format!("{}-wal", file.display()));
                let mut bytes = fs::read(file).expect("the file is there");
                // Rows that are not in the file yet. The last connection removes the log.
                bytes.extend(fs::read(log).unwrap_or_default());
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// Executes statements in one session.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = AssertSqlSafe(sql);
        match self {
            Self::Postgres { pool, .. } => sqlx::raw_sql(sql).execute(pool).await.map(|_| ()),
            Self::Sqlite { pool, .. } => sqlx::raw_sql(sql).execute(pool).await.map(|_| ()),
        }
    }

    /// `false` refuses new sessions and ends the existing ones; `true` allows sessions again. PostgreSQL only.
    pub(crate) async fn admit(&self, all: bool) {
        if let Self::Postgres { admin, .. } = self {
            admin.admit(all).await;
        }
    }

    /// Ends all sessions. PostgreSQL only.
    pub(crate) async fn end_sessions(&self) {
        if let Self::Postgres { admin, .. } = self {
            admin.end_sessions().await;
        }
    }

    /// Makes sessions read-only, or writable again. Ends the existing sessions. PostgreSQL only.
    pub(crate) async fn read_only(&self, on: bool) {
        if let Self::Postgres { admin, .. } = self {
            admin.alter(&format!("SET default_transaction_read_only = {on}")).await;
            admin.end_sessions().await;
        }
    }

    /// Locks the rows against writes for a while.
    pub(crate) async fn lock_table(&self, time: Duration) {
        match self {
            Self::Postgres { pool, .. } => {
                let lock = "BEGIN; LOCK TABLE publication IN ACCESS EXCLUSIVE MODE";
                let seconds = time.as_secs_f64();
                let sql = format!("{lock}; SELECT pg_sleep({seconds}); COMMIT");
                // The lock may fail while other sessions hold theirs.
                let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
            }
            Self::Sqlite { pool, .. } => {
                let Ok(mut connection) = pool.acquire().await else { return };
                let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await;
                let until = Instant::now() + time;
                let passed = async || Instant::now() >= until;
                testkit::eventually("the lock's time", time * 2 + PATIENCE, passed).await;
                if begun.is_ok() {
                    let end = sqlx::raw_sql("COMMIT").execute(&mut *connection).await;
                    end.expect("a transaction ends");
                }
            }
        }
    }

    /// Makes a copy for [`Self::put_back`].
    pub(crate) async fn take_copy(&self) {
        match self {
            Self::Postgres { admin, .. } => admin.copy().await,
            Self::Sqlite { pool, file } => {
                let sql = format!("VACUUM INTO '{}.copy'", file.display());
                let made = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
                made.expect("a file can be copied");
            }
        }
    }

    /// Replaces the database by the copy.
    pub(crate) async fn put_back(&self) {
        match self {
            Self::Postgres { admin, .. } => admin.put_back().await,
            Self::Sqlite { file, .. } => {
                replace_file(file, Path::new(&format!("{}.copy", file.display())));
            }
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Postgres { pool, admin } => {
                pool.close().await;
                admin.close().await;
            }
            Self::Sqlite { pool, .. } => pool.close().await,
        }
    }
}
