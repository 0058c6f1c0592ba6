//! How long to wait between two tries, and who is told of it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Error;

/// The first wait before another try; it doubles up to the last, so that a database that returns is used within a
/// second.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(1);

/// How long an operation tries again before a conflict, a time limit or a full pool is told as a wait, and how long no
/// write may end. One deadlock is no news; an operation that does not get through for this long is.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitCause {
    /// The database is away, or lacks a resource.
    Away,
    /// The database refuses every row, or this user: somebody has to change it back.
    Refused,
    /// Other transactions are in the way again and again.
    Conflict,
    /// No write ends although some are under way, or statements run into a time limit again and again.
    TimeLimit,
    /// The own pool has no free connection for a long time.
    Busy,
}

impl WaitCause {
    pub(super) const fn of(error: &Error) -> Self {
        match error {
            Error::Transient(_) => Self::Away,
            Error::Conflict(_) => Self::Conflict,
            Error::TimedOut(_) => Self::TimeLimit,
            Error::Busy(_) => Self::Busy,
            Error::Data(_) | Error::Fatal(_) => Self::Refused,
        }
    }

    const fn is_told_at_once(self) -> bool {
        matches!(self, Self::Away | Self::Refused)
    }
}

/// Is told what operations wait for. Several may wait at the same time, for one cause or for several: an observer counts
/// the calls by cause, and a cause is over when it was told `recovered` as often as `waiting`.
pub trait WaitObserver: Send + Sync {
    /// An operation begins to wait. Called once an operation and cause.
    fn waiting(&self, cause: WaitCause, error: &Error);

    /// An operation that was told as waiting no longer waits for that cause: it succeeded, waits for another cause,
    /// failed for good or was given up.
    fn recovered(&self, cause: WaitCause);

    /// A try failed and will be made again, whether the operation counts as waiting yet or not. Called for each try,
    /// with the newest words of the database.
    fn retried(&self, cause: WaitCause, error: &Error) {
        let _ = (cause, error);
    }
}

/// One operation's wait: from its first failed try to its end.
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

    /// How long ago the first try failed; zero before.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// A try failed, and another follows at once.
    pub(super) fn note(&mut self, error: &Error) {
        self.began.get_or_insert_with(Instant::now);
        self.observer.retried(WaitCause::of(error), error);
    }

    /// A try failed, and it is time to wait.
    pub(super) fn failed(&mut self, error: &Error) {
        let cause = WaitCause::of(error);
        self.began.get_or_insert_with(Instant::now);
        let is_news = self.told != Some(cause)
            && (cause.is_told_at_once() || self.told.is_some() || self.elapsed() >= PATIENCE);
        if is_news {
            let before = self.told.replace(cause);
            self.observer.waiting(cause, error);
            if let Some(before) = before {
                self.observer.recovered(before);
            }
        }
        self.observer.retried(cause, error);
    }

    /// A try does not end, nor does any other.
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

/// Also when the operation is given up.
impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(cause) = self.told {
            self.observer.recovered(cause);
        }
    }
}
