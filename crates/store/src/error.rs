//! The errors of a database, classified by the action that they require.

use std::borrow::Cow;

use sqlx::postgres::PgDatabaseError;

/// Why an operation failed. A message never quotes a row's values, except the key of a row that cannot be read. It includes all
/// that is kept of the driver's message; the error has no source, so that a printed error chain does not repeat it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database is unavailable, or lacks a resource. The condition is transient.
    #[error("the database is not available: {0}")]
    Transient(Cow<'static, str>),
    /// Another transaction conflicted with this one. The condition is transient, and the next try usually succeeds.
    #[error("another transaction was in the way: {0}")]
    Conflict(Cow<'static, str>),
    /// The statement reached a time limit, the server's or the client's. The same statement would reach it again; a
    /// smaller statement may not.
    #[error("the statement ran into a time limit: {0}")]
    TimedOut(Cow<'static, str>),
    /// All connections of this process's pool are in use. The condition ends when one of them is returned.
    #[error("no connection of the pool is free: {0}")]
    Busy(Cow<'static, str>),
    /// The database refuses the content of a record. The message has only SQLSTATE, table, column and constraint.
    #[error("the database refused the data: {0}")]
    Data(Cow<'static, str>),
    /// A partitioned table has no partition for the record, such as one that was detached. Others may have theirs.
    #[error("the database cannot store the data: {0}")]
    NoPartition(Cow<'static, str>),
    /// Neither a retry nor a rejection helps: the caller stops and reports the error.
    #[error("the database cannot be used: {0}")]
    Fatal(Cow<'static, str>),
}

impl Error {
    /// The class as a metric label: `transient`, `conflict`, `timed_out`, `busy`, `data` or `fatal`.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::Conflict(_) => "conflict",
            Self::TimedOut(_) => "timed_out",
            Self::Busy(_) => "busy",
            Self::Data(_) => "data",
            Self::NoPartition(_) | Self::Fatal(_) => "fatal",
        }
    }

    /// Whether the condition is transient, so that the caller should retry.
    #[must_use]
    pub const fn passes(&self) -> bool {
        !matches!(self, Self::Data(_) | Self::NoPartition(_) | Self::Fatal(_))
    }

    pub(crate) fn fatal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Fatal(message.into())
    }

    /// A row that this build or an earlier one did not write.
    pub(crate) const fn inconsistent() -> Self {
        Self::Fatal(Cow::Borrowed("a row holds a value that no event can have"))
    }

    pub(crate) fn transient(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Transient(message.into())
    }

    /// Whether the database refuses the row, or a function raises the error, such as a trigger's, with a code and a message of
    /// its own. The message may quote the row then (`invalid input syntax …: "x"`).
    pub(crate) fn is_about_the_row(error: &sqlx::Error) -> bool {
        of_postgres(error).is_some_and(may_quote)
    }

    /// The error with the database's own message and the table, column and constraint. Only for a row of this program,
    /// because the message may quote it. PostgreSQL's detail stays out, because it quotes the whole row.
    pub(crate) fn with_its_words(error: &sqlx::Error) -> Self {
        match of_postgres(error) {
            Some(postgres) => {
                let message = format!("{} ({})", postgres.message(), names(postgres));
                class_of(postgres)(message.into())
            }
            None => Self::fatal(plain(error)),
        }
    }

    /// The error of a statement that handles no row of `publication`, so that a trigger's own message is shown.
    pub(crate) fn without_rows(error: sqlx::Error) -> Self {
        if Self::is_about_the_row(&error) { Self::with_its_words(&error) } else { error.into() }
    }

    /// The error of a change to the schema: also one by an event trigger, which refuses no data.
    fn of_schema(error: sqlx::Error) -> Self {
        match Self::without_rows(error) {
            Self::Data(words) => Self::Fatal(words),
            error => error,
        }
    }

    /// The same error, prefixed with the operation that failed.
    pub(crate) fn within(mut self, what: &str) -> Self {
        let (Self::Transient(words)
        | Self::Conflict(words)
        | Self::TimedOut(words)
        | Self::Busy(words)
        | Self::Data(words)
        | Self::NoPartition(words)
        | Self::Fatal(words)) = &mut self;
        *words = format!("{what}: {words}").into();
        self
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let class: Class = match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                match database.try_downcast_ref::<PgDatabaseError>() {
                    Some(postgres) => class_of(postgres),
                    None => code.parse().map_or(Error::Fatal, sqlite_code),
                }
            }
            // A connection that broke within its protocol is replaced by a new connection.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Error::Transient,
            sqlx::Error::PoolTimedOut => Error::Busy,
            _ => Error::Fatal,
        };
        class(plain(&error).into())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let class: Class = match &error {
            // The message is the trigger's, and may quote the row.
            rusqlite::Error::SqliteFailure(failure, _)
                if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_TRIGGER =>
            {
                return Self::Data("SQLITE_CONSTRAINT_TRIGGER".into());
            }
            rusqlite::Error::SqliteFailure(failure, _) => sqlite_code(failure.extended_code),
            _ => Error::Fatal,
        };
        class(error.to_string().into())
    }
}

impl From<model::InvalidName> for Error {
    fn from(_: model::InvalidName) -> Self {
        Self::inconsistent()
    }
}

/// A row with a word that the specification does not define was not written by this build or an earlier one.
impl From<model::UnknownWord> for Error {
    fn from(error: model::UnknownWord) -> Self {
        Self::fatal(error.to_string())
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(error) => Self::of_schema(error),
            MigrateError::ExecuteMigration(error, version) => {
                Self::of_schema(error).within(&format!("migration {version}"))
            }
            MigrateError::VersionMissing(version) => Self::fatal(format!(
                "its schema has migration {version}, which this build does not know: use a later build"
            )),
            other => Self::fatal(format!("migrating failed: {other}")),
        }
    }
}

