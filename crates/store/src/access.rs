//! The rights and the state of the database, queried without changing anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions, Row};

use crate::settings::Database;
use crate::{Error, StoreSettings, postgres, sqlite};

/// The result of the queries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `PostgreSQL 18.1`, `SQLite 3.50.4`.
    pub database: String,
    /// By right, such as `INSERT on publication`, whether this role has it; without tables that do not exist.
    pub rights: BTreeMap<String, bool>,
    /// Why no transaction may write, whatever the rights; `None` if transactions may write.
    pub read_only: Option<&'static str>,
    /// Whether this role may create tables.
    pub create: bool,
    /// Whether the table `publication` exists.
    pub has_rows: bool,
    /// The file of an SQLite store that does not exist yet.
    pub missing_file: Option<PathBuf>,
    /// Migrations that have not run yet.
    pub pending: Vec<i64>,
    /// Applied migrations of a later build.
    pub unknown: Vec<i64>,
    /// The server's settings that decide whether a commit survives a crash, by name.
    pub durability: BTreeMap<String, String>,
}

/// Queries the database.
///
/// # Errors
/// [`Error::Transient`] while the database is unavailable, else [`Error::Fatal`].
pub async fn access(settings: &StoreSettings) -> Result<Access, Error> {
    match settings.database()? {
        Database::Postgres(url) => {
            let connection = postgres::connect(&url, settings).await?;
            let asking = ask_postgres(connection, &settings.schema);
            postgres::limited(settings.statement_timeout, asking).await
        }
        Database::Sqlite(options) => ask_sqlite(options).await,
    }
}

async fn ask_postgres(mut connection: sqlx::PgConnection, schema: &str) -> Result<Access, Error> {
    let connection = &mut connection;
    postgres::inspect(connection, schema).await?;
    let mut rights = BTreeMap::new();
    let wanted_rights = [
        ("publication", &["SELECT", "INSERT", "UPDATE"][..]),
        ("replay_job", &["SELECT", "INSERT", "UPDATE"]),
        ("ingest_position", &["SELECT", "INSERT", "UPDATE"]),
        ("_sqlx_migrations", &["SELECT"]),
    ];
    for (table, rights_of_table) in wanted_rights {
        for right in rights_of_table {
            let sql = "SELECT has_table_privilege(to_regclass($1), $2)";
            let may: Option<bool> = sqlx::query_scalar(sql)
                .bind(table)
                .bind(*right)
                .fetch_one(&mut *connection)
                .await?;
            // Null if the table does not exist.
            rights.extend(may.map(|may| (format!("{right} on {table}"), may)));
        }
    }
    let create = sqlx::query_scalar(postgres::MAY_CREATE).bind(schema);
    let create = create.fetch_one(&mut *connection).await?;
    let version: String =
        sqlx::query_scalar("SHOW server_version").fetch_one(&mut *connection).await?;
    let state = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let read_only = match sqlx::query_as(state).fetch_one(&mut *connection).await? {
        (true, _) => Some("the server is a standby"),
        (false, true) => Some("transactions are read-only here (default_transaction_read_only)"),
        (false, false) => None,
    };
    let migrated = rights.get("SELECT on _sqlx_migrations").copied();
    let applied: Option<Vec<i64>> = match migrated {
        Some(true) => Some(sqlx::query_scalar(APPLIED).fetch_all(&mut *connection).await?),
        // The applied migrations cannot be read; the result names the missing right.
        Some(false) => None,
        None => Some(Vec::new()),
    };
    let durability = "SELECT name, setting FROM pg_settings \
                      WHERE name IN ('fsync', 'full_page_writes')";
    let durability = sqlx::query(durability).fetch_all(&mut *connection).await?;
    let durability = durability.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let (pending, unknown) = match &applied {
        Some(applied) => compare(&postgres::MIGRATOR, applied),
        None => Default::default(),
    };
    Ok(Access {
        database: format!("PostgreSQL {version}, schema {schema}"),
        has_rows: rights.contains_key("SELECT on publication"),
        missing_file: None,
        rights,
        read_only,
        create,
        pending,
        unknown,
        durability: durability.collect::<Result<_, sqlx::Error>>()?,
    })
}

const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";

async fn ask_sqlite(options: sqlx::sqlite::SqliteConnectOptions) -> Result<Access, Error> {
    // A file that this function created would be empty; `migrate` creates the file with its tables.
    let file = options.get_filename().to_owned();
    let is_there = file.try_exists();
    let unreachable =
        |error| Error::transient(format!("the file {} of store.url: {error}", file.display()));
    if !is_there.map_err(unreachable)? {
        sqlite::check_folder(&file)?;
        let folder = sqlite::folder_of(&file).unwrap_or(Path::new("."));
        let writable = sqlite::is_writable(folder);
        let (pending, unknown) = compare(&sqlite::MIGRATOR, &[]);
        let database = "SQLite, the file does not exist yet".to_owned();
        return Ok(Access {
            database,
            create: writable,
            missing_file: Some(file),
            pending,
            unknown,
            ..Access::default()
        });
    }
    let of_file = |error: sqlx::Error| sqlite::of_file(error.into(), &file);
    let mut connection = options.connect().await.map_err(of_file)?;
    let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await;
    let version: String = version.map_err(of_file)?;
    let tables = "SELECT name FROM sqlite_schema WHERE name IN ('publication', '_sqlx_migrations')";
    let tables = sqlx::query_scalar(tables).fetch_all(&mut connection).await;
    let tables: Vec<String> = tables.map_err(of_file)?;
    let has = |table: &str| tables.iter().any(|name| name == table);
    // On a file that is not writable, the lock fails already.
    let writable =
        sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK").execute(&mut connection).await.is_ok();
    let applied = if has("_sqlx_migrations") {
        sqlx::query_scalar(APPLIED).fetch_all(&mut connection).await.map_err(of_file)?
    } else {
        Vec::new()
    };
    let has_rows = has("publication");
    let mut rights = BTreeMap::new();
    if has_rows {
        rights = BTreeMap::from([("writing the file".to_owned(), writable)]);
    }
    let (pending, unknown) = compare(&sqlite::MIGRATOR, &applied);
    let database = format!("SQLite {version}");
    let create = writable;
    Ok(Access { database, rights, create, has_rows, pending, unknown, ..Access::default() })
}

fn compare(migrator: &Migrator, applied: &[i64]) -> (Vec<i64>, Vec<i64>) {
    let ours: Vec<i64> = migrator.iter().map(|migration| migration.version).collect();
    let pending = ours.iter().filter(|version| !applied.contains(version)).copied().collect();
    let unknown = applied.iter().filter(|version| !ours.contains(version)).copied().collect();
    (pending, unknown)
}
