//! Where the publications are kept.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::Error;

/// The `[store]` table of both daemons' configuration.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// `postgres://user@host:5432/database?sslmode=verify-full`, or `sqlite://publications.db`.
    pub url: String,
    /// A file that holds the URL, for a URL with a password in it; empty = `url` is used.
    pub url_file: PathBuf,
    /// Connections to PostgreSQL at most.
    pub max_connections: u32,
    /// How long to wait for a connection before the database counts as away.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            url: "sqlite://publications.db".into(),
            url_file: PathBuf::new(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// The URL can hold a password and is not printed.
impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.url.split_once(':').map_or("", |(scheme, _)| scheme);
        f.debug_struct("StoreSettings")
            .field("url", &format_args!("{scheme}:[redacted]"))
            .field("url_file", &self.url_file)
            .field("max_connections", &self.max_connections)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

pub(crate) enum Database {
    Postgres(PgConnectOptions),
    Sqlite(SqliteConnectOptions),
}

/// More connections than any server is set up for; the room for them is taken at once.
const MAX_CONNECTIONS: u32 = 1_000;

impl StoreSettings {
    /// Checks the numbers and what kind of database the URL names. The rest of the URL, and what `url_file` holds, are
    /// read when the database is opened.
    ///
    /// # Errors
    /// The key and what is wrong with its value, without the value: a number of connections that cannot be had, no time
    /// to connect, a URL of no database that keeps rows.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(1..=MAX_CONNECTIONS).contains(&self.max_connections) {
            return Err(("store.max_connections", "must be from 1 to 1000"));
        }
        if self.connect_timeout.is_zero() {
            return Err(("store.connect_timeout", "must be greater than 0s"));
        }
        if self.url_file.as_os_str().is_empty() {
            kind(&self.url).map_err(|reason| ("store.url", reason))?;
        }
        Ok(())
    }

    pub(crate) fn database(&self) -> Result<Database, Error> {
        let url = self.url()?;
        let invalid = || Error::fatal("store.url cannot be read as a database URL");
        Ok(match kind(&url).map_err(|reason| Error::fatal(format!("store.url {reason}")))? {
            Kind::Postgres => {
                let options = PgConnectOptions::from_str(&url).map_err(|_| invalid())?;
                Database::Postgres(options.application_name("publication"))
            }
            Kind::Sqlite => {
                Database::Sqlite(SqliteConnectOptions::from_str(&url).map_err(|_| invalid())?)
            }
        })
    }

    fn url(&self) -> Result<String, Error> {
        if self.url_file.as_os_str().is_empty() {
            return Ok(self.url.clone());
        }
        let text = std::fs::read_to_string(&self.url_file).map_err(|error| {
            Error::fatal(format!("store.url_file {}: {error}", self.url_file.display()))
        })?;
        Ok(text.trim().to_owned())
    }
}

enum Kind {
    Postgres,
    Sqlite,
}

/// What kind of database a URL names, or what is wrong with it.
fn kind(url: &str) -> Result<Kind, &'static str> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Kind::Postgres),
        // Offsets would be committed for rows that end with the process.
        Some("sqlite") if url.contains(":memory:") || url.contains("mode=memory") => {
            Err("names a database in memory, which would lose its rows")
        }
        Some("sqlite") => Ok(Kind::Sqlite),
        _ => Err("must begin with postgres:// or sqlite://"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let settings =
            StoreSettings { url: "postgres://user:secret@host/db".into(), ..Default::default() };
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn what_keeps_no_rows_is_refused() {
        for url in [
            "mysql://localhost/db",
            "publications.db",
            "",
            "sqlite::memory:",
            "sqlite://:memory:",
            "sqlite://x?mode=memory",
        ] {
            let settings = StoreSettings { url: url.into(), ..Default::default() };
            assert!(matches!(settings.database(), Err(Error::Fatal(_))), "{url}");
            assert_eq!(settings.check().unwrap_err().0, "store.url", "{url}");
            // The file's URL counts then, and is read when it is needed.
            assert_eq!(StoreSettings { url_file: "x".into(), ..settings }.check(), Ok(()));
        }
    }

    #[test]
    fn connections_can_be_had() {
        let settings = StoreSettings::default();
        assert_eq!(settings.check(), Ok(()));
        for max_connections in [0, MAX_CONNECTIONS + 1, u32::MAX] {
            let settings = StoreSettings { max_connections, ..settings.clone() };
            assert_eq!(settings.check().unwrap_err().0, "store.max_connections");
        }
        let settings = StoreSettings { connect_timeout: Duration::ZERO, ..settings };
        assert_eq!(settings.check().unwrap_err().0, "store.connect_timeout");
    }
}
