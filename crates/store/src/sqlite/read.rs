//! Reads publications.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use model::{Credential, PackageName, Past, Publication, PublicationId, PublishMethod, Timestamp};
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{
    Sqlite, SqliteArguments, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow,
};
use sqlx::{AssertSqlSafe, Row};

use super::connection::file;
use super::{BUSY_TIMEOUT, of_file, time};
use crate::columns::{self, COLUMNS, Source};
use crate::filter::{Bound, listing};
use crate::search::search;
use crate::{
    Cursor, DatabaseId, EachPackage, Error, Filter, PublicationReader, RowsRead, StoreSettings,
};

/// The page cache of a connection, in KiB if negative: a query daemon has several connections and little memory, and the
/// operating system caches the file once for all.
const READER_CACHE: &str = "-1024";

/// The rows of the packages of a JSON array. A CROSS JOIN reads its left side first, and `json_each` returns the array's
/// elements in their order. With an ORDER BY, SQLite would read and sort all rows before it returns the first.
pub(crate) const HISTORY: &str = "SELECT i.key, p.version, p.created, p.tfa, p.credential, p.username \
    FROM json_each($1) AS i CROSS JOIN publication AS p ON p.name = i.value";

/// The column list of a SELECT.
fn selected() -> String {
    columns::list(&COLUMNS, |column| format!("p.{}", column.name))
}

/// Reads from SQLite.
#[derive(Debug)]
pub(crate) struct SqliteReader {
    options: SqliteConnectOptions,
    max_connections: u32,
    connect_timeout: Duration,
    /// The connections to the file that existed when the last statement began, with its identity.
    open: Mutex<Option<(DatabaseId, SqlitePool)>>,
    find: String,
}

impl SqliteReader {
    pub(crate) fn open(options: SqliteConnectOptions, settings: &StoreSettings) -> Self {
        let find = format!(
            "SELECT i.key, {} FROM json_each($1) AS i \
             CROSS JOIN publication AS p ON p.name = i.value ->> 0 AND p.version = i.value ->> 1",
            selected()
        );
        let (busy_timeout, milliseconds) = BUSY_TIMEOUT;
        Self {
            // Not opened read-only: a reader of a write-ahead log writes to its shared memory, and may be the first to
            // open the log. The journal mode is the writer's choice, because it is stored in the file.
            options: options
                .pragma(busy_timeout, milliseconds)
                .pragma("query_only", "true")
                .pragma("cache_size", READER_CACHE),
            max_connections: settings.max_connections,
            connect_timeout: settings.connect_timeout,
            open: Mutex::default(),
            find,
        }
    }

    /// The connections to the file that is there now. SQLite would continue to read from a file that was replaced.
    fn pool(&self) -> Result<SqlitePool, Error> {
        let file = file(self.options.get_filename())?;
        let mut open = self.open.lock();
        if let Some((known, pool)) = &*open
            && *known == file
        {
            return Ok(pool.clone());
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.connect_timeout)
            .connect_lazy_with(self.options.clone());
        *open = Some((file, pool.clone()));
        Ok(pool)
    }

    /// Runs a statement that may read much of the table.
    async fn rows(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, Error> {
        let mut connection = self.interruptible().await?;
        let rows = query.fetch_all(&mut *connection.connection).await;
        connection.is_done = true;
        rows.map_err(|error| self.failed(error))
    }

    async fn interruptible(&self) -> Result<Interruptible, Error> {
        let connection = self.pool()?.acquire().await.map_err(|error| self.failed(error))?;
        let mut interruptible = Interruptible { connection, stop: Arc::default(), is_done: false };
        let stop = interruptible.stop.clone();
        let mut handle =
            interruptible.connection.lock_handle().await.map_err(|error| self.failed(error))?;
        handle.set_progress_handler(STEPS, move || !stop.load(Ordering::Relaxed));
        drop(handle);
        Ok(interruptible)
    }

    fn failed(&self, error: sqlx::Error) -> Error {
        of_file(error.into(), self.options.get_filename())
    }
}

/// A connection whose statement ends when this is dropped before [`Self::is_done`]. SQLite itself would run the statement of a
/// caller that is gone to its end, which may be the whole table.
struct Interruptible {
    connection: PoolConnection<Sqlite>,
    stop: Arc<AtomicBool>,
    is_done: bool,
}

/// The number of SQLite's steps between two looks at [`Interruptible::stop`]: less than a millisecond.
const STEPS: i32 = 10_000;

impl Drop for Interruptible {
    fn drop(&mut self) {
        if !self.is_done {
            self.stop.store(true, Ordering::Relaxed);
            self.connection.close_on_drop();
        }
    }
}

#[async_trait]
impl PublicationReader for SqliteReader {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        // SQLite can bind a list of any length only as JSON.
        let keys = ids.iter().map(|id| vec![id.name.as_str(), id.version.as_str()]);
        let keys = serde_json::Value::from_iter(keys).to_string();
        let query = sqlx::query(AssertSqlSafe(self.find.as_str())).bind(keys);
        let mut found = vec![None; ids.len()];
        let rows = query.fetch_all(&self.pool()?).await.map_err(|error| self.failed(error))?;
        for row in rows {
            let place = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
            if let Some(slot) = found.get_mut(place) {
                *slot = Some(whole(&row, 1)?);
            }
        }
        Ok(found)
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error> {
        let (sql, values) = listing(&selected(), filter, after, first);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in values {
            query = match value {
                Bound::Text(text) => query.bind(text),
                Bound::Time(time) => query.bind(time.to_rfc3339_micros()),
            };
        }
        self.rows(query).await?.iter().map(|row| whole(row, 0)).collect()
    }

