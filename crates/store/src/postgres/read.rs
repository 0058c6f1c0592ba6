//! Reads publications.

use std::sync::Arc;

use async_trait::async_trait;
use model::{PackageName, Publication, PublicationId};
use sqlx::{AssertSqlSafe, Row};

use super::coalescer::LookupCoalescer;
use super::connections::Connections;
use super::history::{self, Ended};
use super::inspect::misfits;
use super::lookup::{Lookup, selected, value, whole};
use super::values::Time;
use crate::columns::{COLUMNS, KEY};
use crate::filter::{Bound, listing};
use crate::search::search;
use crate::settings::PostgresUrl;
use crate::{Cursor, EachPackage, Error, Filter, PublicationReader, RowsRead, StoreSettings};

/// Look-ups of up to this many keys share a statement; for more keys, the cost of a separate statement is negligible.
const SMALL: usize = 64;

/// Whether row level security applies to this role without a policy for it, so that no row would be found. The role 0 is all.
const HIDDEN: &str = "SELECT row_security_active('publication') AND NOT EXISTS ( \
    SELECT FROM pg_policy, unnest(polroles) AS role \
    WHERE polrelid = 'publication'::regclass AND polpermissive AND polcmd IN ('*', 'r') \
    AND CASE WHEN role = 0 THEN true ELSE pg_has_role(role, 'USAGE') END)";

/// Reads from PostgreSQL.
#[derive(Debug)]
pub(crate) struct PostgresReader {
    lookup: Arc<Lookup>,
    coalescer: LookupCoalescer,
}

impl PostgresReader {
    pub(crate) fn open(url: PostgresUrl, settings: &StoreSettings) -> Self {
        let lookup = Arc::new(Lookup::new(Connections::new(url, settings)));
        Self { coalescer: LookupCoalescer::new(lookup.clone()), lookup }
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
                    // The server still sends the rest of the rows, so the session is closed.
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
        rows.iter().map(|row| Ok(PackageName::new(value(row, 0)?)?)).collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        self.lookup.connections.check_sessions().await?;
        // Runs the statements that serve requests, so that a missing column fails here too.
        self.lookup.find(std::iter::empty()).await?;
        let hidden = self.lookup.connections.fetch_one(|| sqlx::query(HIDDEN)).await?;
        if hidden.try_get(0)? {
            let said = "row level security hides all rows of publication from this role: no policy lets it select";
            return Err(Error::fatal(said));
        }
        let misfits = format!("SELECT ({})", misfits(&COLUMNS[..KEY]));
        let misfits = self
            .lookup
            .connections
            .fetch_one(|| sqlx::query(AssertSqlSafe(misfits.as_str())))
            .await?;
        if let Some(columns) = misfits.try_get::<Option<&str>, _>(0)? {
            let said = format!("these columns of publication are not compared bytewise: {columns}");
            return Err(Error::fatal(said));
        }
        self.list(&Filter::default(), None, 1).await?;
        self.history(&[], 0, &mut |_, _| {}).await?;
        Ok(())
    }
}
