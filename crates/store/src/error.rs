//! Three kinds of trouble, because three different things must be done about it.

use std::borrow::Cow;

/// Why the database did not do it. Messages never quote a row's values. They are all that is kept of what the driver
/// said, and no source of the error: who prints its chain would read them twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment: retry for as long as it takes, keep the data.
    #[error("the database is not available: {0}")]
    Transient(Cow<'static, str>),
    /// The content of a record: find it by bisection and reject it.
    #[error("the database refused the data: {0}")]
    Data(Cow<'static, str>),
    /// Neither retrying nor rejecting helps: stop and say so.
    #[error("the database cannot be used: {0}")]
    Fatal(Cow<'static, str>),
}

impl Error {
    /// The class as a metric label: `transient`, `data` or `fatal`.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::Data(_) => "data",
            Self::Fatal(_) => "fatal",
        }
    }

    pub(crate) fn fatal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Fatal(message.into())
    }

    pub(crate) fn transient(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Transient(message.into())
    }

    /// The same error for another caller of the same statement.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Transient(message) => Self::Transient(message.clone()),
            Self::Data(message) => Self::Data(message.clone()),
            Self::Fatal(message) => Self::Fatal(message.clone()),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let class = match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
                    sqlstate(&code)
                } else {
                    code.parse().map_or(Class::Fatal, sqlite_code)
                }
            }
            // A connection that broke in the middle of its protocol is replaced by a new one.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Class::Transient,
            _ => Class::Fatal,
        };
        class.of(plain(&error))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let class = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => sqlite_code(failure.extended_code),
            _ => Class::Fatal,
        };
        class.of(error.to_string())
    }
}

/// A row whose word the specification does not have was not written by this build or an earlier one.
impl From<model::UnknownWord> for Error {
    fn from(error: model::UnknownWord) -> Self {
        Self::fatal(error.to_string())
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            MigrateError::VersionMissing(version) => Self::fatal(format!(
                "its schema has migration {version}, which this build does not know: use a later build"
            )),
            other => Self::fatal(format!("migrating failed: {other}")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Transient,
    Data,
    Fatal,
}

impl Class {
    fn of(self, message: String) -> Error {
        match self {
            Self::Transient => Error::Transient(message.into()),
            Self::Data => Error::Data(message.into()),
            Self::Fatal => Error::Fatal(message.into()),
        }
    }
}

/// PostgreSQL's SQLSTATE (PostgreSQL manual, appendix A).
fn sqlstate(code: &str) -> Class {
    // Lost connections, a standby's read-only state, statements dropped by a pooler, conflicts of transactions, lack of
    // resources, locks, an operator's intervention or cancellation, a failing disk.
    const TRANSIENT: [&str; 10] =
        ["08", "25006", "26000", "40001", "40P01", "53", "55P03", "57P", "57014", "58030"];
    if TRANSIENT.iter().any(|prefix| code.starts_with(prefix)) {
        Class::Transient
    } else if code.starts_with("22") || code.starts_with("23") {
        Class::Data
    } else {
        Class::Fatal
    }
}

/// SQLite's result code (sqlite.org/rescode.html); the low byte of an extended code is the primary one.
const fn sqlite_code(code: i32) -> Class {
    match code & 0xff {
        // BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL
        5 | 6 | 8 | 10 | 13 | 14 | 15 => Class::Transient,
        // TOOBIG, CONSTRAINT, MISMATCH
        18..=20 => Class::Data,
        _ => Class::Fatal,
    }
}

/// The error's own message without PostgreSQL's detail, which quotes the row, and without the URL.
fn plain(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(database) = error else { return error.to_string() };
    match (database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>(), database.code()) {
        // A data error may quote the value in its message ("invalid input syntax … "x""): the constraint says enough.
        (Some(postgres), Some(code)) if sqlstate(&code) == Class::Data => {
            let constraint = postgres.constraint().unwrap_or("no constraint");
            format!("SQLSTATE {code} ({constraint})")
        }
        (Some(_), Some(code)) => format!("{} (SQLSTATE {code})", database.message()),
        _ => database.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_never_taken_for_the_data() {
        for code in [
            "08006", "25006", "26000", "40001", "40P01", "53100", "53300", "55P03", "57P01",
            "57P03", "57014", "58030",
        ] {
            assert_eq!(sqlstate(code), Class::Transient, "{code}");
        }
        for code in ["22021", "22P02", "23505", "23514", "23502"] {
            assert_eq!(sqlstate(code), Class::Data, "{code}");
        }
        for code in ["42501", "42P01", "28P01", "3D000", "XX000"] {
            assert_eq!(sqlstate(code), Class::Fatal, "{code}");
        }
    }

    #[test]
    fn a_message_is_said_once() {
        use std::error::Error as _;
        let error = Error::fatal("no such table");
        assert_eq!(error.to_string(), "the database cannot be used: no such table");
        assert!(error.source().is_none());
    }

    #[test]
    fn extended_sqlite_codes_count_as_their_primary_one() {
        assert_eq!(sqlite_code(5), Class::Transient);
        assert_eq!(sqlite_code(517), Class::Transient, "SQLITE_BUSY_SNAPSHOT");
        assert_eq!(sqlite_code(13), Class::Transient);
        assert_eq!(sqlite_code(275), Class::Data, "SQLITE_CONSTRAINT_CHECK");
        assert_eq!(sqlite_code(11), Class::Fatal, "SQLITE_CORRUPT");
    }
}
