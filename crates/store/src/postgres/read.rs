//! Reading.

use std::sync::Arc;

use async_trait::async_trait;
use model::{COLUMN_COUNT, PackageName, Publication, PublicationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Decode, Postgres, Row};

use super::coalescer::LookupCoalescer;
use super::connections::Connections;
use super::history::{self, Ended};
use super::values::Time;
use crate::columns::{self, COLUMNS, Column, KEY, Kind, Source};
use crate::filter::{Bound, listing};
use crate::search::search;
use crate::settings::PostgresUrl;
use crate::{Cursor, EachPackage, Error, Filter, PublicationReader, RowsRead, StoreSettings};

/// Look-ups of up to this many keys share a statement with others; for more, the statement's own cost is nothing.
const SMALL: usize = 64;

/// Columns as they are selected. The words are read as text: an enumeration's own type would have to be looked up on each
/// new connection, and the server is not measurably faster with it.
pub(super) fn selected(columns: &[Column]) -> String {
    columns::list(columns, |column| match column.kind {
        Kind::Word(..) => format!("p.{}::text", column.name),
        _ => format!("p.{}", column.name),
    })
}

/// Reads from PostgreSQL.
#[derive(Debug)]
pub struct PostgresReader {
    lookup: Arc<Lookup>,
    coalescer: LookupCoalescer,
}

impl PostgresReader {
    pub(crate) fn open(url: PostgresUrl, settings: &StoreSettings) -> Self {
        let lookup = Arc::new(Lookup::new(Connections::new(url, settings)));
        Self { coalescer: LookupCoalescer::new(lookup.clone()), lookup }
    }
}

/// The statement that finds rows by their keys.
#[derive(Debug)]
pub(super) struct Lookup {
    connections: Connections,
    sql: String,
}

impl Lookup {
    pub(super) fn new(connections: Connections) -> Self {
        let columns = selected(&COLUMNS[KEY..]);
        let sql = format!(
            "SELECT {columns}, i.place FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i(name, version, place) \
             JOIN publication p USING (name, version)"
        );
        Self { connections, sql }
    }

    /// What is found for each key: an error in one row is not the others'.
    pub(super) async fn find<'a>(
        &self,
        ids: impl Iterator<Item = &'a PublicationId>,
    ) -> Result<Vec<Result<Option<Publication>, Error>>, Error> {
        let ids: Vec<&PublicationId> = ids.collect();
        let names: Vec<&str> = ids.iter().map(|id| id.name.as_str()).collect();
        let versions: Vec<&str> = ids.iter().map(|id| id.version.as_str()).collect();
        let find = || {
            sqlx::query(AssertSqlSafe(self.sql.as_str()))
                .bind(names.as_slice())
                .bind(versions.as_slice())
        };
        let mut found: Vec<_> = ids.iter().map(|_| Ok(None)).collect();
        for row in self.connections.fetch_all(find).await? {
            // Places count from 1.
            let place =
                usize::try_from(value::<i64>(&row, COLUMN_COUNT - KEY)?).unwrap_or_default();
            let place = place.wrapping_sub(1);
            if let (Some(slot), Some(&id)) = (found.get_mut(place), ids.get(place)) {
                *slot =
                    columns::publication(&Found { row: &row, before: KEY }, id.clone()).map(Some);
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl PublicationReader for PostgresReader {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        if ids.len() <= SMALL {
            return self.coalescer.find(ids).await;
        }
        self.lookup.find(ids.iter()).await?.into_iter().collect()
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error> {
        let (sql, values) = listing(&selected(&COLUMNS), filter, after, first);
        let list = || {
            let query = sqlx::query(AssertSqlSafe(sql.as_str()));
            values.iter().fold(query, |query, value| match value {
                Bound::Text(text) => query.bind(*text),
                Bound::Time(time) => query.bind(Time(*time)),
            })
        };
        self.lookup.connections.fetch_all(list).await?.iter().map(whole).collect()
    }

    async fn history(
        &self,
        names: &[PackageName],
        limit: u64,
        each: EachPackage<'_>,
    ) -> Result<RowsRead, Error> {
        let mut names: Vec<&str> = names.iter().map(PackageName::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let connections = &self.lookup.connections;
        let mut tries = connections.tries().await?;
        loop {
            let mut session = tries.session().await?;
            let reading = async {
                match history::read(&mut session.connection, &names, limit, &mut *each).await {
                    Ok(read) => Ok(Ok(read)),
                    Err(Ended::Database(error)) => Err(error),
                    // The rest of the answer is still on its way: the session ends with it.
                    Err(Ended::Limit(read)) => Ok(Err(Ok(read))),
                    Err(Ended::Row(error)) => Ok(Err(Err(error))),
                }
            };
            match connections.limited(reading).await {
                Some(Ok(Err(broken_off))) => return broken_off,
                done => {
                    let done = done.map(|done| done.map(|read| read.ok()));
                    if let Some(read) = tries.ended(session, done).await {
                        return read
                            .map(|read| read.unwrap_or(RowsRead { rows: 0, is_complete: true }));
                    }
                }
            }
        }
    }

    async fn search(
        &self,
        prefix: &str,
        after: Option<&str>,
        first: u32,
    ) -> Result<Vec<PackageName>, Error> {
        let search = search(prefix, after, first);
        let find = || {
            let query = sqlx::query(AssertSqlSafe(search.sql.as_str())).bind(search.from.as_str());
            search.end.iter().fold(query, |query, end| query.bind(end.as_str()))
        };
        let rows = self.lookup.connections.fetch_all(find).await?;
        rows.iter().map(|row| columns::name(value(row, 0)?)).collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        self.lookup.connections.check_sessions().await?;
        // The statements that are served: a column that is gone fails here as it would there.
        self.lookup.find(std::iter::empty()).await?;
        self.list(&Filter::default(), None, 1).await?;
        self.history(&[], 0, &mut |_, _| {}).await?;
        Ok(())
    }
}

/// The publication of a row that has all columns.
pub(super) fn whole(row: &PgRow) -> Result<Publication, Error> {
    let found = Found { row, before: 0 };
    columns::publication(&found, columns::id(&found)?)
}

/// A row of an answer, which lacks the first columns.
struct Found<'r> {
    row: &'r PgRow,
    before: usize,
}

impl Source for Found<'_> {
    fn text(&self, column: usize) -> Result<Option<&str>, Error> {
        value(self.row, column - self.before)
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, Error> {
        Ok(value::<Option<Time>>(self.row, column - self.before)?.map(|time| time.0))
    }

    fn flag(&self, column: usize) -> Result<Option<bool>, Error> {
        value(self.row, column - self.before)
    }

    fn number(&self, column: usize) -> Result<u32, Error> {
        Ok(value::<i32>(self.row, column - self.before)?.cast_unsigned())
    }

    fn bytes(&self, column: usize) -> Result<&[u8], Error> {
        value(self.row, column - self.before)
    }
}

/// The value of a column. Its type is what the statement says; to have sqlx compare it for each value would be a tenth
/// of the daemon's time for a long list.
fn value<'r, T: Decode<'r, Postgres>>(row: &'r PgRow, index: usize) -> Result<T, Error> {
    Ok(row.try_get_unchecked(index)?)
}
