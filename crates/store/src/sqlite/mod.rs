//! The SQLite adapter.

mod connection;
mod jobs;
mod positions;
mod read;
mod write;

use model::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;

pub(crate) use connection::check_folder;
pub use read::SqliteReader;
pub use write::SqliteWriter;

use crate::Error;
pub(crate) use crate::migrations::SQLITE as MIGRATOR;

/// What every connection is told.
const PRAGMAS: [(&str, &str); 5] = [
    // In milliseconds. How long to wait for a writer in another process before the caller is told of it: as long as a
    // signal may wait for.
    ("busy_timeout", "500"),
    // A write-ahead log lets readers go on while one writer writes.
    ("journal_mode", "WAL"),
    // Because a Kafka offset is committed on the strength of each commit: `NORMAL` may lose the last ones with the power.
    ("synchronous", "FULL"),
    // In KiB when negative. The inner pages of the indexes of some ten million rows.
    ("cache_size", "-32768"),
    // In pages of 4 KiB. A checkpoint writes each page once however often it changed, so seldom is cheaper; 128 MiB are
    // read again after a crash in less than a second.
    ("wal_autocheckpoint", "32768"),
];

/// A time as it stands in the file.
fn time(text: &str) -> Result<Timestamp, Error> {
    Timestamp::parse(text).map_err(|error| Error::fatal(format!("a time in the file: {error}")))
}

fn tuned(options: SqliteConnectOptions) -> SqliteConnectOptions {
    PRAGMAS.into_iter().fold(options, |options, (name, value)| options.pragma(name, value))
}
