//! The SQLite adapter.

mod connection;
mod jobs;
mod positions;
mod read;
mod write;

use model::Timestamp;

pub(crate) use connection::{check_folder, folder_of, is_writable, of_file};
#[cfg(test)]
pub(crate) use read::HISTORY;
pub(crate) use read::SqliteReader;
pub(crate) use write::SqliteWriter;

use crate::Error;
pub(crate) use crate::migrations::SQLITE as MIGRATOR;

/// In milliseconds: how long to wait for a writer in another process before the caller gets an error. A signal may have to
/// wait this long too.
const BUSY_TIMEOUT: (&str, &str) = ("busy_timeout", "500");

/// The settings of every connection that writes.
const PRAGMAS: [(&str, &str); 5] = [
    BUSY_TIMEOUT,
    // A write-ahead log lets readers continue while a writer writes.
    ("journal_mode", "WAL"),
    // A Kafka offset is committed after each transaction, and `NORMAL` may lose the last transactions in a power failure.
    ("synchronous", "FULL"),
    // In KiB if negative. Holds the inner pages of the indexes of some ten million rows.
    ("cache_size", "-32768"),
    // In pages of 4 KiB. A checkpoint writes each page once however often it changed, so rare checkpoints are cheaper.
    // After a crash, 128 MiB are read again in less than a second.
    ("wal_autocheckpoint", "32768"),
];

/// Parses a time of the file.
fn time(text: &str) -> Result<Timestamp, Error> {
    Timestamp::parse(text).map_err(|error| Error::fatal(format!("a time in the file: {error}")))
}
