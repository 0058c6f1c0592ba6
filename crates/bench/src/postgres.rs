//! PostgreSQL alone: the rows that the ingester wrote are dumped and copied back into the same table.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::postgres::PgPoolCopyExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tempfile::TempDir;
use testkit::Postgres;

/// The settings that differ from the defaults. With 128 MB of shared buffers and 1 GB of WAL between checkpoints, a
/// million rows would measure the disk. Durability is unchanged.
pub(crate) const SETTINGS: [(&str, &str); 2] =
    [("shared_buffers", "512MB"), ("max_wal_size", "4GB")];

/// A durable server.
pub(crate) fn start() -> Postgres {
    let settings = SETTINGS.iter();
    settings
        .fold(Postgres::builder(), |builder, (name, value)| builder.setting(name, value))
        .start()
}

/// The server's version. Fails unless commits are durable.
pub(crate) async fn version(url: &str) -> Result<String> {
    let mut connection = PgConnection::connect(url).await?;
    let durable: String =
        sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut connection).await?;
    ensure!(durable == "on", "synchronous_commit is {durable}");
    Ok(sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?)
}

/// Runs a checkpoint, so that a measurement begins without pending writes of the previous one.
pub(crate) async fn settle(url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    Ok(())
}

/// The bytes of WAL since the server was created.
pub(crate) async fn logged(url: &str) -> Result<f64> {
    let mut connection = PgConnection::connect(url).await?;
    let bytes = "SELECT (pg_current_wal_lsn() - '0/0')::float8";
    Ok(sqlx::query_scalar(bytes).fetch_one(&mut connection).await?)
}

/// Drops a database and ends its sessions.
pub(crate) async fn drop_database(server: &str, url: &str) -> Result<()> {
    let name = url.rsplit('/').next().context("a URL ends with the database's name")?;
    let mut connection = PgConnection::connect(server).await?;
    let drop = format!("DROP DATABASE \"{name}\" WITH (FORCE)");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await?;
    Ok(())
}

/// The number of rows in the table.
pub(crate) async fn count(url: &str) -> Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar("SELECT count(*) FROM publication").fetch_one(&mut connection).await?)
}

/// The bytes of the table and its indexes together.
pub(crate) async fn size(url: &str) -> Result<f64> {
    let mut connection = PgConnection::connect(url).await?;
    let bytes = "SELECT pg_total_relation_size('publication')::float8";
    Ok(sqlx::query_scalar(bytes).fetch_one(&mut connection).await?)
}

/// Executes statements, each in its own transaction, so that later writes are logged as usual. Then runs a checkpoint.
pub(crate) async fn execute(url: &str, statements: &[&'static str]) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    for statement in statements {
        sqlx::raw_sql(*statement).execute(&mut connection).await?;
    }
    settle(url).await
}

/// Commits one row after the other in one session: at once, or one at each interval. Returns the seconds of each
/// commit, sorted. A commit that is due while an earlier one runs counts its wait, as a record does.
pub(crate) async fn commits(url: &str, during: Duration, interval: Duration) -> Result<Vec<f64>> {
    let mut connection = PgConnection::connect(url).await?;
    let table = "DROP TABLE IF EXISTS committed; CREATE TABLE committed (number bigint)";
    sqlx::raw_sql(table).execute(&mut connection).await?;
    let (began, mut times) = (Instant::now(), Vec::new());
    let mut due = began;
    while began.elapsed() < during {
        let mut start = due;
        if Instant::now() < due {
            tokio::time::sleep_until(due.into()).await;
            // The timer is late by up to two milliseconds, which is longer than a commit.
            start = Instant::now();
        }
        let insert = sqlx::query("INSERT INTO committed VALUES ($1)").bind(1_i64);
        insert.execute(&mut connection).await?;
        times.push(start.elapsed().as_secs_f64());
        due = if interval.is_zero() { Instant::now() } else { due + interval };
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The table's rows in two files, in physical order, which is the order in which the ingester wrote them.
pub(crate) struct Dump {
    _directory: TempDir,
    files: Vec<PathBuf>,
}

impl Dump {
    pub(crate) async fn write(url: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("copy-").tempdir()?;
        // The server reads the files itself, as another user.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let pool = PgPool::connect(url).await?;
        let size = "SELECT pg_relation_size('publication') / current_setting('block_size')::int";
        let blocks: i64 = sqlx::query_scalar(size).fetch_one(&pool).await?;
        let mut files = Vec::new();
        for (name, side) in [("first", "<"), ("second", ">=")] {
            let path = directory.path().join(name);
            let rows = format!("SELECT * FROM publication WHERE ctid {side} '({},0)'", blocks / 2);
            dump(&pool, &rows, &path).await?;
            files.push(path);
        }
        Ok(Self { _directory: directory, files })
    }

    /// Copies all rows into `table`, with one session per file. Returns the seconds.
    pub(crate) async fn copy_into(&self, table: &str, url: &str) -> Result<f64> {
        let mut sessions = Vec::new();
        for file in &self.files {
            let copy = format!("COPY {table} FROM '{}' (FORMAT binary)", file.display());
            sessions.push((PgConnection::connect(url).await?, copy));
        }
        let began = Instant::now();
        let running = sessions.into_iter().map(|(mut connection, sql)| {
            tokio::spawn(
                async move { sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await },
            )
        });
        for session in running.collect::<Vec<_>>() {
            session.await??;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

async fn dump(pool: &PgPool, rows: &str, path: &Path) -> Result<()> {
    let copy = format!("COPY ({rows}) TO STDOUT (FORMAT binary)");
    let mut file = File::create(path)?;
    let mut parts = pool.copy_out_raw(&copy).await?;
    while let Some(part) = std::future::poll_fn(|context| parts.as_mut().poll_next(context)).await {
        file.write_all(&part?)?;
    }
    file.flush().context("writing the dump")
}
