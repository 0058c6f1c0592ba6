//! Writes rows. Distinguishes a fault of a row from a fault of the table, and splits batches that fail as a whole.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use model::Publication;
use tokio::time::Instant;

use super::Retrying;
use super::wait::{PATIENCE, Wait};
use crate::{Error, PublicationWriter, Recorded};

/// A row that fails alone with a transient error is refused only after this long, and only if other rows were written
/// meanwhile (crates/model/README.md, Rejections).
const ROW_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// The number of recent rows whose results are kept. If the database refused more than half of them, the table is at
/// fault although a typical row passes (crates/ingester/README.md, Dead letters).
const RECENT: u32 = 20;

/// The number of rows that a daemon refuses before any row was accepted: a table that refuses every row but the typical one need
/// not have refused twenty.
const REFUSED_AT_START: u32 = RECENT / 2;

/// The result of writing rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The rows written. A part that was written twice, because the first answer was lost, counts once.
    pub recorded: Recorded,
    /// The rows that the database refused because of their data, ordered by their index.
    pub refused: Vec<Refused>,
}

/// A row that the database refused because of its data, while a typical row passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The row's index among the given rows.
    pub place: usize,
    /// The database's reason: SQLSTATE, table, column and constraint, without a value.
    pub reason: String,
}

/// Whether the last rows were refused: a bit each, the newest is the lowest bit.
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

    /// Counts a refused row.
    ///
    /// # Errors
    /// Why the table is at fault instead: more than half of the recent rows would be refused then, or none was accepted and more
    /// than `at_start` would be refused. The row is not counted.
    fn refuse(&mut self, at_start: u32) -> Result<(), String> {
        let refused = ((self.refused << 1) | 1) & ((1 << RECENT) - 1);
        let known = (self.known + 1).min(RECENT);
        if known == RECENT && refused.count_ones() > RECENT / 2 {
            return Err(format!("more than half of the last {RECENT} rows were refused"));
        }
        if known == refused.count_ones() && known > at_start {
            return Err(format!("{known} rows were refused and none was accepted since the start"));
        }
        (self.refused, self.known) = (refused, known);
        Ok(())
    }
}

/// The next step for a part after a try.
enum Verdict {
    Written(Recorded),
    /// Try the part again in halves.
    Split(Error),
    /// The row is refused for good.
    Refused(String),
    /// A typical row has passed since, so the cause may be gone: try the row once more at once.
    RetryNow(Error),
    /// Try the part again after the other parts, which may succeed.
    RetryLater(Error),
    /// The other parts would fail too: try again after a pause.
    Wait(Error),
}

/// Rows that are written by one call of the store.
struct Part {
    rows: Range<usize>,
    /// Whether one of the rows is suspected to be at fault, because a typical row passed while they failed.
    suspect: bool,
    /// When the rows first failed, alone or among others.
    failed: Option<Instant>,
    /// For a single row: when it first failed alone.
    failed_alone: Option<Instant>,
    /// For a single row: whether the database refused it before a typical row passed.
    was_refused: bool,
}

impl Part {
    const fn new(rows: Range<usize>, suspect: bool) -> Self {
        Self { rows, suspect, failed: None, failed_alone: None, was_refused: false }
    }

    fn halves(self) -> [Self; 2] {
        let middle = self.rows.start.midpoint(self.rows.end);
        let part = |rows| Self { failed: self.failed, ..Self::new(rows, self.suspect) };
        [part(self.rows.start..middle), part(middle..self.rows.end)]
    }
}