    async fn history(
        &self,
        names: &[PackageName],
        limit: u64,
        each: EachPackage<'_>,
    ) -> Result<RowsRead, Error> {
        let mut sorted: Vec<&PackageName> = names.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let list = serde_json::Value::from_iter(sorted.iter().map(|name| name.as_str()));
        let mut connection = self.interruptible().await?;
        let mut answer =
            sqlx::query(HISTORY).bind(list.to_string()).fetch(&mut *connection.connection);
        // The rows of the current package.
        let (mut place, mut package) = (None, Vec::new());
        let mut rows = 0;
        let mut hand_on = |place: Option<i64>, package: &[Kept]| {
            let name = place.and_then(|place| sorted.get(usize::try_from(place).ok()?));
            let Some(name) = name else { return Ok(()) };
            let past = package.iter().map(|kept| {
                kept.past().map_err(|error| columns::of_row(error, name.as_str(), &kept.version))
            });
            let past: Vec<_> = past.collect::<Result<_, _>>()?;
            each(name, &past);
            Ok::<_, Error>(())
        };
        while let Some(row) = answer.try_next().await.map_err(|error| self.failed(error))? {
            let package_place: i64 = row.try_get(0)?;
            if place != Some(package_place) {
                if place > Some(package_place) {
                    return Err(Error::fatal("SQLite returned the rows of a package out of order"));
                }
                hand_on(place, &package)?;
                rows += package.len() as u64;
                package.clear();
                place = Some(package_place);
            }
            if rows + package.len() as u64 == limit {
                return Ok(RowsRead { rows, is_complete: false });
            }
            let kept = Kept::of(&row).map_err(|error| {
                let name = usize::try_from(package_place).ok().and_then(|place| sorted.get(place));
                match (name, row.try_get(1)) {
                    (Some(name), Ok(version)) => columns::of_row(error, name.as_str(), version),
                    _ => error,
                }
            });
            package.push(kept?);
        }
        hand_on(place, &package)?;
        drop(answer);
        connection.is_done = true;
        Ok(RowsRead { rows: rows + package.len() as u64, is_complete: true })
    }

    async fn search(
        &self,
        prefix: &str,
        after: Option<&str>,
        first: u32,
    ) -> Result<Vec<PackageName>, Error> {
        let search = search(prefix, after, first);
        let query = sqlx::query(AssertSqlSafe(search.sql)).bind(search.from);
        let query = search.end.into_iter().fold(query, |query, end| query.bind(end));
        self.rows(query).await?.iter().map(|row| Ok(PackageName::new(row.try_get(0)?)?)).collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        // Names a missing file by itself.
        self.pool()?;
        // Runs the statements that serve requests, so that a missing column fails here too.
        self.find(&[]).await?;
        self.list(&Filter::default(), None, 1).await?;
        self.history(&[], 0, &mut |_, _| {}).await?;
        Ok(())
    }
}

/// The publication of a row whose columns begin at `first`.
fn whole(row: &SqliteRow, first: usize) -> Result<Publication, Error> {
    let found = Found { row, first };
    columns::publication(&found, columns::id(&found)?)
}

/// A row of a result, whose columns begin at `first`.
struct Found<'r> {
    row: &'r SqliteRow,
    first: usize,
}

