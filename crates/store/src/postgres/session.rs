//! A server session: its settings, and the checks whether it can be used.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};

use super::inspect;
use crate::settings::{PostgresUrl, SessionKind};
use crate::{Error, StoreSettings};

/// The server's time limit is this much shorter than the client's, so that the client receives the server's error.
const SOONER: Duration = Duration::from_secs(1);

/// The settings of every session, except the schema and the time limit. Every statement here takes a list of keys of unknown
/// length. With a generic plan and nested loops it costs one index look-up per key, whatever the size of the list and the
/// table; by default the planner scans the whole table for a long list. A server checks for a disconnected client only if it is
/// configured to; without that check, abandoned statements continue beside those of the replacement connections. PostgreSQL
/// before 14 and some platforms do not support the check, and work without it. `publication.timeline` says whether the server
/// knows its timeline, which PostgreSQL-compatible services do not; a standby will know it after its promotion. Without
/// `synchronous_commit` the crash of any session would take rows whose offsets are committed. A session that waits for the rest of
/// a `COPY` from a machine that is gone ends with the keepalives alone, and holds its locks until then: by default for two hours.
const SETTINGS: &str = "SET client_min_messages = warning; SET plan_cache_mode = force_generic_plan; \
    SET enable_nestloop = on; SET enable_hashjoin = off; SET enable_mergejoin = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
    DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '1s', false); \
    EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN END $$; \
    DO $$ BEGIN PERFORM set_config(s.name, w.seconds, false) FROM pg_settings s JOIN (VALUES \
    ('tcp_keepalives_idle', '30'), ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3')) w(name, seconds) \
    ON s.name = w.name WHERE s.setting::bigint = 0 OR s.setting::bigint > w.seconds::bigint; \
    EXCEPTION WHEN OTHERS THEN END $$; \
    DO $$ BEGIN PERFORM set_config('publication.timeline', 'on', false), pg_walfile_name(pg_current_wal_lsn()); \
    EXCEPTION WHEN object_not_in_prerequisite_state THEN PERFORM set_config('publication.timeline', 'on', false); \
    WHEN OTHERS THEN PERFORM set_config('publication.timeline', 'off', false); END $$";

/// The server's facts about a new session.
const FACTS: &str = "SELECT pg_backend_pid(), \
    (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()), \
    current_setting('publication.session', true), current_setting('statement_timeout'), \
    getdatabaseencoding()::text, pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
    EXISTS (SELECT FROM pg_namespace WHERE nspname = $1 AND has_schema_privilege(oid, 'USAGE')), \
    coalesce(host(inet_server_addr()) || ':' || inet_server_port(), '') || ' ' || pg_postmaster_start_time()";

/// A session that is set up.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: PgConnection,
    pub(super) made: Instant,
    pub(super) used: Instant,
    pub(super) backend: Backend,
    /// A unique identity of the server: its address and its start time.
    pub(super) server: String,
    /// Whether the server itself cancels statements that take too long.
    pub(super) is_limited: bool,
}

/// A server process. Process ids are reused, so the start time is part of its identity.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pid: i32,
    start: Option<String>,
    /// The unique mark that was set in the session.
    mark: String,
}

/// What a server process does.
pub(super) struct Activity {
    /// Whether it executes a statement.
    pub(super) is_active: bool,
    /// The time of the last change of that.
    pub(super) since: String,
    pub(super) waits_for_a_lock: bool,
}

impl Session {
    /// Connects and sets the session up, for statements that may take up to `limit`; `None` for no limit. `inspects`: looks for
    /// database objects that this program cannot work with.
    pub(super) async fn open(
        url: &PostgresUrl,
        settings: &StoreSettings,
        limit: Option<Duration>,
        inspects: bool,
    ) -> Result<Self, Error> {
        let opening = async {
            let mut connection = url.options.connect().await?;
            let mark = mark();
            connection.execute(AssertSqlSafe(settings_of(settings, limit, &mark))).await?;
            let facts = sqlx::query(FACTS).bind(&settings.schema).persistent(false);
            let facts = facts.fetch_one(&mut connection).await?;
            if !facts.try_get(7)? {
                let schema = &settings.schema;
                // Without it, `pg_temp` would be the first schema that the session can use.
                return Err(Error::fatal(format!(
                    "it has no schema {schema:?} (store.schema), or this role has no USAGE on it"
                )));
            }
            let mut session = Self::of(connection, &facts, mark, url.target)?;
            if inspects {
                inspect(&mut session.connection, &settings.schema).await?;
            }
            Ok(session)
        };
        let timeout = url.connect_timeout.unwrap_or(settings.connect_timeout);
        let opened = tokio::time::timeout(timeout, opening).await;
        let opened = opened
            .unwrap_or_else(|_| Err(Error::transient(format!("no session within {timeout:?}"))));
        opened.map_err(|error| {
            let error = match error {
                // The time that opening takes says nothing about the statement that follows.
                Error::TimedOut(words) => Error::Transient(words),
                error => error,
            };
            error.within(&url.address())
        })
    }

