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

impl StoreSettings {
    pub(crate) fn database(&self) -> Result<Database, Error> {
        let url = self.url()?;
        let invalid = || Error::fatal("store.url cannot be read as a database URL");
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => {
                let options = PgConnectOptions::from_str(&url).map_err(|_| invalid())?;
                Ok(Database::Postgres(options.application_name("publication")))
            }
            // Offsets would be committed for rows that end with the process.
            Some("sqlite") if url.contains(":memory:") || url.contains("mode=memory") => {
                Err(Error::fatal("store.url names a database in memory, which would lose its rows"))
            }
            Some("sqlite") => {
                Ok(Database::Sqlite(SqliteConnectOptions::from_str(&url).map_err(|_| invalid())?))
            }
            _ => Err(Error::fatal("store.url must begin with postgres:// or sqlite://")),
        }
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
        }
    }
}
