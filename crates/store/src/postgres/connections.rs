//! Connections. sqlx's own pool asks the server whether a connection lives before each statement and once more after it,
//! which makes three round trips of one, has no limit for a statement, and hides why it has no connection to give.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::session::{Session, connect};
use crate::settings::{Database, PostgresUrl};
use crate::{Error, StoreSettings};

/// After which a connection is replaced: what a server's session has gathered goes with it.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A connection that was not used for so long is asked first whether it still answers.
const IDLE: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(1);

/// One that was not used for so long is given up, for others whom the server or a pooler gives few.
const SPARE: Duration = Duration::from_secs(60);

/// After which a connection that is being made is raced by one that is given back: a pooler that is full does not answer.
const SLOW: Duration = Duration::from_millis(250);

/// Up to so many connections, made when they are needed.
#[derive(Debug)]
pub(super) struct Connections {
    settings: StoreSettings,
    /// As it was read last: a file that holds it is read again at each connect, since passwords change.
    url: Mutex<PostgresUrl>,
    places: Semaphore,
    idle: Mutex<Idle>,
    /// Sessions at work.
    working: AtomicUsize,
    /// One of them ended its work.
    given_back: Notify,
    /// Whether sessions of a server are used no more when new ones reach another.
    follows: bool,
    /// Whether it was said that the server does not limit statements.
    said_unlimited: AtomicBool,
    /// Whether it is known that sessions are not shared.
    is_checked: AtomicBool,
}

/// Sessions that wait for work.
#[derive(Debug, Default)]
struct Idle {
    sessions: Vec<Session>,
    /// Which server the newest session reached.
    server: String,
}

impl Connections {
    pub(super) fn new(url: PostgresUrl, settings: &StoreSettings) -> Self {
        Self {
            settings: settings.clone(),
            url: Mutex::new(url),
            places: Semaphore::new(settings.max_connections.max(1) as usize),
            idle: Mutex::default(),
            working: AtomicUsize::new(0),
            given_back: Notify::new(),
            follows: false,
            said_unlimited: AtomicBool::new(false),
            is_checked: AtomicBool::new(false),
        }
    }

    /// For who writes: the old primary may still take rows after a standby was promoted, and nobody would have them.
    pub(super) fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// All rows of a statement. `statement` makes it anew for another try.
    pub(super) async fn fetch_all<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        let mut tries = self.tries().await?;
        loop {
            let mut session = tries.session().await?;
            let done = self.limited(statement().fetch_all(&mut session.connection)).await;
            if let Some(rows) = tries.ended(session, done).await {
                return rows;
            }
        }
    }

    /// The one row of a statement that always has one.
    pub(super) async fn fetch_one<'q>(
        &self,
        statement: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<PgRow, Error> {
        let rows = self.fetch_all(statement).await?;
        Ok(rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)?)
    }

    /// Room for work with a session, which [`Tries`] gives out.
    pub(super) async fn tries(&self) -> Result<Tries<'_>, Error> {
        let _place = self.place().await?;
        Ok(Tries { connections: self, _place, was_used: false, is_working: false })
    }

    /// Waits for work with a session, but no longer than `store.statement_timeout`. When it is given up before, its
    /// session goes with it: what that was doing is not known.
    pub(super) async fn limited<T>(
        &self,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Option<sqlx::Result<T>> {
        tokio::time::timeout(self.settings.statement_timeout, work).await.ok()
    }

    /// Whether each connection has a session of its own. Asked once: a pooler is set up otherwise seldom.
    pub(super) async fn check_sessions(&self) -> Result<(), Error> {
        if !self.is_checked.load(Ordering::Relaxed) {
            connect(&self.url(), &self.settings).await?;
            self.is_checked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A session without a time limit, beside the others.
    pub(super) async fn unlimited(&self) -> Result<PgConnection, Error> {
        let url = self.url();
        Ok(Session::open(&url, &self.settings, None).await?.connection)
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

    /// Ends a session that does not answer, from another one: its process may hold locks, of a `COPY` for one.
    async fn end(&self, session: Session) {
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
        let url = self.url();
        let limit = self.settings.statement_timeout;
        let session = Session::open(&url, &self.settings, Some(limit)).await?;
        let mut idle = self.lock();
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

    /// The URL as it is now.
    fn url(&self) -> PostgresUrl {
        let mut url = self.url.lock().unwrap_or_else(PoisonError::into_inner);
        if self.settings.has_url_file() {
            // A file that is being replaced is read at the next connect.
            if let Ok(Database::Postgres(newest)) = self.settings.database() {
                *url = newest;
            }
        }
        url.clone()
    }

    /// A new session; where there can be none now, one that is given back. The second value says that it was used before.
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

    /// A session that is given back in time, while others work.
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

    /// A session that waits for work and answers.
    async fn idle(&self) -> Option<Session> {
        loop {
            let mut session = self.lock().sessions.pop()?;
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
        let mut idle = self.lock();
        if !self.follows || idle.server == session.server {
            // The one that was used last is used next, so those that nobody needs grow old.
            idle.sessions.retain(|session| session.used.elapsed() < SPARE);
            idle.sessions.push(session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One piece of work, which may need two sessions. Where it fails in a way that may be the session's own fault, and the
/// session was not new, it is done once more with a new one: sessions that were idle while the server went away and came
/// back, or was set up otherwise, say nothing about the server as it is now.
pub(super) struct Tries<'c> {
    connections: &'c Connections,
    _place: SemaphorePermit<'c>,
    /// Whether the session that was given out last had done other work before.
    was_used: bool,
    /// Whether a session is given out.
    is_working: bool,
}

impl Tries<'_> {
    /// A session for the next try.
    pub(super) async fn session(&mut self) -> Result<Session, Error> {
        let is_second = self.was_used;
        let idle = if is_second { None } else { self.connections.idle().await };
        let (session, was_used) = match idle {
            Some(session) => (session, true),
            None => self.connections.connect_or_share().await?,
        };
        // There is no third.
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

    /// What came of a try; none where the work is to be tried once more. Without an answer in time the session is ended.
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
            Some(Err(error)) => Error::from(error),
            None => {
                connections.lock().sessions.clear();
                connections.end(session).await;
                let limit = connections.settings.statement_timeout;
                let said = format!("no answer within {limit:?} (store.statement_timeout)");
                return Some(Err(Error::TimedOut(said.into())));
            }
        };
        if !matches!(error, Error::Transient(_) | Error::Fatal(_)) {
            connections.put_back(session);
            return Some(Err(error));
        }
        // The idle ones were made when it was, and are used no more.
        connections.lock().sessions.clear();
        if self.was_used { None } else { Some(Err(error)) }
    }
}

/// Also when the work is given up.
impl Drop for Tries<'_> {
    fn drop(&mut self) {
        self.is_done();
    }
}

#[cfg(test)]
mod tests;
