//! The SQLite adapter.

mod jobs;
mod read;
mod write;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

pub use read::SqliteReader;
pub use write::SqliteWriter;

pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// A write-ahead log lets readers go on while one writer writes. `FULL` because a Kafka offset is committed on the
/// strength of each commit: `NORMAL` may lose the last ones with the power.
fn tuned(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(std::time::Duration::from_secs(5))
        // In KiB when negative. The inner pages of the indexes of some ten million rows.
        .pragma("cache_size", "-32768")
        // In pages of 4 KiB. A checkpoint writes each page once however often it changed, so seldom is cheaper; 32 MiB
        // are read again after a crash in no time.
        .pragma("wal_autocheckpoint", "8192")
}
