//! Migrates the schema. Waiting for another session's lock, and a migration itself, may take hours, so no time limit applies;
//! a second session checks for progress.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnection;

use super::MIGRATOR;
use super::connections::Connections;
use super::session::{Backend, limited};
use crate::Error;

/// A running migration is logged at each fourth check.
const LOGGED_EVERY: u32 = 4;

/// As [`crate::PublicationTable::migrate`].
pub(super) async fn migrate(connections: &Connections) -> Result<(), Error> {
    connections.check_sessions().await?;
    let limit = connections.limit();
    let mut session = connections.apart(Some(limit)).await?;
    let looking = async {
        let connection = &mut session.connection;
        let may_create = sqlx::query_scalar(super::MAY_CREATE).bind(connections.schema());
        let may_create: bool = may_create.fetch_one(&mut *connection).await?;
        Ok((pending(connection).await?, may_create))
    };
    let (pending, may_create) = limited(limit, looking).await?;
    if pending.is_empty() {
        return Ok(());
    }
    if !may_create {
        return Err(Error::fatal(format!(
            "migrations {pending:?} are to run: run `migrate` as the owner of the schema"
        )));
    }
    tracing::info!(migrations = ?pending, "migrating the schema");
    let mut session = connections.apart(None).await?;
    let backend = session.backend.clone();
    let lost = tokio::select! {
        migrated = MIGRATOR.run_direct(None, &mut session.connection, false) => return Ok(migrated?),
        lost = lost(connections, &backend, limit) => lost,
    };
    connections.end(session).await;
    Err(lost)
}

/// Looks at the migration's server process from another session. Returns when the process has ended, or has had nothing to do
/// for two looks, because the migration would wait for its answer without end.
async fn lost(connections: &Connections, backend: &Backend, pause: Duration) -> Error {
    let (mut idle_since, mut looks) = (None, 0_u32);
    loop {
        tokio::time::sleep(pause).await;
        let activity = match connections.fetch_all(|| backend.activity()).await {
            Ok(rows) => rows.first().map(Backend::activity_of).transpose(),
            Err(error) => Err(error),
        };
        match activity {
            // The database may be away; the migration's own session tells, or a later look.
            Err(error) => tracing::debug!(%error, "the migration cannot be looked at"),
            Ok(None) => return Error::transient("the migration's session has ended"),
            Ok(Some(activity)) if activity.is_active => {
                idle_since = None;
                if looks.is_multiple_of(LOGGED_EVERY) {
                    let locked = activity.waits_for_a_lock;
                    tracing::info!(waits_for_a_lock = locked, "the schema is being migrated");
                }
                looks += 1;
            }
            Ok(Some(activity)) if idle_since.as_ref() == Some(&activity.since) => {
                return Error::transient("the migration's session does not answer any more");
            }
            Ok(Some(activity)) => idle_since = Some(activity.since),
        }
    }
}

/// The migrations that have not run yet. The migrator itself would first create its table, which a role that may only read
/// and write rows has no right to do.
///
/// # Errors
/// [`Error::Fatal`] if a migration was applied that this build does not have, or has in another form.
async fn pending(connection: &mut PgConnection) -> Result<Vec<i64>, Error> {
    let made = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
    let applied = match sqlx::query_as::<_, (i64, Vec<u8>)>(made).fetch_all(connection).await {
        Ok(rows) => rows,
        // 42P01: undefined_table.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for (version, checksum) in &applied {
        match MIGRATOR.iter().find(|known| known.version == *version) {
            None => return Err(MigrateError::VersionMissing(*version).into()),
            Some(known) if *known.checksum != **checksum => {
                return Err(MigrateError::VersionMismatch(*version).into());
            }
            Some(_) => {}
        }
    }
    let is_pending = |version: &i64| applied.iter().all(|(applied, _)| applied != version);
    Ok(MIGRATOR.iter().map(|known| known.version).filter(is_pending).collect())
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Executor};
    use testkit::{Proxy, eventually, postgres};

    use super::*;
    use crate::postgres::session::Session;
    use crate::settings::PostgresUrl;
    use crate::{PublicationTable, StoreSettings, open};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn table(url: &str) -> std::sync::Arc<dyn PublicationTable> {
        let settings = StoreSettings {
            url: url.into(),
            statement_timeout: Duration::from_secs(2),
            ..StoreSettings::default()
        };
        open(&settings).unwrap().table
    }

    #[tokio::test]
    async fn a_lock_on_the_list_of_migrations_is_a_time_limit() {
        let url = postgres().database().await.url;
        let table = table(&url);
        table.migrate().await.unwrap();
        let mut operator = PgConnection::connect(&url).await.unwrap();
        operator.execute("BEGIN; LOCK TABLE _sqlx_migrations").await.unwrap();
        let error = table.migrate().await.unwrap_err();
        assert!(matches!(error, Error::TimedOut(_)), "{error}");
        operator.execute("COMMIT").await.unwrap();
        table.migrate().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_migration_whose_answer_is_lost_ends_and_can_be_run_again() {
        let url = postgres().database().await.url;
        let address = testkit::host_of(&url);
        let proxy = Proxy::start();
        proxy.forward_to(address);
        let table = table(&url.replace(address, &proxy.address()));
        let mut operator = PgConnection::connect(&url).await.unwrap();
        // The migration's table of the same name waits until this one is rolled back.
        operator.execute("BEGIN; CREATE TABLE publication (x int)").await.unwrap();
        let migrating = tokio::spawn({
            let table = table.clone();
            async move { table.migrate().await }
        });
        let mut other = PgConnection::connect(&url).await.unwrap();
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let is_waiting = async || {
            let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut other).await.unwrap();
            count > 0
        };
        eventually("the migration to wait for the lock", PATIENCE, is_waiting).await;
        proxy.silence();
        operator.execute("ROLLBACK").await.unwrap();
        let error = tokio::time::timeout(PATIENCE, migrating).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, Error::Transient(_)), "{error}");
        table.migrate().await.unwrap();
        table.answers().await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_process_is_ended_only_for_its_advisory_lock() {
        let url = postgres().database().await.url;
        let settings = StoreSettings { url: url.clone(), ..StoreSettings::default() };
        let url = PostgresUrl::parse(&url).unwrap();
        let mut one = Session::open(&url, &settings, None, false).await.unwrap();
        let mut other = Session::open(&url, &settings, None, false).await.unwrap();
        assert!(!one.backend.end(&mut other.connection).await.unwrap());
        one.connection.execute("SELECT pg_advisory_lock(7)").await.unwrap();
        assert!(one.backend.end(&mut other.connection).await.unwrap());
    }
}
