//! The time between two tries, and the reports to an observer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Error;

/// The first wait before another try. It doubles up to [`LAST`], so that a database that recovers is used within a
/// second.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(1);

/// How long an operation retries before it reports a conflict, a time limit or a full pool as a wait, and how long it
/// may take until a write ends. A single deadlock is not worth a report; an operation that fails for this long is.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The cause of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitCause {
    /// The database is unavailable, or lacks a resource.
    Away,
    /// The database refuses every row, or this user: an operator must revert the change.
    Refused,
    /// Other transactions conflict with the operation repeatedly.
    Conflict,
    /// No write ends although some are in progress, or statements reach a time limit repeatedly.
    TimeLimit,
    /// This process's pool has had no free connection for a long time.
    Busy,
}

impl WaitCause {
    pub(super) const fn of(error: &Error) -> Self {
        match error {
            Error::Transient(_) => Self::Away,
            Error::Conflict(_) => Self::Conflict,
            Error::TimedOut(_) => Self::TimeLimit,
            Error::Busy(_) => Self::Busy,
            Error::Data(_) | Error::NoPartition(_) | Error::Fatal(_) => Self::Refused,
        }
    }
}

/// Observes the waits of operations. Several operations may wait at the same time, for the same cause or for different
/// causes. An observer counts the calls by cause: a cause is over after as many calls of `recovered` as of `waiting`.
pub trait WaitObserver: Send + Sync {
    /// An operation begins to wait. Called once for each operation and cause.
    fn waiting(&self, cause: WaitCause, error: &Error);

    /// An operation that was reported as waiting no longer waits for that cause: it succeeded, waits for another cause,
    /// failed permanently or was dropped.
    fn recovered(&self, cause: WaitCause);

    /// A try failed and will be repeated, whether the operation already counts as waiting or not. Called for each try,
    /// with the database's latest error.
    fn retried(&self, cause: WaitCause, error: &Error) {
        let _ = (cause, error);
    }
}

/// The wait of one operation: from its first failed try to its end.
pub(super) struct Wait<'o> {
    observer: &'o dyn WaitObserver,
    began: Option<Instant>,
    next: Duration,
    told: Option<WaitCause>,
}

impl<'o> Wait<'o> {
    pub(super) fn new(observer: &'o dyn WaitObserver) -> Self {
        Self { observer, began: None, next: FIRST, told: None }
    }

    /// From now on an operation tries, which may take long until its first failure.
    pub(super) fn begins(mut self) -> Self {
        self.began = Some(Instant::now());
        self
    }

    /// The time since the first failed try; zero before that.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Records a failed try that is repeated at once.
    pub(super) fn note(&mut self, error: &Error) {
        self.began.get_or_insert_with(Instant::now);
        self.observer.retried(WaitCause::of(error), error);
    }

    /// Records a failed try that is repeated after a pause.
    pub(super) fn failed(&mut self, error: &Error) {
        let cause = WaitCause::of(error);
        self.began.get_or_insert_with(Instant::now);
        let is_told_at_once = matches!(cause, WaitCause::Away | WaitCause::Refused);
        let is_news = self.told != Some(cause)
            && (is_told_at_once || self.told.is_some() || self.elapsed() >= PATIENCE);
        if is_news {
            let before = self.told.replace(cause);
            self.observer.waiting(cause, error);
            if let Some(before) = before {
                self.observer.recovered(before);
            }
        }
        self.observer.retried(cause, error);
    }

    /// Records that neither this try nor any other write ends.
    pub(super) fn stalled(&mut self) {
        if self.told.is_none() {
            let error = Error::TimedOut(
                format!("no write has ended for {PATIENCE:?}, and this one is still under way")
                    .into(),
            );
            self.told = Some(WaitCause::TimeLimit);
            self.observer.waiting(WaitCause::TimeLimit, &error);
        }
    }

    /// Waits before the next try.
    pub(super) async fn pass(&mut self) {
        sleep(self.next).await;
        self.next = (self.next * 2).min(LAST);
    }
}

/// Ends the reported wait, also if the operation is dropped.
impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(cause) = self.told {
            self.observer.recovered(cause);
        }
    }
}
