//! Writing rows: a row's fault is told from the table's, and what does not get through whole goes in parts.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use model::Publication;
use tokio::time::Instant;

use super::Retrying;
use super::wait::{PATIENCE, Wait};
use crate::{Error, PublicationWriter, Recorded};

/// A row that fails alone with an error that passes by itself is refused only after this long, while a typical row
/// passes (crates/ingester/README.md, Dead letters).
const ROW_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Of how many rows it is known whether the database refused them. Where it refused more than half of so many, the table
/// is at fault although a typical row passes (crates/ingester/README.md, Dead letters).
const RECENT: u32 = 20;

/// What came of writing rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What was written. A part that was written twice, because its first answer was lost, counts once.
    pub recorded: Recorded,
    /// The rows that the database refused for their data, in the order of their places.
    pub refused: Vec<Refused>,
}

/// A row that the database refused for its data, while a typical row passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its place among the rows given.
    pub place: usize,
    /// What the database said: SQLSTATE, table, column and constraint, no value.
    pub reason: String,
}

/// Whether the last rows were refused: a bit each, the newest lowest.
#[derive(Debug, Default)]
pub(super) struct RecentRows {
    refused: u32,
    known: u32,
}

impl RecentRows {
    pub(super) fn accept(&mut self, rows: usize) {
        let rows = u32::try_from(rows).unwrap_or(RECENT).min(RECENT);
        self.refused = (self.refused << rows) & ((1 << RECENT) - 1);
        self.known = (self.known + rows).min(RECENT);
    }

    /// Counts a refused row, unless that makes too many of them; `false` then.
    fn refuse(&mut self) -> bool {
        let refused = ((self.refused << 1) | 1) & ((1 << RECENT) - 1);
        let known = (self.known + 1).min(RECENT);
        if known == RECENT && refused.count_ones() > RECENT / 2 {
            return false;
        }
        (self.refused, self.known) = (refused, known);
        true
    }
}

/// What to do with a part after a try.
enum Verdict {
    Written(Recorded),
    /// It goes again in halves.
    Split(Error),
    /// The row is refused.
    Refused(String),
    /// The typical row has passed since: what was wrong may be over, so the row is tried once more at once.
    Again(Error),
    /// It is tried again after the other parts, which may get through.
    Later(Error),
    /// The other parts would fail too: it is tried again after a while.
    Wait(Error),
}

/// Rows that are written together.
struct Part {
    rows: Range<usize>,
    /// Whether a row among them is suspected: a typical row passed while they did not.
    suspect: bool,
    /// Of a single row: when it first failed.
    failed_alone: Option<Instant>,
    /// Of a single row: whether it was refused before the typical row passed.
    was_refused: bool,
}

impl Part {
    const fn new(rows: Range<usize>, suspect: bool) -> Self {
        Self { rows, suspect, failed_alone: None, was_refused: false }
    }

    fn halves(self) -> [Self; 2] {
        let middle = self.rows.start.midpoint(self.rows.end);
        let part = |rows| Self::new(rows, self.suspect);
        [part(self.rows.start..middle), part(middle..self.rows.end)]
    }
}

impl<S: PublicationWriter + ?Sized> Retrying<S> {
    /// Writes rows until each is written or refused.
    ///
    /// - What passes by itself is tried again, for as long as it takes.
    /// - A part that ran into a time limit goes again in halves, down to a row, never unchanged. So does a part that
    ///   fails otherwise for some time while a typical row passes.
    /// - A row that is refused before and after a typical row passes ([`PublicationWriter::probe`]) is refused for its data.
    /// - Where the typical row fails, or most of the last rows were refused, the table is at fault: nothing is refused,
    ///   and the rows wait until somebody has mended it.
    ///
    /// # Errors
    /// What the database refuses before anything has succeeded, where a typical row is refused too: a mistake in the
    /// configuration.
    pub async fn write(&self, records: &[Publication]) -> Result<Written, Error> {
        let mut written = Written::default();
        if records.is_empty() {
            return Ok(written);
        }
        let mut parts = VecDeque::from([Part::new(0..records.len(), false)]);
        let mut wait = Wait::new(&*self.observer);
        // Parts that have failed one after the other: when all have, it is time to wait.
        let mut failed = 0;
        while let Some(mut part) = parts.pop_front() {
            let verdict = self.attempt(&mut part, records, &mut wait).await?;
            match verdict {
                Verdict::Written(recorded) => written.recorded += recorded,
                Verdict::Refused(reason) => {
                    written.refused.push(Refused { place: part.rows.start, reason });
                }
                Verdict::Split(error) => {
                    wait.note(&error);
                    let [left, right] = part.halves();
                    parts.push_front(right);
                    parts.push_front(left);
                    failed = 0;
                    continue;
                }
                Verdict::Again(error) => {
                    wait.note(&error);
                    parts.push_front(part);
                    continue;
                }
                Verdict::Later(error) if failed < parts.len() => {
                    wait.note(&error);
                    failed += 1;
                    parts.push_back(part);
                    continue;
                }
                Verdict::Later(error) | Verdict::Wait(error) => {
                    wait.failed(&error);
                    wait.pass().await;
                    failed = 0;
                    parts.push_front(part);
                    continue;
                }
            }
            // Something got through.
            wait = Wait::new(&*self.observer);
            failed = 0;
        }
        written.refused.sort_by_key(|refused| refused.place);
        Ok(written)
    }

