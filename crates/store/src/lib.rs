//! Stores publications in PostgreSQL and in SQLite: a trait for each kind of use, two hand-written adapters, one merge rule.
//!
//! Reading and writing need different rights, hence different traits: the query daemon opens a reader and needs only `SELECT`.
//! Every write may be repeated (crates/model/README.md, Merge). The adapters do not retry. They classify an error as transient,
//! caused by the data, or permanent; [`Retrying`], a wrapper around an adapter, acts on the class. This crate must not depend
//! on Kafka and must not evaluate verdicts.

mod access;
mod columns;
mod error;
mod filter;
mod merge;
mod migrations;
mod operator;
mod positions;
mod postgres;
mod retry;
mod search;
mod settings;
mod sqlite;
#[cfg(test)]
mod suite;
mod typical;
mod url;

use std::sync::Arc;

use async_trait::async_trait;
use model::{PackageName, Past, Publication, PublicationId, Timestamp};

pub use access::{Access, access};
pub use error::Error;
pub use filter::{Cursor, Filter, Flag, Order};
pub use operator::{Job, JobCounts, JobProgress, JobState, JobUpdate, Jobs, NewJob};
pub use positions::{
    Account, Advance, Advanced, Claimed, DatabaseId, PositionKey, Positions, TablePosition,
};
pub use retry::{Refused, Retrying, WaitCause, WaitObserver, Written};
pub use settings::StoreSettings;

use postgres::{PostgresReader, PostgresWriter};
use sqlite::{SqliteReader, SqliteWriter};

/// The result of a write, in records: `inserted + updated + unchanged` is the number of records given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Rows whose key was not in the table.
    pub inserted: u64,
    /// Rows that were in the table and changed.
    pub updated: u64,
    /// Records that changed nothing: a duplicate, an older one, or one merged away within the batch.
    pub unchanged: u64,
    /// Rows that became disputed.
    pub disputed: u64,
}

impl std::ops::AddAssign for Recorded {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.disputed += other.disputed;
    }
}

/// Writes publications.
#[async_trait]
pub trait PublicationWriter: Send + Sync {
    /// Merges the records into the table. Records of one publication may occur any number of times, in any order. A call that
    /// fails may have written some of the records; writing them again changes nothing.
    ///
    /// # Errors
    /// A transient error ([`Error::passes`]): try again.
    /// [`Error::Data`]: the database refuses at least one of the records because of its content. [`Error::Fatal`]:
    /// neither a retry nor a rejection helps.
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error>;

    /// Tests whether the table accepts and keeps a typical row (every field set, at its maximum length, with non-ASCII
    /// letters), and then the same row with a higher revision. Nothing is kept after the test. If a row is refused while this
    /// test passes, the row's data is at fault, else the table. A store that never refuses a row has nothing to test.
    ///
    /// # Errors
    /// The reason why the row is refused, as [`PublicationWriter::record`].
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Whether it is a file that this process writes, one write at a time: one large write is better than several concurrent ones,
    /// and an error that passes concerns the file, never a row.
    fn is_serial(&self) -> bool {
        false
    }
}

/// Writes publications and maintains their table.
#[async_trait]
pub trait PublicationTable: PublicationWriter {
    /// Migrates the schema to this build's version; does nothing if it has that version.
    ///
    /// # Errors
    /// As [`PublicationWriter::record`]; a schema of a later build is [`Error::Fatal`].
    async fn migrate(&self) -> Result<(), Error>;

    /// The highest generation of any row, 0 in an empty table.
    ///
    /// # Errors
    /// As [`PublicationWriter::record`].
    async fn generation(&self) -> Result<u32, Error>;

    /// `created` of the oldest row since `since` whose `tor` later exit lists can still change.
    ///
    /// # Errors
    /// As [`PublicationWriter::record`].
    async fn oldest_unsettled(&self, since: Timestamp) -> Result<Option<Timestamp>, Error>;

    /// Whether the database answers and has the table.
    ///
    /// # Errors
    /// As [`PublicationWriter::record`].
    async fn answers(&self) -> Result<(), Error>;
}

/// The callback to which [`PublicationReader::history`] passes the rows of each package.
pub type EachPackage<'e> = &'e mut (dyn for<'r> FnMut(&PackageName, &[Past<'r>]) + Send);

/// The extent of a read by [`PublicationReader::history`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsRead {
    /// Rows passed to the callback.
    pub rows: u64,
    /// Whether all packages were read: `false` if there are more rows than the limit allows.
    pub is_complete: bool,
}

/// Reads publications.
#[async_trait]
pub trait PublicationReader: Send + Sync {
    /// Reads the rows of these keys in one statement. The result has the length and order of `ids`, and `None` for a
    /// key without a row.
    ///
    /// # Errors
    /// A transient error ([`Error::passes`]), else [`Error::Fatal`].
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error>;

    /// Reads at most `first` rows that match the filter, ordered by (created, name, version), after the cursor `after`.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error>;

    /// Passes all rows of each of these packages to `each`, one package at a time, in the bytewise order of the names. Packages
    /// without rows are left out; a repeated name counts once. Stops before more than `limit` rows are passed. After a lost
    /// connection the read may start again from the first package: the later rows of a package replace its earlier ones.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn history(
        &self,
        names: &[PackageName],
        limit: u64,
        each: EachPackage<'_>,
    ) -> Result<RowsRead, Error>;

    /// Returns at most `first` package names that begin with the prefix and are greater than `after`, in bytewise
    /// order. Costs one index look-up per name, however many versions a package has.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn search(
        &self,
        prefix: &str,
        after: Option<&str>,
        first: u32,
    ) -> Result<Vec<PackageName>, Error>;

    /// Checks that the statements of this trait would succeed now.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn ready(&self) -> Result<(), Error>;
}

/// Opens the database of `settings.url` for reading. The first use connects.
///
/// # Errors
/// As [`open`].
pub fn open_reader(settings: &StoreSettings) -> Result<Arc<dyn PublicationReader>, Error> {
    Ok(match settings.database()? {
        settings::Database::Postgres(url) => Arc::new(PostgresReader::open(url, settings)),
        settings::Database::Sqlite(options) => Arc::new(SqliteReader::open(options, settings)),
    })
}

/// A database that a process opened once for all its writes. The parts share its connections, of which SQLite has one.
#[derive(Clone)]
pub struct Opened {
    /// The publications.
    pub table: Arc<dyn PublicationTable>,
    /// The positions that are stored beside the rows.
    pub positions: Arc<dyn Positions>,
    /// The replay jobs.
    pub jobs: Arc<dyn Jobs>,
}

/// Opens the database of `settings.url` for writing. The first use connects, so this succeeds while the database is
/// unavailable. Only `migrate` creates a missing SQLite file.
///
/// # Errors
/// [`Error::Fatal`] if the URL is neither `postgres://` nor `sqlite://`, or cannot be parsed.
pub fn open(settings: &StoreSettings) -> Result<Opened, Error> {
    fn all<W: PublicationTable + Positions + Jobs + 'static>(writer: Arc<W>) -> Opened {
        Opened { table: writer.clone(), positions: writer.clone(), jobs: writer }
    }
    Ok(match settings.database()? {
        settings::Database::Postgres(url) => all(Arc::new(PostgresWriter::open(url, settings))),
        settings::Database::Sqlite(options) => all(Arc::new(SqliteWriter::open(options))),
    })
}