impl Source for Found<'_> {
    fn text(&self, column: usize) -> Result<Option<&str>, Error> {
        Ok(self.row.try_get(self.first + column)?)
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, Error> {
        self.text(column)?.map(time).transpose()
    }

    fn flag(&self, column: usize) -> Result<Option<bool>, Error> {
        Ok(self.row.try_get(self.first + column)?)
    }

    fn number(&self, column: usize) -> Result<u32, Error> {
        Ok(self.row.try_get(self.first + column)?)
    }

    fn bytes(&self, column: usize) -> Result<&[u8], Error> {
        Ok(self.row.try_get(self.first + column)?)
    }
}

/// The part of a row that a history needs. A [`SqliteRow`] has ten times its size, and a package has thousands of rows.
struct Kept {
    version: Box<str>,
    created: Timestamp,
    method: PublishMethod,
    username: Option<Box<str>>,
}

impl Kept {
    /// From a row of: index of the package, version, time, flag, credential, user name.
    fn of(row: &SqliteRow) -> Result<Self, Error> {
        let method = PublishMethod::of(row.try_get(3)?, Credential::parse(row.try_get(4)?)?);
        let (version, username) = (row.try_get(1)?, row.try_get(5)?);
        Ok(Self { version, created: time(row.try_get(2)?)?, method, username })
    }

    fn past(&self) -> Result<Past<'_>, Error> {
        Ok(Past::new(&self.version, self.created, self.method, self.username.as_deref())?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A file with the row `name` 1, whose `credential` may be a word that no build knows.
    async fn make(path: &std::path::Path, name: &str, credential: &str) {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        super::super::MIGRATOR.run(&pool).await.unwrap();
        let sql = format!(
            "PRAGMA ignore_check_constraints = true; \
             INSERT INTO publication (name, version, created, tor_reason, tfa_reason, tor_settled, credential, actor, \
             revision, generation, event_identity, disputed) VALUES ('{name}', '1', '2024-01-01T00:00:00.000000Z', \
             'no_address', 'not_reported', 1, '{credential}', 'unknown', 0, 0, zeroblob(16), 0)"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        pool.close().await;
    }

    /// A reader of such a file, in a folder that goes when it is dropped.
    async fn reader_of(name: &str, credential: &str) -> (tempfile::TempDir, SqliteReader) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there.db");
        make(&path, name, credential).await;
        let options = SqliteConnectOptions::new().filename(&path);
        (folder, SqliteReader::open(options, &StoreSettings::default()))
    }

    #[tokio::test]
    async fn a_reader_does_not_give_the_file_a_write_ahead_log() {
        let (_folder, reader) = reader_of("old", "unknown").await;
        assert_eq!(reader.search("", None, 10).await.unwrap().len(), 1);
        let query = sqlx::query("PRAGMA journal_mode");
        let mode: String = reader.rows(query).await.unwrap()[0].get(0);
        assert_eq!(mode, "delete");
    }

    #[tokio::test]
    async fn the_statement_of_a_caller_that_is_gone_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there.db");
        make(&path, "there", "unknown").await;
        let options = SqliteConnectOptions::new().filename(&path);
        let settings = StoreSettings { max_connections: 1, ..StoreSettings::default() };
        let reader = SqliteReader::open(options, &settings);
        let endless = sqlx::query(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        );
        assert!(timeout(Duration::from_millis(50), reader.rows(endless)).await.is_err());
        assert_eq!(reader.search("", None, 10).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_is_named() {
        let (_folder, reader) = reader_of("odd", "other").await;
        let ids = [PublicationId::new("odd", "1").unwrap()];
        for error in [
            reader.find(&ids).await.unwrap_err(),
            reader.list(&Filter::default(), None, 1).await.unwrap_err(),
            reader.history(&[ids[0].name.clone()], 9, &mut |_, _| {}).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Fatal(_)), "{error}");
            assert!(error.to_string().contains("the row of \"odd\" \"1\": "), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_was_put_in_the_place_of_another_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["there.db", "other.db"].map(|name| folder.path().join(name));
        for (path, name) in [(&path, "old"), (&other, "new")] {
            make(path, name, "unknown").await;
        }
        let options = SqliteConnectOptions::new().filename(&path);
        let reader = SqliteReader::open(options, &StoreSettings::default());
        let names = async || reader.search("", None, 10).await;
        assert_eq!(names().await.unwrap()[0].as_str(), "old");
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(names().await.unwrap()[0].as_str(), "new");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(names().await, Err(Error::Transient(_))), "none is there");
        assert!(matches!(reader.ready().await, Err(Error::Transient(_))));
    }
}