    async fn attempt(
        &self,
        part: &mut Part,
        records: &[Publication],
        wait: &mut Wait<'_>,
    ) -> Result<Verdict, Error> {
        let rows = &records[part.rows.clone()];
        let error = match self.watched(self.inner.record(rows), wait).await {
            Ok(recorded) => {
                self.has_served();
                *self.ended() = Some(Instant::now());
                self.recent().accept(rows.len());
                return Ok(Verdict::Written(recorded));
            }
            Err(error) => error,
        };
        let has_many = rows.len() > 1;
        if !error.passes() {
            return self.refused(error, part).await;
        }
        let is_limit = matches!(error, Error::TimedOut(_));
        if has_many {
            let is_due = part.suspect || wait.elapsed() >= PATIENCE;
            part.suspect = !is_limit && is_due && self.passes().await;
            let split = is_limit || part.suspect;
            return Ok(if split { Verdict::Split(error) } else { Verdict::Wait(error) });
        }
        let since = *part.failed_alone.get_or_insert_with(Instant::now);
        if since.elapsed() >= ROW_PATIENCE && self.passes().await {
            return Ok(Verdict::Refused(error.to_string()));
        }
        let is_for_all = matches!(error, Error::Transient(_) | Error::Busy(_)) && !part.suspect;
        Ok(if is_for_all { Verdict::Wait(error) } else { Verdict::Later(error) })
    }

    /// Waits for a write, and tells when none has ended for [`PATIENCE`]: behind a lock, or on a connection that has gone
    /// silent, a write says nothing before its time limit.
    async fn watched<T>(&self, write: impl Future<Output = T>, wait: &mut Wait<'_>) -> T {
        let (mut write, began) = (pin!(write), Instant::now());
        loop {
            let due = self.ended().map_or(began, |ended| ended.max(began)) + PATIENCE;
            if let Ok(done) = tokio::time::timeout_at(due, &mut write).await {
                return done;
            }
            if self.ended().is_none_or(|ended| ended + PATIENCE <= due) {
                wait.stalled();
                return write.await;
            }
        }
    }

    fn ended(&self) -> MutexGuard<'_, Option<Instant>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do with rows that the database refused: it asks whether a typical row passes.
    async fn refused(&self, error: Error, part: &mut Part) -> Result<Verdict, Error> {
        match self.inner.probe().await {
            Ok(()) if part.rows.len() > 1 => Ok(Verdict::Split(error)),
            Ok(()) if !std::mem::replace(&mut part.was_refused, true) => Ok(Verdict::Again(error)),
            Ok(()) if self.recent().refuse() => Ok(Verdict::Refused(error.to_string())),
            Ok(()) => Ok(Verdict::Later(Error::fatal(format!(
                "more than half of the last {RECENT} rows were refused, so the table is taken to be at fault: {error}"
            )))),
            Err(passing) if passing.passes() => Ok(Verdict::Wait(passing)),
            Err(refused) if self.has_ever_served() => Ok(Verdict::Wait(refused)),
            Err(refused) => Err(refused),
        }
    }

    async fn passes(&self) -> bool {
        self.inner.probe().await.is_ok()
    }

    pub(super) fn recent(&self) -> MutexGuard<'_, RecentRows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
