//! Reading.

use async_trait::async_trait;
use model::{
    Actor, Credential, EventIdentity, Publication, PublicationId, PublicationInfo, TfaReason,
    TorReason, Username,
};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::{time, tuned};
use crate::filter::{Bound, listing};
use crate::{Cursor, Error, Filter, PublicationReader, StoreSettings};

const COLUMNS: &str = "p.name, p.version, p.username, p.created, p.tor, p.tfa, p.tor_reason, p.tfa_reason, \
                       p.tor_evidence_until, p.tor_settled, p.credential, p.actor, p.revision, p.generation, \
                       p.event_identity, p.disputed";

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
            "SELECT i.key, {COLUMNS} FROM json_each($1) AS i \
             CROSS JOIN publication AS p ON p.name = i.value ->> 0 AND p.version = i.value ->> 1"
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
                *slot = Some(publication(&row, 1)?);
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
        let (sql, values) = listing(COLUMNS, filter, after, first);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in values {
            query = match value {
                Bound::Text(text) => query.bind(text),
                Bound::Time(time) => query.bind(time.to_rfc3339_micros()),
            };
        }
        query.fetch_all(&self.pool).await?.iter().map(|row| publication(row, 0)).collect()
    }

    async fn ready(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1 FROM publication LIMIT 0").execute(&self.pool).await?;
        Ok(())
    }
}

/// The row whose columns begin at `first`.
fn publication(row: &SqliteRow, first: usize) -> Result<Publication, Error> {
    let text = |index: usize| row.try_get::<&str, _>(first + index);
    let identity: &[u8] = row.try_get(first + 14)?;
    let username = row.try_get::<Option<&str>, _>(first + 2)?;
    let inconsistent = |_| Error::fatal("a row holds a value that no event can have");
    Ok(Publication {
        id: PublicationId::new(text(0)?, text(1)?).map_err(inconsistent)?,
        info: PublicationInfo {
            username: username.map(Username::new).transpose().map_err(inconsistent)?,
            created: time(text(3)?)?,
            tor: row.try_get(first + 4)?,
            tfa: row.try_get(first + 5)?,
            tor_reason: TorReason::parse(text(6)?)?,
            tfa_reason: TfaReason::parse(text(7)?)?,
            tor_settled: row.try_get(first + 9)?,
            credential: Credential::parse(text(10)?)?,
            actor: Actor::parse(text(11)?)?,
            disputed: row.try_get(first + 15)?,
        },
        tor_evidence_until: row.try_get::<Option<&str>, _>(first + 8)?.map(time).transpose()?,
        revision: row.try_get(first + 12)?,
        generation: row.try_get(first + 13)?,
        identity: EventIdentity(
            identity.try_into().map_err(|_| Error::fatal("an event identity of another length"))?,
        ),
    })
}

/// The keys as a JSON array of `[name, version]`, the one way to bind a list of any length.
fn keys<'a>(ids: impl Iterator<Item = &'a PublicationId>) -> String {
    serde_json::Value::from_iter(ids.map(|id| vec![id.name.as_str(), id.version.as_str()]))
        .to_string()
}
