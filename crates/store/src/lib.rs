//! Publications in PostgreSQL and in SQLite: a trait for each kind of use, two hand-written adapters, one merge rule.
//!
//! Reading and writing are different rights, hence different traits: the query daemon opens a reader and needs no right
//! but `SELECT`. Every write is repeatable (crates/model/README.md, Merge). The adapters do not retry: they say whether an error
//! passes by itself, is the data's or a mistake. [`Retrying`] acts on that, around any of them. This crate must not know
//! of Kafka and must not evaluate anything.

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
    Account, Advance, Advanced, Claimed, DatabaseId, GroupAccount, PositionKey, Positions,
    TablePosition,
};
pub use postgres::{PostgresReader, PostgresWriter};
pub use retry::{Refused, Retrying, WaitCause, WaitObserver, Written};
pub use settings::StoreSettings;
pub use sqlite::{SqliteReader, SqliteWriter};

/// What a write did, in records: `inserted + updated + unchanged` is the number of records given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Rows that were not there before.
    pub inserted: u64,
    /// Rows that were there and changed.
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

/// Writing publications.
#[async_trait]
pub trait PublicationWriter: Send + Sync {
    /// Merges the records into the table, all or none. Records of one publication may occur any number of times, in
    /// any order.
    ///
    /// # Errors
    /// One that passes by itself ([`Error::passes`]): nothing was written, or it cannot be known; try again.
    /// [`Error::Data`]: the database refuses at least one of the records for its content. [`Error::Fatal`]: neither
    /// helps.
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error>;

    /// Whether the table takes a typical row: every field set, long, with other letters. Nothing is kept of it. A row
    /// that is refused while this passes is refused for its data; else the table is at fault. A store that refuses no
    /// row has nothing to try.
    ///
    /// # Errors
    /// Why the row is refused, as [`PublicationWriter::record`].
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Whether one write waits for another, so that one large write is better than several at once.
    fn is_serial(&self) -> bool {
        false
    }
}

/// Writing, and looking after the table that is written.
#[async_trait]
pub trait PublicationTable: PublicationWriter {
    /// Brings the schema up to this build's; does nothing when it is.
    ///
    /// # Errors
    /// As [`PublicationWriter::record`]; a schema of a later build is fatal.
    async fn migrate(&self) -> Result<(), Error>;

    /// The highest generation of any row, 0 in an empty table.
    ///
    /// # Errors
    /// As [`PublicationWriter::record`].
    async fn generation(&self) -> Result<u32, Error>;

    /// `created` of the oldest row since that time whose `tor` later exit lists can still change.
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

/// What [`PublicationReader::history`] hands a package's rows to.
pub type EachPackage<'e> = &'e mut (dyn for<'r> FnMut(&PackageName, &[Past<'r>]) + Send);

/// How far [`PublicationReader::history`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsRead {
    /// Rows handed on.
    pub rows: u64,
    /// Whether all packages were read: `false` when there are more rows than the limit allows.
    pub is_complete: bool,
}

/// Reading publications.
#[async_trait]
pub trait PublicationReader: Send + Sync {
    /// The rows of these keys, in one statement: same length and order as `ids`, `None` where there is no record.
    ///
    /// # Errors
    /// One that passes by itself ([`Error::passes`]), else [`Error::Fatal`].
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error>;

    /// At most `first` rows that pass the filter, in its order by (created, name, version), behind `after`.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error>;

    /// Hands on all rows of each of these packages, one package at a time, in the bytewise order of their names; packages
    /// without rows are left out, and each name counts once. Stops before it has handed on more than `limit` rows. After
    /// a lost connection it may begin again: what is handed on later counts.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn history(
        &self,
        names: &[PackageName],
        limit: u64,
        each: EachPackage<'_>,
    ) -> Result<RowsRead, Error>;

    /// At most `first` names of packages that begin with the prefix, greater than `after`, in bytewise order. Costs one
    /// look-up a name, however many versions a package has.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn search(
        &self,
        prefix: &str,
        after: Option<&str>,
        first: u32,
    ) -> Result<Vec<PackageName>, Error>;

    /// Whether the statements of this trait would work now.
    ///
    /// # Errors
    /// As [`PublicationReader::find`].
    async fn ready(&self) -> Result<(), Error>;
}

/// Opens the database of `settings.url` for writing. Connects when first used, so it succeeds while the database is
/// away; an SQLite file that is missing is made by `migrate` alone.
///
/// # Errors
/// [`Error::Fatal`] when the URL is neither `postgres://` nor `sqlite://`, or cannot be read.
pub fn open_writer(settings: &StoreSettings) -> Result<Arc<dyn PublicationTable>, Error> {
    Ok(open(settings)?.table)
}

/// Opens the database of `settings.url` for reading. Connects when first used.
///
/// # Errors
/// As [`open_writer`].
pub fn open_reader(settings: &StoreSettings) -> Result<Arc<dyn PublicationReader>, Error> {
    Ok(match settings.database()? {
        settings::Database::Postgres(url) => Arc::new(PostgresReader::open(url, settings)),
        settings::Database::Sqlite(options) => Arc::new(SqliteReader::open(options, settings)),
    })
}

/// Opens the database of `settings.url` for an operator's commands. Connects when first used.
///
/// # Errors
/// As [`open_writer`].
pub fn open_jobs(settings: &StoreSettings) -> Result<Arc<dyn Jobs>, Error> {
    Ok(open(settings)?.jobs)
}

/// A database, opened once for all that a daemon writes: they share its connections, which for SQLite is one.
#[derive(Clone)]
pub struct Opened {
    /// The publications.
    pub table: Arc<dyn PublicationTable>,
    /// The account of positions.
    pub positions: Arc<dyn Positions>,
    /// The replays.
    pub jobs: Arc<dyn Jobs>,
}

/// Opens the database of `settings.url` for a daemon that writes. Connects when first used.
///
/// # Errors
/// As [`open_writer`].
pub fn open(settings: &StoreSettings) -> Result<Opened, Error> {
    fn all<W: PublicationTable + Positions + Jobs + 'static>(writer: Arc<W>) -> Opened {
        Opened { table: writer.clone(), positions: writer.clone(), jobs: writer }
    }
    Ok(match settings.database()? {
        settings::Database::Postgres(url) => all(Arc::new(PostgresWriter::open(url, settings))),
        settings::Database::Sqlite(options) => all(Arc::new(SqliteWriter::open(options))),
    })
}

/// Opens the database of `settings.url` for the account of positions. Connects when first used.
///
/// # Errors
/// As [`open_writer`].
pub fn open_positions(settings: &StoreSettings) -> Result<Arc<dyn Positions>, Error> {
    Ok(open(settings)?.positions)
}
