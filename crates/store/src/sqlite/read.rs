//! Reading.

use async_trait::async_trait;
use model::{Publication, PublicationId, Timestamp};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::{time, tuned};
use crate::columns::{self, COLUMNS, Source};
use crate::filter::{Bound, listing};
use crate::{Cursor, Error, Filter, PublicationReader, StoreSettings};

/// Columns as they are selected.
fn selected() -> String {
    columns::list(&COLUMNS, |column| format!("p.{}", column.name))
}

/// Reads from SQLite.
#[derive(Debug)]
pub struct SqliteReader {
    pool: SqlitePool,
    find: String,
}

impl SqliteReader {
    pub(crate) fn open(options: SqliteConnectOptions, settings: &StoreSettings) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(settings.connect_timeout)
            // Not opened read-only: a reader of a write-ahead log keeps its shared memory and may be the first to open it.
            .connect_lazy_with(tuned(options).pragma("query_only", "true"));
        let find = format!(
            "SELECT i.key, {} FROM json_each($1) AS i \
             CROSS JOIN publication AS p ON p.name = i.value ->> 0 AND p.version = i.value ->> 1",
            selected()
        );
        Self { pool, find }
    }
}

#[async_trait]
impl PublicationReader for SqliteReader {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        let query = sqlx::query(AssertSqlSafe(self.find.as_str())).bind(keys(ids.iter()));
        let mut found = vec![None; ids.len()];
        for row in query.fetch_all(&self.pool).await? {
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
        query.fetch_all(&self.pool).await?.iter().map(|row| whole(row, 0)).collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1 FROM publication LIMIT 0").execute(&self.pool).await?;
        Ok(())
    }
}

/// The publication of a row whose columns begin at `first`.
fn whole(row: &SqliteRow, first: usize) -> Result<Publication, Error> {
    let found = Found { row, first };
    columns::publication(&found, columns::id(&found)?)
}

/// A row of an answer.
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

/// The keys as a JSON array of `[name, version]`, the one way to bind a list of any length.
fn keys<'a>(ids: impl Iterator<Item = &'a PublicationId>) -> String {
    serde_json::Value::from_iter(ids.map(|id| vec![id.name.as_str(), id.version.as_str()]))
        .to_string()
}
