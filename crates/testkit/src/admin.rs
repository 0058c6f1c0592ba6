//! A DBA's changes to a PostgreSQL database, made over another database of the same server.

use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::wait::eventually;

/// The deadline for sessions to end, which may be busy.
const ENDED: Duration = Duration::from_secs(60);

/// A superuser connected to the server, but not to the database itself.
#[derive(Debug)]
pub struct DatabaseAdmin {
    server: PgPool,
    name: String,
}

impl DatabaseAdmin {
    /// The admin for the URL of a [`crate::Database`]. Connects on first use.
    pub fn of(url: &str) -> Self {
        let (server, name) = url.rsplit_once('/').expect("the URL names a database");
        let options = PgPoolOptions::new().max_connections(2);
        let options = options.acquire_timeout(Duration::from_secs(5));
        let server = options.connect_lazy(&format!("{server}/postgres"));
        Self { server: server.expect("a URL of testkit's"), name: name.to_owned() }
    }

    /// Executes statements on the server.
    pub async fn execute(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.server).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Executes `ALTER DATABASE name` with the rest of the statement.
    pub async fn alter(&self, change: &str) {
        self.execute(&format!("ALTER DATABASE \"{}\" {change}", self.name)).await;
    }

    /// Ends all sessions of the database.
    pub async fn end_sessions(&self) {
        let of = format!("FROM pg_stat_activity WHERE datname = '{}'", self.name);
        self.execute(&format!("SELECT count(pg_terminate_backend(pid)) {of}")).await;
    }

    /// `false` refuses new connections and ends all sessions; `true` allows connections again.
    pub async fn admit(&self, all: bool) {
        self.alter(&format!("ALLOW_CONNECTIONS {all}")).await;
        if all {
            return;
        }
        let count =
            format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'", self.name);
        eventually("the sessions to end", ENDED, async || {
            self.end_sessions().await;
            let left = sqlx::query_scalar::<_, i64>(AssertSqlSafe(count.clone()));
            left.fetch_one(&self.server).await.is_ok_and(|left| left == 0)
        })
        .await;
    }

    /// Makes a copy of the database. This ends all sessions.
    pub async fn copy(&self) {
        let name = &self.name;
        self.admit(false).await;
        self.execute(&format!("CREATE DATABASE \"{name}.copy\" TEMPLATE \"{name}\"")).await;
        self.admit(true).await;
    }

    /// Replaces the database by its copy. This ends all sessions.
    pub async fn put_back(&self) {
        let name = &self.name;
        self.admit(false).await;
        self.alter(&format!("RENAME TO \"{}\"", crate::net::unique("before"))).await;
        self.execute(&format!("ALTER DATABASE \"{name}.copy\" RENAME TO \"{name}\"")).await;
    }

    /// Closes the connections to the server.
    pub async fn close(&self) {
        self.server.close().await;
    }
}
