//! Writing a batch: retried for as long as the environment fails, bisected where the data is refused, its dead letters
//! acknowledged. When this returns, the batch's offsets may be committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Publication;
use store::{Error, PublicationWriter, Recorded};

use crate::daemon::health::{Cause, Health};
use crate::daemon::metrics::IngesterMetrics;
use crate::decode::rejection::{Code, Rejection};
use crate::kafka::DeadLetters;
use crate::pipeline::batch::Batch;
use crate::pipeline::observe::Written;
use crate::record::Record;

/// The first wait before a retry; it doubles up to the last, so that a database that returns is used within a second.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Dead letters waited for at once: the producer batches what is under way together.
const DEAD_LETTERS_AT_ONCE: usize = 256;
/// The same in bytes, of which the producer holds a second copy.
const DEAD_LETTER_BYTES_AT_ONCE: usize = 2 * 1024 * 1024;

/// Everything a batch is written to.
pub(crate) struct Writer {
    pub(crate) store: Arc<dyn PublicationWriter>,
    /// None in a settling pass and in most replays, which reject nothing anew.
    pub(crate) dead_letters: Option<DeadLetters>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<IngesterMetrics>,
}

impl Writer {
    /// Writes all of a batch.
    ///
    /// # Errors
    /// [`Error::Fatal`] only: what neither waiting nor rejecting mends.
    pub(crate) async fn write(&self, mut batch: Batch) -> Result<Written, Error> {
        let started = Instant::now();
        let (recorded, refused) = self.record(&batch.publications).await?;
        // From the back, so that the places before stay what they are.
        for place in refused.into_iter().rev() {
            let rejection =
                Rejection::new(Code::RefusedByStore, "the database refused the row for its data");
            batch.publications.remove(place);
            batch.rejected.push((rejection, batch.records.remove(place)));
        }
        if let Some(dead_letters) = &self.dead_letters {
            self.deliver(dead_letters, &batch.rejected).await;
        }
        Ok(Written { batch, recorded, took: started.elapsed() })
    }

    /// Records the rows and returns the places of those that the database refuses, ascending. A refused batch is cut in
    /// two until the refused rows stand alone.
    async fn record(&self, publications: &[Publication]) -> Result<(Recorded, Vec<usize>), Error> {
        let mut recorded = Recorded::default();
        let mut refused = Vec::new();
        let mut parts = vec![(0, publications.len())];
        while let Some((start, end)) = parts.pop() {
            match self.retry(&publications[start..end]).await {
                Ok(part) => recorded += part,
                Err(Error::Data(error)) if end - start == 1 => {
                    tracing::warn!(%error, "the database refused a row");
                    refused.push(start);
                }
                Err(Error::Data(_)) => {
                    self.metrics.store_retries_total.with_label_values(&["data"]).inc();
                    let middle = start.midpoint(end);
                    // The left half is on top, so that refused places come out in order.
                    parts.push((middle, end));
                    parts.push((start, middle));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((recorded, refused))
    }

    /// Tries until the environment lets it be decided.
    async fn retry(&self, publications: &[Publication]) -> Result<Recorded, Error> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.store.record(publications).await {
                Err(error) if error.passes() => {
                    self.metrics.store_retries_total.with_label_values(&[error.class()]).inc();
                    self.pause(Cause::Database, format!("the database is away: {error}"));
                    back_off(&mut wait).await;
                }
                result => {
                    if wait > FIRST_WAIT {
                        self.resume(Cause::Database, "the database is back");
                    }
                    return result;
                }
            }
        }
    }

    async fn deliver(&self, dead_letters: &DeadLetters, rejected: &[(Rejection, Record)]) {
        let mut rest = rejected;
        while !rest.is_empty() {
            let (some, later) = rest.split_at(at_once(rest));
            rest = later;
            futures_util::future::join_all(
                some.iter()
                    .map(|(rejection, record)| self.deliver_one(dead_letters, rejection, record)),
            )
            .await;
        }
    }

    async fn deliver_one(
        &self,
        dead_letters: &DeadLetters,
        rejection: &Rejection,
        record: &Record,
    ) {
        let mut wait = FIRST_WAIT;
        while let Err(error) = dead_letters.deliver(rejection, record).await {
            self.pause(Cause::DeadLetters, error.to_string());
            back_off(&mut wait).await;
        }
        if wait > FIRST_WAIT {
            self.resume(Cause::DeadLetters, "dead letters are acknowledged again");
        }
        self.metrics.dead_letters_total.with_label_values(&[rejection.code.as_str()]).inc();
        let at = &record.position;
        tracing::debug!(
            topic = %at.topic, partition = at.partition, offset = at.offset, code = rejection.code.as_str(),
            message = %rejection.message, "dead letter"
        );
    }

    fn pause(&self, cause: Cause, reason: String) {
        if self.health.pause(cause, reason.clone()) {
            tracing::warn!(reason, "writing pauses; it is tried again until it succeeds");
        }
    }

    fn resume(&self, cause: Cause, reason: &str) {
        if self.health.resume(cause) {
            tracing::info!("{reason}");
        }
    }
}

/// How many of these dead letters go together: at least one.
fn at_once(rejected: &[(Rejection, Record)]) -> usize {
    let mut bytes = 0;
    let fits = rejected.iter().take(DEAD_LETTERS_AT_ONCE).take_while(|(_, record)| {
        bytes += record.size();
        bytes <= DEAD_LETTER_BYTES_AT_ONCE
    });
    fits.count().max(1)
}

async fn back_off(wait: &mut Duration) {
    tokio::time::sleep(*wait).await;
    *wait = (*wait * 2).min(LAST_WAIT);
}
