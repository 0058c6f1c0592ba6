//! The connection pool. sqlx's own pool checks a connection before and after each statement, which makes three round
//! trips of one. It has no time limit for a statement, and does not say why it has no free connection.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::Connection;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::session::{Session, connect, silent};
use crate::settings::{Database, PostgresUrl};
use crate::{Error, StoreSettings};

/// The age at which a session is replaced, because a server session accumulates state.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A connection that was idle for this long is pinged before its next use.
const IDLE: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(1);

/// A connection that was idle for this long is closed, because the server or a pooler may have few to give.
const SPARE: Duration = Duration::from_secs(60);

/// If connecting takes longer than this, a returned session is used if it comes first: a pooler that is full does not answer.
const SLOW: Duration = Duration::from_millis(250);

/// A pool of up to `store.max_connections` connections, which are opened on demand.
#[derive(Debug)]
pub(super) struct Connections {
    settings: StoreSettings,
    /// The URL as last read. Each connect reads a URL file again, because passwords change.
    url: Mutex<PostgresUrl>,
    /// The problem with the URL file that was logged last.
    said_url: Mutex<String>,
    places: Semaphore,
    idle: Mutex<Idle>,
    /// The number of sessions in use.
    working: AtomicUsize,
    /// Notifies when a session has ended its work.
    given_back: Notify,
    /// Whether sessions of a server are no longer used when a new session reaches another server.
    follows: bool,
    /// Whether a warning was logged that the server does not limit statements.
    said_unlimited: AtomicBool,
    /// Set once it is known that sessions are not shared between connections.
    checked: OnceLock<()>,
}

/// Sessions that are not in use.
#[derive(Debug, Default)]
struct Idle {
    sessions: Vec<Session>,
    /// The server that the newest session reached.
    server: String,
}

impl Connections {
    pub(super) fn new(url: PostgresUrl, settings: &StoreSettings) -> Self {
        Self {
            settings: settings.clone(),
            url: Mutex::new(url),
            said_url: Mutex::default(),
            places: Semaphore::new(settings.max_connections.max(1) as usize),
            idle: Mutex::default(),
            working: AtomicUsize::new(0),
            given_back: Notify::new(),
            follows: false,
            said_unlimited: AtomicBool::new(false),
            checked: OnceLock::new(),
        }
    }

