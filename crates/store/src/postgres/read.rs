//! Reading.

use std::sync::Arc;

use async_trait::async_trait;
use model::{
    Actor, Credential, EventIdentity, InvalidName, Publication, PublicationId, PublicationInfo,
    TfaReason, TorReason, Username,
};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Decode, Postgres, Row};

use super::connections::Connections;
use super::flights::Flights;
use super::values::Time;
use crate::filter::{Bound, listing};
use crate::{Cursor, Error, Filter, PublicationReader, StoreSettings};

/// What is known of a publication beside its key. The words are read as text: an enumeration's own type would have to
/// be looked up on each new connection, and the server is not measurably faster with it.
const COLUMNS: &str = "p.username, p.created, p.tor, p.tfa, p.tor_reason::text, p.tfa_reason::text, p.tor_settled, \
                       p.credential::text, p.actor::text, p.disputed, p.tor_evidence_until, p.revision, p.generation, \
                       p.event_identity";
/// How many columns that are.
const BEHIND: usize = 14;

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
            "SELECT {COLUMNS}, i.place FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i(name, version, place) \
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
            let place = usize::try_from(value::<i64>(&row, BEHIND)?).unwrap_or_default();
            let place = place.wrapping_sub(1);
            if let (Some(slot), Some(&id)) = (found.get_mut(place), ids.get(place)) {
                *slot = publication(&row, id.clone()).map(Some);
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
        let (sql, values) = listing(&format!("{COLUMNS}, p.name, p.version"), filter, after, first);
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
            .map(|row| {
                let id = PublicationId::new(value(row, BEHIND)?, value(row, BEHIND + 1)?);
                publication(row, id.map_err(inconsistent)?)
            })
            .collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        let probe = || sqlx::query("SELECT FROM publication LIMIT 0");
        self.lookup.connections.fetch_all(probe).await?;
        Ok(())
    }
}

/// The publication of that key, from a row that begins with `COLUMNS`.
fn publication(row: &PgRow, id: PublicationId) -> Result<Publication, Error> {
    let username = value::<Option<&str>>(row, 0)?;
    let identity = value::<&[u8]>(row, 13)?;
    Ok(Publication {
        id,
        info: PublicationInfo {
            username: username.map(Username::new).transpose().map_err(inconsistent)?,
            created: value::<Time>(row, 1)?.0,
            tor: value(row, 2)?,
            tfa: value(row, 3)?,
            tor_reason: TorReason::parse(value(row, 4)?)?,
            tfa_reason: TfaReason::parse(value(row, 5)?)?,
            tor_settled: value(row, 6)?,
            credential: Credential::parse(value(row, 7)?)?,
            actor: Actor::parse(value(row, 8)?)?,
            disputed: value(row, 9)?,
        },
        tor_evidence_until: value::<Option<Time>>(row, 10)?.map(|time| time.0),
        revision: value::<i32>(row, 11)?.cast_unsigned(),
        generation: value::<i32>(row, 12)?.cast_unsigned(),
        identity: EventIdentity(
            identity.try_into().map_err(|_| Error::fatal("an event identity of another length"))?,
        ),
    })
}

/// The value of a column. Its type is what the statement says; to have sqlx compare it for each value would be a tenth
/// of the daemon's time for a long list.
fn value<'r, T: Decode<'r, Postgres>>(row: &'r PgRow, index: usize) -> Result<T, Error> {
    Ok(row.try_get_unchecked(index)?)
}

fn inconsistent(_: InvalidName) -> Error {
    Error::fatal("a row holds a value that no event can have")
}
