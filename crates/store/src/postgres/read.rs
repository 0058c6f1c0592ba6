//! Reading.

use std::sync::Arc;

use async_trait::async_trait;
use model::{
    Actor, Credential, EventIdentity, Publication, PublicationId, PublicationInfo, TfaReason,
    TorReason, Username,
};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Row};

use super::connections::Connections;
use super::flights::Flights;
use super::values::Time;
use crate::filter::{Bound, listing};
use crate::{Cursor, Error, Filter, PublicationReader, StoreSettings};

/// The words are read as text: an enumeration's own type would have to be looked up on each new connection.
const COLUMNS: &str = "p.name, p.version, p.username, p.created, p.tor, p.tfa, p.tor_reason::text, p.tfa_reason::text, \
                       p.tor_evidence_until, p.tor_settled, p.credential::text, p.actor::text, p.revision, \
                       p.generation, p.event_identity, p.disputed";

/// Look-ups of up to this many keys share a statement with others; for more, the statement's own cost is nothing.
const SMALL: usize = 64;

/// Reads from PostgreSQL.
#[derive(Debug)]
pub struct PostgresReader {
    lookup: Arc<Lookup>,
    flights: Flights,
}

impl PostgresReader {
    pub(crate) fn open(options: PgConnectOptions, settings: &StoreSettings) -> Self {
        let lookup = Arc::new(Lookup::new(Connections::new(options, settings)));
        Self { flights: Flights::new(lookup.clone()), lookup }
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
        let sql = format!(
            "SELECT i.place, {COLUMNS} FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i(name, version, place) \
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
            let place = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default();
            // Places count from 1.
            if let Some(slot) = found.get_mut(place.wrapping_sub(1)) {
                *slot = publication(&row, 1).map(Some);
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl PublicationReader for PostgresReader {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        if ids.len() <= SMALL {
            return self.flights.find(ids).await;
        }
        self.lookup.find(ids.iter()).await?.into_iter().collect()
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error> {
        let (sql, values) = listing(COLUMNS, filter, after, first);
        let list = || {
            let query = sqlx::query(AssertSqlSafe(sql.as_str()));
            values.iter().fold(query, |query, value| match value {
                Bound::Text(text) => query.bind(*text),
                Bound::Time(time) => query.bind(Time(*time)),
            })
        };
        self.lookup
            .connections
            .fetch_all(list)
            .await?
            .iter()
            .map(|row| publication(row, 0))
            .collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        let probe = || sqlx::query("SELECT FROM publication LIMIT 0");
        self.lookup.connections.fetch_all(probe).await?;
        Ok(())
    }
}

/// The row whose columns begin at `first`.
fn publication(row: &PgRow, first: usize) -> Result<Publication, Error> {
    let time = |index: usize| row.try_get_unchecked::<Option<Time>, _>(first + index);
    let text = |index: usize| row.try_get::<&str, _>(first + index);
    let created = time(3)?.ok_or_else(|| Error::fatal("a row without a time"))?.0;
    let identity: &[u8] = row.try_get(first + 14)?;
    let username = row.try_get::<Option<&str>, _>(first + 2)?;
    let inconsistent = |_| Error::fatal("a row holds a value that no event can have");
    Ok(Publication {
        id: PublicationId::new(text(0)?, text(1)?).map_err(inconsistent)?,
        info: PublicationInfo {
            username: username.map(Username::new).transpose().map_err(inconsistent)?,
            created,
            tor: row.try_get(first + 4)?,
            tfa: row.try_get(first + 5)?,
            tor_reason: TorReason::parse(text(6)?)?,
            tfa_reason: TfaReason::parse(text(7)?)?,
            tor_settled: row.try_get(first + 9)?,
            credential: Credential::parse(text(10)?)?,
            actor: Actor::parse(text(11)?)?,
            disputed: row.try_get(first + 15)?,
        },
        tor_evidence_until: time(8)?.map(|time| time.0),
        revision: row.try_get::<i32, _>(first + 12)?.cast_unsigned(),
        generation: row.try_get::<i32, _>(first + 13)?.cast_unsigned(),
        identity: EventIdentity(
            identity.try_into().map_err(|_| Error::fatal("an event identity of another length"))?,
        ),
    })
}
