//! Connections for reading. sqlx's own pool asks the server whether a connection lives before each statement and once more
//! after it, which makes three round trips of one; a look-up by key is hardly more than its round trip.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Connection, Executor};
use tokio::sync::Semaphore;

use super::SESSION;
use crate::{Error, StoreSettings};

/// After which a connection is replaced: what a server's session has gathered goes with it. As long as sqlx's pool does.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Up to so many connections, made when they are needed.
#[derive(Debug)]
pub(super) struct Connections {
    options: PgConnectOptions,
    timeout: Duration,
    places: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    made: Instant,
}

impl Connections {
    pub(super) fn new(options: PgConnectOptions, settings: &StoreSettings) -> Self {
        Self {
            options,
            timeout: settings.connect_timeout,
            places: Semaphore::new(settings.max_connections.max(1) as usize),
            idle: Mutex::default(),
        }
    }

    /// Executes a statement that only reads. `statement` makes it anew for another try: connections that were idle while
    /// the server went away and came back fail at their next use, and say nothing about the server as it is now.
    pub(super) async fn fetch_all<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        let waited = tokio::time::timeout(self.timeout, self.places.acquire()).await;
        // The semaphore is never closed.
        let _place = waited.map_err(|_| sqlx::Error::PoolTimedOut)?;
        if let Some(mut idle) = self.take() {
            match statement().fetch_all(&mut idle.connection).await.map_err(Error::from) {
                Ok(rows) => {
                    self.put_back(idle);
                    return Ok(rows);
                }
                // The connection is dropped, as it is when the request is given up: what it was doing is not known.
                Err(Error::Transient(_)) => self.lock().clear(),
                Err(error) => return Err(error),
            }
        }
        let mut idle = Idle { connection: self.connect().await?, made: Instant::now() };
        let rows = statement().fetch_all(&mut idle.connection).await?;
        self.put_back(idle);
        Ok(rows)
    }

    async fn connect(&self) -> Result<PgConnection, Error> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            connection.execute(SESSION).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        let connected = tokio::time::timeout(self.timeout, connecting).await;
        Ok(connected.map_err(|_| sqlx::Error::PoolTimedOut)??)
    }

    fn take(&self) -> Option<Idle> {
        self.lock().pop().filter(|idle| idle.made.elapsed() < LIFETIME)
    }

    fn put_back(&self, idle: Idle) {
        self.lock().push(idle);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::eventually;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_statement_that_is_given_up_ends_at_the_server() {
        let url = testkit::postgres().database().await.url;
        let settings = StoreSettings { url: url.clone(), ..StoreSettings::default() };
        let connections = Connections::new(url.parse().unwrap(), &settings);
        let mut observer = PgConnection::connect(&url).await.unwrap();
        let mut running = async || {
            let sql = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND query = 'SELECT pg_sleep(3600)'";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut observer).await.unwrap()
        };
        let asking = tokio::spawn(async move {
            connections.fetch_all(|| sqlx::query("SELECT pg_sleep(3600)")).await.map(drop)
        });
        eventually("the statement to run", PATIENCE, async || running().await == 1).await;
        asking.abort();
        eventually("the statement to end", PATIENCE, async || running().await == 0).await;
    }
}
