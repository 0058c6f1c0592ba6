//! The one way to wait for a database: a wrapper around a store that retries transient errors, reports them to an
//! observer, and returns only permanent errors. Dropping the future ends the retries.

mod rows;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use model::{Publication, PublicationId, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    Account, Advance, Advanced, Claimed, Cursor, Error, Filter, Job, JobState, JobUpdate, Jobs,
    NewJob, PositionKey, Positions, PublicationReader, PublicationTable, PublicationWriter,
    Recorded,
};

use rows::RecentRows;
pub use rows::{Refused, Written};
use wait::Wait;
pub use wait::{WaitCause, WaitObserver};

/// A wrapper around a store, of any of this crate's traits. It reads only by key and by filter.
///
/// Its `record` may write a batch in parts if the whole batch fails: on success all of it is written, on an error a
/// part of it may be. `answers` tries once, because its caller wants to know the present state of the database.
pub struct Retrying<S: ?Sized> {
    inner: Arc<S>,
    observer: Arc<dyn WaitObserver>,
    /// Whether an operation has succeeded. If so, the configuration is right, and a later refusal was caused by a
    /// change that an operator can revert.
    served: AtomicBool,
    /// Whether to wait until such a refusal ends.
    outlasts_refusals: bool,
    /// Whether many refused rows show nothing about the table.
    evaluates_rows_alone: bool,
    rows: Mutex<RecentRows>,
    /// When the last write ended.
    ended: Mutex<Option<Instant>>,
}

impl<S: ?Sized> Retrying<S> {
    /// For a command: an error that retries cannot mend (a missing table, a missing right) is returned at once at any
    /// time, except for rows (see [`Retrying::write`]).
    pub fn new(inner: Arc<S>, observer: Arc<dyn WaitObserver>) -> Self {
        Self {
            inner,
            observer,
            served: AtomicBool::new(false),
            outlasts_refusals: false,
            evaluates_rows_alone: false,
            rows: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// For a daemon: such an error, also one of a trigger, is returned until the first operation has succeeded, and retried after
    /// that.
    #[must_use]
    pub fn outlasting_refusals(self) -> Self {
        Self { outlasts_refusals: true, ..self }
    }

    /// For rows that were refused before, such as those of dead letters: that most of them are refused again does not mean that
    /// the table is at fault.
    #[must_use]
    pub fn evaluating_rows_alone(self) -> Self {
        Self { evaluates_rows_alone: true, ..self }
    }

    /// The wrapped store.
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// Retries until the operation succeeds or fails permanently. The whole operation is repeated unchanged, also after a
    /// time limit.
    ///
    /// # Errors
    /// The error of the last try, if waiting does not help.
    pub async fn retry<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut wait = Wait::new(&*self.observer).begins();
        loop {
            match attempt().await {
                Ok(value) => {
                    self.has_served();
                    return Ok(value);
                }
                Err(error) => self.pause(&mut wait, error).await?,
            }
        }
    }

    /// Waits before the next try, if that helps; else returns the error.
    async fn pause(&self, wait: &mut Wait<'_>, error: Error) -> Result<(), Error> {
        if !error.passes() && !self.outlasts() {
            return Err(error);
        }
        wait.failed(&error);
        wait.pass().await;
        Ok(())
    }

    fn has_served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    fn has_ever_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    fn outlasts(&self) -> bool {
        self.outlasts_refusals && self.has_ever_served()
    }
}

#[async_trait]
impl<S: PublicationWriter + ?Sized> PublicationWriter for Retrying<S> {
    /// As [`Retrying::write`]; a refused row is an error.
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

impl<S: PublicationReader + ?Sized> Retrying<S> {
    /// As [`PublicationReader::find`]: one statement, unless it reaches a time limit. Then several keys are read in
    /// halves, down to a single key, which is retried unchanged.
    ///
    /// # Errors
    /// As [`Retrying::retry`].
    pub async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        let mut found = Vec::with_capacity(ids.len());
        let mut parts = vec![ids];
        let mut wait = Wait::new(&*self.observer).begins();
        while let Some(part) = parts.pop() {
            match self.inner.find(part).await {
                Ok(rows) => {
                    self.has_served();
                    found.extend(rows);
                }
                Err(error @ Error::TimedOut(_)) if part.len() > 1 => {
                    wait.failed(&error);
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
                Err(error) => {
                    self.pause(&mut wait, error).await?;
                    parts.push(part);
                }
            }
        }
        Ok(found)
    }

    /// As [`PublicationReader::list`].
    ///
    /// # Errors
    /// As [`Retrying::retry`].
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error> {
        self.retry(|| self.inner.list(filter, after, first)).await
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

    /// Returns the accounts before the last try. An earlier try whose answer was lost may have written the positions.
    async fn advance(&self, key: &PositionKey, positions: &[Advance]) -> Result<Advanced, Error> {
        self.retry(|| self.inner.advance(key, positions)).await
    }

    async fn accounts(&self, group: &str) -> Result<Vec<(String, Account)>, Error> {
        self.retry(|| self.inner.accounts(group)).await
    }
}

#[cfg(test)]
mod tests;