/// Makes an error of one class of its message.
type Class = fn(Cow<'static, str>) -> Error;

/// Classifies an error of PostgreSQL.
fn class_of(error: &PgDatabaseError) -> Class {
    class_of_code(error.code(), error.routine())
}

/// That no partition takes a row has the code of a violated check, and that the server needs a `VACUUM` before it gives new
/// transaction ids that of a row that is too large, so they are known by the function of the server that raises them.
fn class_of_code(code: &str, routine: Option<&str>) -> Class {
    match (code, routine) {
        ("23514", Some("ExecFindPartition")) => Error::NoPartition,
        ("54000", Some("GetNewTransactionId" | "GetNewMultiXactId")) => Error::Transient,
        (code, _) => sqlstate(code),
    }
}

/// Classifies PostgreSQL's SQLSTATE (PostgreSQL manual, appendix A). Longer prefixes are tested before shorter ones.
fn sqlstate(code: &str) -> Class {
    // A cancelled statement (`statement_timeout`, or a `pg_cancel_backend`), a lock that was not granted in time, a
    // transaction that took too long.
    const TIMED_OUT: [&str; 3] = ["57014", "55P03", "25P04"];
    // A deferred constraint; triggers, functions and views that refuse the row with their own message.
    const DATA: [&str; 11] = ["40002", "22", "23", "44", "P0", "09", "27", "2F", "38", "39", "54"];
    // Rollbacks in favour of another transaction: serialization failure, deadlock.
    const CONFLICT: [&str; 1] = ["40"];
    // Lost connections (and a pooler's refusals), a standby's read-only state, a session that was idle for too long, statements
    // that a pooler dropped, lack of resources, an object in use or not ready (such as a database that accepts no connections),
    // an operator's intervention, errors of the system or of a configuration file, a snapshot that is too old.
    const TRANSIENT: [&str; 10] =
        ["08", "25006", "25P03", "26000", "53", "55", "57", "58", "72", "F0"];
    // The remaining classes of PostgreSQL. A code of any other class is one of an operator's function, which refuses a row.
    const OTHERS: [&str; 26] = [
        "00", "01", "02", "03", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24", "25",
        "26", "28", "2B", "2D", "34", "3B", "3D", "3F", "42", "HV", "XX",
    ];
    let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| code.starts_with(prefix));
    if is(&TIMED_OUT) {
        Error::TimedOut
    } else if is(&DATA) {
        Error::Data
    } else if is(&CONFLICT) {
        Error::Conflict
    } else if is(&TRANSIENT) {
        Error::Transient
    } else if is(&OTHERS) {
        Error::Fatal
    } else {
        Error::Data
    }
}

