//! The statement that finds rows by their keys, and the conversion of a result row.

use model::{COLUMN_COUNT, Publication, PublicationId, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Decode, Postgres, Row};

use super::connections::Connections;
use super::values::Time;
use crate::Error;
use crate::columns::{self, COLUMNS, Column, KEY, Kind, Source};

/// The column list of a SELECT. Enumerations are read as text: each new connection would have to look up an
/// enumeration's type, and the server is not measurably faster with it.
pub(super) fn selected(columns: &[Column]) -> String {
    columns::list(columns, |column| match column.kind {
        Kind::Word(..) => format!("p.{}::text", column.name),
        _ => format!("p.{}", column.name),
    })
}

/// The statement that finds rows by their keys.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) connections: Connections,
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

    /// The result for each key. An error in one row does not fail the other keys.
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

/// The publication from a row that has all columns.
pub(super) fn whole(row: &PgRow) -> Result<Publication, Error> {
    let found = Found { row, before: 0 };
    columns::publication(&found, columns::id(&found)?)
}

/// A row of a result, without the first `before` columns.
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

/// The value of a column. The statement fixes its type; sqlx's type check of each value would take a tenth of the
/// daemon's time for a long list.
pub(super) fn value<'r, T: Decode<'r, Postgres>>(row: &'r PgRow, index: usize) -> Result<T, Error> {
    Ok(row.try_get_unchecked(index)?)
}
