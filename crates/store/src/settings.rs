//! The settings of the database.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnectOptions;

use crate::Error;
use crate::url::{self, Problem};
pub(crate) use crate::url::{PostgresUrl, SessionKind};

/// The `[store]` table of both daemons' configuration.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// `postgres://user@host:5432/database?sslmode=verify-full`, or `sqlite://publications.db`.
    pub url: String,
    /// A file that contains the URL, for a URL with a password. If empty, `url` is used.
    pub url_file: PathBuf,
    /// The schema of PostgreSQL that holds the tables, whatever the role's `search_path` says.
    pub schema: String,
    /// The maximum number of connections to PostgreSQL.
    pub max_connections: u32,
    /// The maximum wait for a connection, after which the database counts as unavailable.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The maximum time of a statement. PostgreSQL enforces it, and the client does if the server does not answer.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            url: "sqlite://publications.db".into(),
            url_file: PathBuf::new(),
            schema: "public".into(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(5),
            // A dead connection is abandoned, replaced and used again within half a minute.
            statement_timeout: Duration::from_secs(15),
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
            .field("schema", &self.schema)
            .field("max_connections", &self.max_connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish()
    }
}

pub(crate) enum Database {
    Postgres(PostgresUrl),
    Sqlite(SqliteConnectOptions),
}

/// An upper bound above any server's configuration, because memory for all connections is reserved at start.
const MAX_CONNECTIONS: u32 = 1_000;

/// PostgreSQL counts the milliseconds of a time limit in 32 bits.
const LONGEST: Duration = Duration::from_secs(24 * 86_400);

impl StoreSettings {
    /// Checks the numbers, the URL and, if it can be read, the URL in `url_file`.
    ///
    /// # Errors
    /// The key and the problem with its value, without the value: a number of connections out of range, a zero
    /// duration, a URL with control characters, a URL of a database that is not supported or not persistent, a
    /// parameter of the URL that is not supported.
    pub fn check(&self) -> Result<(), (&'static str, Problem)> {
        if !(1..=MAX_CONNECTIONS).contains(&self.max_connections) {
            return Err(("store.max_connections", "must be from 1 to 1000".into()));
        }
        for (key, time) in [
            ("store.connect_timeout", self.connect_timeout),
            ("store.statement_timeout", self.statement_timeout),
        ] {
            if time.is_zero() || time > LONGEST {
                return Err((key, "must be greater than 0s, and at most 24days".into()));
            }
        }
        if self.schema.is_empty() || self.schema.contains('\0') {
            return Err(("store.schema", "must name a schema".into()));
        }
        if self.url.contains(char::is_control) {
            return Err(("store.url", "must have no control characters".into()));
        }
        let key = if self.has_url_file() { "store.url_file" } else { "store.url" };
        // A file that does not exist yet is not an error here; opening the database reports it.
        match self.url() {
            Ok(url) => read(&url).map(drop).map_err(|problem| (key, problem)),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn database(&self) -> Result<Database, Error> {
        read(&self.url()?).map_err(|problem| Error::fatal(format!("store.url {problem}")))
    }

    pub(crate) fn has_url_file(&self) -> bool {
        !self.url_file.as_os_str().is_empty()
    }

    fn url(&self) -> Result<String, Error> {
        if !self.has_url_file() {
            return Ok(self.url.clone());
        }
        let text = std::fs::read_to_string(&self.url_file).map_err(|error| {
            Error::fatal(format!("store.url_file {}: {error}", self.url_file.display()))
        })?;
        // Some editors begin a file with a byte order mark.
        Ok(text.trim_start_matches('\u{feff}').trim().to_owned())
    }
}

fn read(url: &str) -> Result<Database, Problem> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Database::Postgres(PostgresUrl::parse(url)?)),
        // Offsets would be committed for rows that are lost when the process ends.
        Some("sqlite") if url.contains(":memory:") || url.contains("mode=memory") => {
            Err("names a database in memory, which would lose its rows".into())
        }
        Some("sqlite") => Ok(Database::Sqlite(url::sqlite(url)?)),
        _ => Err("must begin with postgres:// or sqlite://".into()),
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
            "sqlite:///",
            "sqlite://",
            "sqlite:",
            "sqlite://?mode=rwc",
        ] {
            let settings = StoreSettings { url: url.into(), ..Default::default() };
            assert!(matches!(settings.database(), Err(Error::Fatal(_))), "{url}");
            assert_eq!(settings.check().unwrap_err().0, "store.url", "{url}");
            // If `url_file` is set, its URL counts; the file may be written later.
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
        let timeout = StoreSettings { connect_timeout: Duration::ZERO, ..settings.clone() };
        assert_eq!(timeout.check().unwrap_err().0, "store.connect_timeout");
        let timeout = StoreSettings { statement_timeout: Duration::ZERO, ..settings };
        assert_eq!(timeout.check().unwrap_err().0, "store.statement_timeout");
    }

    #[test]
    fn a_url_file_may_begin_with_a_byte_order_mark_and_end_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let url_file = folder.path().join("url");
        let settings = StoreSettings { url_file: url_file.clone(), ..Default::default() };
        std::fs::write(&url_file, "\u{feff} postgres://u@h/db \r\n").unwrap();
        assert_eq!(settings.url().unwrap(), "postgres://u@h/db");
        assert_eq!(settings.check(), Ok(()));
        std::fs::write(&url_file, "postgres://u@h/db?sslpassword=hunter2").unwrap();
        let (key, problem) = settings.check().unwrap_err();
        assert_eq!(key, "store.url_file");
        assert!(problem.contains("sslpassword") && !problem.contains("hunter2"), "{problem}");
    }
}
