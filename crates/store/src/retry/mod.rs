//! The one way to wait for a database: a store around another that tries again what passes by itself, tells an observer
//! of it, and hands on only what is permanent. A future that is dropped tries no more.

mod rows;
mod wait;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use model::{PackageName, Publication, PublicationId, Timestamp};
use tokio::time::Instant;

use crate::{
    Advance, Advanced, Claimed, Cursor, EachPackage, Error, Filter, GroupAccount, Job, JobState,
    JobUpdate, Jobs, NewJob, PositionKey, Positions, PublicationReader, PublicationTable,
    PublicationWriter, Recorded, RowsRead,
};

use rows::RecentRows;
pub use rows::{Refused, Written};
use wait::Wait;
pub use wait::{WaitCause, WaitObserver};

/// A store around another, of any of this crate's traits.
///
/// Its `record` may write a batch in parts, where the whole does not get through: all of it is written when it returns
/// without an error, and some of it may be when it does not. `answers` and `ready` ask once: they are for who wants to
/// know how the database is now.
pub struct Retrying<S: ?Sized> {
    inner: Arc<S>,
    observer: Arc<dyn WaitObserver>,
    /// Whether an operation has succeeded: the configuration is right then, and what is refused later was changed
    /// by somebody who can change it back.
    served: AtomicBool,
    /// Whether to wait for that.
    outlasts_refusals: bool,
    rows: Mutex<RecentRows>,
    /// When a write ended last.
    ended: Mutex<Option<Instant>>,
}

impl<S: ?Sized> Retrying<S> {
    /// For a command: what the database refuses (a missing table, a missing right) is handed on at once, whenever it
    /// comes, except for rows (see [`Retrying::write`]).
    pub fn new(inner: Arc<S>, observer: Arc<dyn WaitObserver>) -> Self {
        Self {
            inner,
            observer,
            served: AtomicBool::new(false),
            outlasts_refusals: false,
            rows: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// For a daemon: what the database refuses is handed on until the first operation has succeeded, and waited out
    /// after that.
    #[must_use]
    pub fn outlasting_refusals(self) -> Self {
        Self { outlasts_refusals: true, ..self }
    }

    /// The store within.
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// Tries until it succeeds or is permanent.
    ///
    /// # Errors
    /// The last try's, where waiting does not help.
    pub async fn retry<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut wait = Wait::new(&*self.observer);
        loop {
            match attempt().await {
                Ok(value) => {
                    self.has_served();
                    return Ok(value);
                }
                Err(error) if error.passes() || self.is_outlasted(&error) => {
                    wait.failed(&error);
                    wait.pass().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn has_served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    fn has_ever_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    fn is_outlasted(&self, error: &Error) -> bool {
        self.outlasts_refusals && self.has_ever_served() && matches!(error, Error::Fatal(_))
    }
}

#[async_trait]
impl<S: PublicationWriter + ?Sized> PublicationWriter for Retrying<S> {
    /// As [`Retrying::write`]; a row that is refused is an error.
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        let written = self.write(records).await?;
        match written.refused.into_iter().next() {
            None => Ok(written.recorded),
            Some(refused) => Err(Error::Data(refused.reason.into())),
        }
    }

    async fn probe(&self) -> Result<(), Error> {
        self.inner.probe().await
    }

    fn is_serial(&self) -> bool {
        self.inner.is_serial()
    }
}

#[async_trait]
impl<S: PublicationTable + ?Sized> PublicationTable for Retrying<S> {
    async fn migrate(&self) -> Result<(), Error> {
        self.retry(|| self.inner.migrate()).await
    }

    async fn generation(&self) -> Result<u32, Error> {
        self.retry(|| self.inner.generation()).await
    }

    async fn oldest_unsettled(&self, since: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.retry(|| self.inner.oldest_unsettled(since)).await
    }

    async fn answers(&self) -> Result<(), Error> {
        self.inner.answers().await
    }
}

#[async_trait]
impl<S: PublicationReader + ?Sized> PublicationReader for Retrying<S> {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        self.retry(|| self.inner.find(ids)).await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error> {
        self.retry(|| self.inner.list(filter, after, first)).await
    }

    async fn history(
        &self,
        names: &[PackageName],
        limit: u64,
        each: EachPackage<'_>,
    ) -> Result<RowsRead, Error> {
        let mut wait = Wait::new(&*self.observer);
        loop {
            match self.inner.history(names, limit, &mut *each).await {
                Err(error) if error.passes() || self.is_outlasted(&error) => {
                    wait.failed(&error);
                    wait.pass().await;
                }
                read => return read,
            }
        }
    }

    async fn search(
        &self,
        prefix: &str,
        after: Option<&str>,
        first: u32,
    ) -> Result<Vec<PackageName>, Error> {
        self.retry(|| self.inner.search(prefix, after, first)).await
    }

    async fn ready(&self) -> Result<(), Error> {
        self.inner.ready().await
    }
}

#[async_trait]
impl<S: Jobs + ?Sized> Jobs for Retrying<S> {
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error> {
        self.retry(|| self.inner.create(job, at)).await
    }

    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error> {
        self.retry(|| self.inner.save(update, at)).await
    }

    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error> {
        self.retry(|| self.inner.take_over(id, runner, at)).await
    }

    async fn cancel(&self, id: i64, at: Timestamp) -> Result<bool, Error> {
        self.retry(|| self.inner.cancel(id, at)).await
    }

    async fn job(&self, id: i64) -> Result<Option<Job>, Error> {
        self.retry(|| self.inner.job(id)).await
    }

    async fn jobs(&self, first: u32) -> Result<Vec<Job>, Error> {
        self.retry(|| self.inner.jobs(first)).await
    }
}

#[async_trait]
impl<S: Positions + ?Sized> Positions for Retrying<S> {
    async fn claim(
        &self,
        key: &PositionKey,
        owner: &str,
        partitions: &[i32],
    ) -> Result<Claimed, Error> {
        self.retry(|| self.inner.claim(key, owner, partitions)).await
    }

    /// What stood there before the last try: an earlier one, whose answer was lost, may have written the position.
    async fn advance(&self, key: &PositionKey, positions: &[Advance]) -> Result<Advanced, Error> {
        self.retry(|| self.inner.advance(key, positions)).await
    }

    async fn accounts(&self, group: &str) -> Result<Vec<GroupAccount>, Error> {
        self.retry(|| self.inner.accounts(group)).await
    }
}

#[cfg(test)]
mod tests;