impl<S: PublicationWriter + ?Sized> Retrying<S> {
    /// Writes rows until each is written or refused.
    ///
    /// - A transient error is retried, for as long as it takes.
    /// - A part of several rows that reached a time limit is retried in halves, never unchanged. So is a part that keeps
    ///   failing with another transient error while a typical row passes. A single row is retried unchanged, after the
    ///   other parts.
    /// - A row is refused because of its data if the database refuses it before and after a typical row passes
    ///   ([`PublicationWriter::probe`]).
    /// - If the typical row fails too, most of the last rows were refused, or no partition takes a row, the table is at fault: no
    ///   row is refused, and the rows wait until an operator has repaired the table. So do rows of this call that were refused
    ///   before, because the table may have refused them too.
    ///
    /// # Errors
    /// An error of the database before any operation has succeeded, if a typical row is refused too: the configuration
    /// is wrong.
    pub async fn write(&self, records: &[Publication]) -> Result<Written, Error> {
        let mut written = Written::default();
        if records.is_empty() {
            return Ok(written);
        }
        let mut parts = VecDeque::from([Part::new(0..records.len(), false)]);
        let mut wait = Wait::new(&*self.observer);
        // The number of parts that failed in sequence: when all have failed, wait before the next try.
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
                Verdict::RetryNow(error) => {
                    wait.note(&error);
                    parts.push_front(part);
                    continue;
                }
                Verdict::RetryLater(error) if failed < parts.len() => {
                    wait.note(&error);
                    failed += 1;
                    parts.push_back(part);
                    continue;
                }
                Verdict::RetryLater(error) | Verdict::Wait(error) => {
                    wait.failed(&error);
                    if !error.passes() {
                        let places = written.refused.drain(..).map(|refused| refused.place);
                        parts.extend(places.map(|place| Part::new(place..place + 1, true)));
                    }
                    wait.pass().await;
                    failed = 0;
                    parts.push_front(part);
                    continue;
                }
            }
            // A part was written or refused: the other parts start with a new wait.
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
                *self.ended.lock() = Some(Instant::now());
                self.rows.lock().accept(rows.len());
                return Ok(Verdict::Written(recorded));
            }
            Err(error) => error,
        };
        let has_many = rows.len() > 1;
        let failed = *part.failed.get_or_insert_with(Instant::now);
        if !error.passes() {
            return self.refused(error, part).await;
        }
        // A full disk lets a typical row pass, which is taken back before it reaches the disk.
        if self.inner.is_serial() {
            return Ok(Verdict::Wait(error));
        }
        let is_limit = matches!(error, Error::TimedOut(_));
        if has_many {
            let is_due = part.suspect || wait.elapsed() >= PATIENCE;
            part.suspect = !is_limit && is_due && self.passes().await;
            let split = is_limit || part.suspect;
            return Ok(if split { Verdict::Split(error) } else { Verdict::Wait(error) });
        }
        let since = *part.failed_alone.get_or_insert_with(Instant::now);
        let have_others_passed = self.ended.lock().is_some_and(|ended| ended >= failed);
        if since.elapsed() >= ROW_PATIENCE && have_others_passed && self.passes().await {
            // The database may have come back between the row and the typical row.
            if !std::mem::replace(&mut part.was_refused, true) {
                return Ok(Verdict::RetryNow(error));
            }
            return Ok(self.refuse(&error));
        }
        let is_for_all = matches!(error, Error::Transient(_) | Error::Busy(_)) && !part.suspect;
        Ok(if is_for_all { Verdict::Wait(error) } else { Verdict::RetryLater(error) })
    }

    /// Waits for a write, and reports when no write has ended for [`PATIENCE`]. A write behind a lock or on a dead
    /// connection gives no answer before its time limit.
    async fn watched<T>(&self, write: impl Future<Output = T>, wait: &mut Wait<'_>) -> T {
        let (mut write, began) = (pin!(write), Instant::now());
        loop {
            let due = self.ended.lock().map_or(began, |ended| ended.max(began)) + PATIENCE;
            if let Ok(done) = tokio::time::timeout_at(due, &mut write).await {
                return done;
            }
            if self.ended.lock().is_none_or(|ended| ended + PATIENCE <= due) {
                wait.stalled();
                return write.await;
            }
        }
    }

    /// Decides the next step for rows that the database refused, by testing whether a typical row passes.
    async fn refused(&self, error: Error, part: &mut Part) -> Result<Verdict, Error> {
        // The typical row may have its partition.
        let probed = match error {
            Error::NoPartition(_) => Err(error.clone()),
            _ => self.inner.probe().await,
        };
        match probed {
            Ok(()) if part.rows.len() > 1 => Ok(Verdict::Split(error)),
            Ok(()) if !std::mem::replace(&mut part.was_refused, true) => {
                Ok(Verdict::RetryNow(error))
            }
            Ok(()) => Ok(self.refuse(&error)),
            Err(passing) if passing.passes() => Ok(Verdict::Wait(passing)),
            Err(refused) if self.has_ever_served() => {
                // Rows that were refused shortly before are tried again, and count then.
                *self.rows.lock() = RecentRows::default();
                Ok(Verdict::Wait(refused))
            }
            Err(refused) => Err(refused),
        }
    }

    /// Refuses a row, unless too many were refused already.
    fn refuse(&self, error: &Error) -> Verdict {
        if self.evaluates_rows_alone {
            return Verdict::Refused(error.to_string());
        }
        let at_start = if self.outlasts_refusals { REFUSED_AT_START } else { RECENT };
        match self.rows.lock().refuse(at_start) {
            Ok(()) => Verdict::Refused(error.to_string()),
            Err(reason) => Verdict::RetryLater(Error::fatal(format!(
                "{reason}, so the table is taken to be at fault: {error}"
            ))),
        }
    }

    async fn passes(&self) -> bool {
        self.inner.probe().await.is_ok()
    }
}