    /// For writers: after a standby is promoted, the old primary may still accept rows, which would be lost.
    pub(super) fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// Fetches all rows of a statement. `statement` builds the query again for each try.
    pub(super) async fn fetch_all<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        self.fetch(statement, Error::from).await
    }

    /// As [`Self::fetch_all`], for statements that handle no row of `publication`: an error has the message of a trigger.
    pub(super) async fn fetch_without_rows<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        self.fetch(statement, Error::without_rows).await
    }

    async fn fetch<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
        error: fn(sqlx::Error) -> Error,
    ) -> Result<Vec<PgRow>, Error> {
        let mut tries = self.tries().await?;
        tries.error = error;
        loop {
            let mut session = tries.session().await?;
            let done = self.limited(statement().fetch_all(&mut session.connection)).await;
            if let Some(rows) = tries.ended(session, done).await {
                return rows;
            }
        }
    }

    /// Fetches the row of a statement that always returns exactly one.
    pub(super) async fn fetch_one<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<PgRow, Error> {
        let rows = self.fetch_all(statement).await?;
        Ok(rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)?)
    }

    /// Reserves a place in the pool for work with a session, which [`Tries`] supplies.
    pub(super) async fn tries(&self) -> Result<Tries<'_>, Error> {
        let _place = self.place().await?;
        let error = Error::from;
        Ok(Tries { connections: self, _place, was_used: false, is_working: false, error })
    }

    /// Waits for work with a session, but no longer than `store.statement_timeout`. If the future is dropped before,
    /// its session is dropped too, because the session's state is unknown.
    pub(super) async fn limited<T>(
        &self,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Option<sqlx::Result<T>> {
        tokio::time::timeout(self.limit(), work).await.ok()
    }

    /// Checks that each connection has a session of its own. Checked once, because poolers are rarely reconfigured.
    pub(super) async fn check_sessions(&self) -> Result<(), Error> {
        // Two that check at once do no harm; one that waited for the other would wait twice as long.
        if self.checked.get().is_none() {
            connect(&self.url(), &self.settings).await?;
            let _ = self.checked.set(());
        }
        Ok(())
    }

    /// Opens a session outside the pool, for statements that may take up to `limit`; `None` for no limit.
    pub(super) async fn apart(&self, limit: Option<Duration>) -> Result<Session, Error> {
        // Since the start an operator may have changed the table in a way that shows in no error.
        Session::open(&self.url(), &self.settings, limit, self.follows).await
    }

    /// `store.statement_timeout`.
    pub(super) fn limit(&self) -> Duration {
        self.settings.statement_timeout
    }

    /// `store.schema`.
    pub(super) fn schema(&self) -> &str {
        &self.settings.schema
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, Error> {
        let timeout = self.settings.connect_timeout;
        let waited = tokio::time::timeout(timeout, self.places.acquire()).await;
        let busy = || {
            let all = self.settings.max_connections;
            Error::Busy(
                format!("all {all} (store.max_connections) are in use for {timeout:?}").into(),
            )
        };
        // The semaphore is never closed.
        waited.map_err(|_| busy())?.map_err(|_| busy())
    }

    /// Ends a session that does not answer, from another session: its server process may hold locks, such as those of a `COPY`.
    pub(super) async fn end(&self, session: Session) {
        let ended = async {
            let mut connection = self.connect().await?;
            let ended = session.backend.end(&mut connection.connection).await?;
            self.put_back(connection);
            Ok::<_, Error>(ended)
        };
        match tokio::time::timeout(self.settings.connect_timeout, ended).await {
            Ok(Ok(true)) => {
                tracing::warn!("a session that did not answer was ended in the database")
            }
            Ok(Ok(false)) => tracing::debug!("a session that did not answer had ended"),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a session that does not answer cannot be ended")
            }
            Err(_) => tracing::debug!("a session that does not answer cannot be ended in time"),
        }
    }

    async fn connect(&self) -> Result<Session, Error> {
        // Behind a pooler that shares sessions a statement could run with another client's settings.
        self.check_sessions().await?;
        let session = self.apart(Some(self.limit())).await?;
        let mut idle = self.idle.lock();
        if self.follows && idle.server != session.server {
            idle.sessions.clear();
            idle.server.clone_from(&session.server);
        }
        drop(idle);
        if !session.is_limited && !self.said_unlimited.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the database does not keep the session's statement_timeout (a pooler may drop it): \
                 statements are limited by the client alone"
            );
        }
        Ok(session)
    }

    /// The URL, read again if it is in a file.
    fn url(&self) -> PostgresUrl {
        let mut url = self.url.lock();
        if self.settings.has_url_file() {
            // A read may fail while the file is being replaced; the next connect reads the new URL.
            let problem = match self.settings.database() {
                Ok(Database::Postgres(newest)) => {
                    *url = newest;
                    String::new()
                }
                Ok(Database::Sqlite(_)) => "it names another kind of database".to_owned(),
                Err(error) => error.to_string(),
            };
            let mut said = self.said_url.lock();
            if *said != problem && !problem.is_empty() {
                tracing::warn!(%problem, "store.url_file cannot be used; the earlier URL is");
            }
            *said = problem;
        }
        url.clone()
    }

    /// Opens a session, or takes a returned one if that fails or is slow; the second value is true for a returned one.
    async fn connect_or_share(&self) -> Result<(Session, bool), Error> {
        let mut connecting = std::pin::pin!(self.connect());
        let made = match tokio::time::timeout(SLOW, &mut connecting).await {
            Ok(made) => made,
            Err(_) => tokio::select! {
                Some(session) = self.returned() => return Ok((session, true)),
                made = &mut connecting => made,
            },
        };
        match made {
            Ok(session) => Ok((session, false)),
            Err(error @ Error::Transient(_)) => {
                self.returned().await.map(|session| (session, true)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits up to the connect timeout for a returned session, while other sessions are in use.
    async fn returned(&self) -> Option<Session> {
        let waiting = async {
            loop {
                let mut given_back = std::pin::pin!(self.given_back.notified());
                given_back.as_mut().enable();
                if let Some(session) = self.idle().await {
                    return Some(session);
                }
                if self.working.load(Ordering::Relaxed) == 0 {
                    return None;
                }
                given_back.await;
            }
        };
        tokio::time::timeout(self.settings.connect_timeout, waiting).await.ok().flatten()
    }

    /// Takes an idle session that still answers.
    async fn idle(&self) -> Option<Session> {
        loop {
            let mut session = self.idle.lock().sessions.pop()?;
            if session.made.elapsed() >= LIFETIME {
                continue;
            }
            if session.used.elapsed() < IDLE {
                return Some(session);
            }
            let answered = tokio::time::timeout(PING, session.connection.ping()).await;
            if matches!(answered, Ok(Ok(()))) {
                return Some(session);
            }
        }
    }

    fn put_back(&self, mut session: Session) {
        session.used = Instant::now();
        let mut idle = self.idle.lock();
        if !self.follows || idle.server == session.server {
            // The session used last is used next, so that sessions that are not needed stay idle and are closed.
            idle.sessions.retain(|session| session.used.elapsed() < SPARE);
            idle.sessions.push(session);
        }
    }
}

/// One unit of work, which may need two sessions. If it fails with an error that may be the session's own fault, and
/// the session was not new, it is tried once more with a new session: a session that was idle while the server
/// restarted or was reconfigured does not show the server's present state.
pub(super) struct Tries<'c> {
    connections: &'c Connections,
    _place: SemaphorePermit<'c>,
    /// Whether the session of the last try had done other work before.
    was_used: bool,
    /// Whether a session is in use.
    is_working: bool,
    /// Classifies an error of the work.
    error: fn(sqlx::Error) -> Error,
}

impl Tries<'_> {
    /// Returns a session for the next try.
    pub(super) async fn session(&mut self) -> Result<Session, Error> {
        let is_second = self.was_used;
        let idle = if is_second { None } else { self.connections.idle().await };
        let (session, was_used) = match idle {
            Some(session) => (session, true),
            None => self.connections.connect_or_share().await?,
        };
        // A second try is the last.
        self.was_used = was_used && !is_second;
        self.is_working = true;
        self.connections.working.fetch_add(1, Ordering::Relaxed);
        Ok(session)
    }

    fn is_done(&mut self) {
        if std::mem::take(&mut self.is_working) {
            self.connections.working.fetch_sub(1, Ordering::Relaxed);
            self.connections.given_back.notify_waiters();
        }
    }

    /// Returns the result of a try, or `None` if the work must be tried once more. Ends a session that did not answer in time.
    pub(super) async fn ended<T>(
        &mut self,
        session: Session,
        done: Option<sqlx::Result<T>>,
    ) -> Option<Result<T, Error>> {
        let ended = self.end_with(session, done).await;
        self.is_done();
        ended
    }

    async fn end_with<T>(
        &self,
        session: Session,
        done: Option<sqlx::Result<T>>,
    ) -> Option<Result<T, Error>> {
        let connections = self.connections;
        let error = match done {
            Some(Ok(value)) => {
                connections.put_back(session);
                return Some(Ok(value));
            }
            Some(Err(error)) => (self.error)(error),
            None => {
                connections.idle.lock().sessions.clear();
                connections.end(session).await;
                return Some(Err(silent(connections.limit())));
            }
        };
        if !matches!(error, Error::Transient(_) | Error::Fatal(_)) {
            connections.put_back(session);
            return Some(Err(error));
        }
        // The idle sessions date from the same time and may have the same fault, so they are discarded.
        connections.idle.lock().sessions.clear();
        if self.was_used { None } else { Some(Err(error)) }
    }
}

/// Also marks the session as ended if the work is dropped.
impl Drop for Tries<'_> {
    fn drop(&mut self) {
        self.is_done();
    }
}

#[cfg(test)]
mod tests;