/// Classifies SQLite's result code (sqlite.org/rescode.html); the low byte of an extended code is the primary code.
const fn sqlite_code(code: i32) -> Class {
    match code & 0xff {
        // BUSY, LOCKED: another process writes.
        5 | 6 => Error::Conflict,
        // READONLY, IOERR, FULL, CANTOPEN, PROTOCOL
        8 | 10 | 13 | 14 | 15 => Error::Transient,
        // INTERRUPT
        9 => Error::TimedOut,
        // TOOBIG, CONSTRAINT, MISMATCH
        18..=20 => Error::Data,
        _ => Error::Fatal,
    }
}

/// The error's message without PostgreSQL's detail, which quotes the row, and without the URL.
fn plain(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(database) = error else { return error.to_string() };
    match (database.try_downcast_ref::<PgDatabaseError>(), database.code()) {
        (Some(postgres), _) if may_quote(postgres) => names(postgres),
        // A prepared statement that does not exist, or exists already.
        (Some(_), Some(code)) if code == "26000" || code == "42P05" => format!(
            "{} (SQLSTATE {code}): a pooler in transaction mode does this, which is not supported",
            database.message()
        ),
        (Some(_), Some(code)) => format!("{} (SQLSTATE {code})", database.message()),
        _ => database.message().to_owned(),
    }
}

fn of_postgres(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Whether the message may quote a row: the row was refused, or the error comes from a function. PostgreSQL gives the context of
/// such an error. Its own statements give a context too, which names a step (`while locking tuple …`, `COPY …, line 1`) or a
/// worker. In another language such a context is not known, and the message is left out.
fn may_quote(error: &PgDatabaseError) -> bool {
    let is_own = |line: &str| {
        line.starts_with("while ") || line.starts_with("COPY ") || line == "parallel worker"
    };
    let context = error.r#where().unwrap_or_default();
    matches!(class_of(error)("".into()), Error::Data(_)) || !context.lines().all(is_own)
}

/// The SQLSTATE and the names of the objects that refused a row.
fn names(error: &PgDatabaseError) -> String {
    let mut text = format!("SQLSTATE {}", error.code());
    let parts =
        [("table", error.table()), ("column", error.column()), ("constraint", error.constraint())];
    for (kind, name) in parts {
        if let Some(name) = name {
            text.push_str(&format!(", {kind} {name}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_never_taken_for_the_data() {
        for code in [
            "08006", "08P01", "25006", "25P03", "26000", "53100", "53300", "55000", "55006",
            "57P01", "57P03", "57P05", "58000", "58030", "58P01",
        ] {
            assert_eq!(sqlstate(code)("".into()).class(), "transient", "{code}");
        }
        for code in ["57014", "55P03", "25P04"] {
            assert_eq!(sqlstate(code)("".into()).class(), "timed_out", "{code}");
        }
        for code in ["40001", "40P01", "40003"] {
            assert_eq!(sqlstate(code)("".into()).class(), "conflict", "{code}");
        }
        for code in
            ["22021", "22P02", "23505", "23514", "23502", "40002", "44000", "54000", "P0001"]
        {
            assert_eq!(sqlstate(code)("".into()).class(), "data", "{code}");
        }
        for code in ["42501", "42P01", "28P01", "3D000", "XX000", "0A000", "25001", "3F000"] {
            assert_eq!(sqlstate(code)("".into()).class(), "fatal", "{code}");
        }
        for code in ["PX001", "U0001", "ABCDE", "99999"] {
            assert_eq!(sqlstate(code)("".into()).class(), "data", "{code}: an operator's own");
        }
    }

    #[test]
    fn a_server_without_transaction_ids_is_waited_for() {
        for routine in ["GetNewTransactionId", "GetNewMultiXactId"] {
            assert_eq!(class_of_code("54000", Some(routine))("".into()).class(), "transient");
        }
        let too_large = class_of_code("54000", Some("check_index_tuple"))("".into());
        assert_eq!(too_large.class(), "data");
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
        assert_eq!(sqlite_code(5)("".into()).class(), "conflict");
        assert_eq!(sqlite_code(517)("".into()).class(), "conflict", "SQLITE_BUSY_SNAPSHOT");
        assert_eq!(sqlite_code(13)("".into()).class(), "transient");
        assert_eq!(sqlite_code(275)("".into()).class(), "data", "SQLITE_CONSTRAINT_CHECK");
        assert_eq!(sqlite_code(11)("".into()).class(), "fatal", "SQLITE_CORRUPT");
    }
}