    fn of(
        connection: PgConnection,
        facts: &PgRow,
        mark: String,
        target: SessionKind,
    ) -> Result<Self, Error> {
        if facts.try_get::<Option<&str>, _>(2)? != Some(&mark) {
            return Err(shared());
        }
        let encoding: &str = facts.try_get(4)?;
        if encoding != "UTF8" {
            return Err(Error::fatal(format!(
                "its encoding is {encoding}, in which not every name can be written: it must be UTF8"
            )));
        }
        let (is_standby, is_read_only): (bool, bool) = (facts.try_get(5)?, facts.try_get(6)?);
        if !target.takes(is_standby, is_standby || is_read_only) {
            return Err(Error::transient(format!(
                "the server is {}, and store.url asks for another one (target_session_attrs)",
                if is_standby { "a standby" } else { "a primary, or read-only" }
            )));
        }
        let backend = Backend { pid: facts.try_get(0)?, start: facts.try_get(1)?, mark };
        let now = Instant::now();
        let is_limited = facts.try_get::<&str, _>(3)? != "0";
        let server = facts.try_get(8)?;
        Ok(Self { connection, made: now, used: now, backend, server, is_limited })
    }

    /// Whether the connection still has its session; a pooler in transaction mode switches sessions.
    async fn is_own(&mut self) -> Result<bool, Error> {
        let sql = "SELECT current_setting('publication.session', true)";
        let mark: Option<String> =
            sqlx::query_scalar(sql).persistent(false).fetch_one(&mut self.connection).await?;
        Ok(mark.as_ref() == Some(&self.backend.mark))
    }
}

impl Backend {
    /// Looks at what the server process does; without a row if it has ended.
    pub(super) fn activity(&self) -> Query<'static, Postgres, PgArguments> {
        let sql = "SELECT state = 'active', state_change::text, wait_event_type IS NOT DISTINCT FROM 'Lock' \
                   FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";
        sqlx::query(sql).bind(self.pid).bind(self.start.clone()).persistent(false)
    }

    /// The row of [`Backend::activity`].
    pub(super) fn activity_of(row: &PgRow) -> Result<Activity, Error> {
        let (is_active, waits_for_a_lock) = (row.try_get(0)?, row.try_get(2)?);
        Ok(Activity { is_active, since: row.try_get(1)?, waits_for_a_lock })
    }

    /// Terminates the server process, which may hold the locks of an abandoned statement. An idle process holds no locks but a
    /// migration's advisory lock, and behind a pooler may serve another client by now, so it is left alone without that.
    pub(super) async fn end(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE pid = $1 AND backend_start::text = $2 AND (state <> 'idle' OR EXISTS ( \
                   SELECT FROM pg_locks WHERE pg_locks.pid = $1 AND locktype = 'advisory' AND granted))";
        let ended: Option<bool> = sqlx::query_scalar(sql)
            .bind(self.pid)
            .bind(&self.start)
            .persistent(false)
            .fetch_optional(connection)
            .await?;
        Ok(ended.unwrap_or(false))
    }
}

/// Opens a session, after a check that each connection has a session of its own, on which this adapter relies.
///
/// # Errors
/// [`Error::Fatal`] behind a pooler that shares sessions between connections.
pub(crate) async fn connect(
    url: &PostgresUrl,
    settings: &StoreSettings,
) -> Result<PgConnection, Error> {
    let open = || Session::open(url, settings, Some(settings.statement_timeout), false);
    let mut one = open().await?;
    let second = "a second session, which shows whether a pooler shares them";
    let mut other = open().await.map_err(|error| error.within(second))?;
    let are_own = async {
        // In a transaction the second connection keeps its session, so the first gets another session, or gets the second's mark.
        sqlx::raw_sql("BEGIN").execute(&mut other.connection).await?;
        Ok(one.is_own().await? && other.is_own().await?)
    };
    // A pooler in transaction mode that has one session does not answer.
    let are_own = limited(settings.statement_timeout, are_own).await;
    if are_own.map_err(|error| error.within(second))? { Ok(one.connection) } else { Err(shared()) }
}

/// Waits for work with a session, but no longer than `limit`.
pub(crate) async fn limited<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(silent(limit)))
}

/// The error for a server that does not answer in time.
pub(super) fn silent(limit: Duration) -> Error {
    Error::TimedOut(format!("no answer within {limit:?} (store.statement_timeout)").into())
}

/// The error for a pooler that shares sessions between clients.
fn shared() -> Error {
    Error::fatal(
        "store.url leads to a pooler in transaction mode, which does not keep a session's settings: \
         let it pool sessions, or go to the server itself",
    )
}

/// The statements that set a session up, joined into one text.
fn settings_of(settings: &StoreSettings, limit: Option<Duration>, mark: &str) -> String {
    let schema = settings.schema.replace('"', "\"\"");
    // If the role or the database sets a shorter limit, that limit stays, because its owner chose it.
    let limit = match limit {
        Some(limit) => {
            let millis = limit.saturating_sub(SOONER).max(limit / 2).as_millis();
            format!(
                "SELECT set_config('statement_timeout', '{millis}', false) FROM pg_settings \
                 WHERE name = 'statement_timeout' AND (setting::bigint = 0 OR setting::bigint > {millis})"
            )
        }
        None => "SET statement_timeout = 0".into(),
    };
    format!(
        "{SETTINGS}; SET search_path = \"{schema}\", pg_temp; \
         SELECT set_config('publication.session', '{mark}', false); {limit}"
    )
}

/// A text that is unique to a session.
fn mark() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    format!("{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
