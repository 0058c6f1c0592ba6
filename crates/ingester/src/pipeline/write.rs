//! Writes a batch: first its rows, then its dead letters. After that the batch's offsets may be committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::decode::rejection::{Code, Rejection};
use crate::pipeline::batch::{Batch, WrittenBatch};
use crate::pipeline::ports::{DeadLetters, DeliveryObserver, RowStore, Undelivered};
use crate::record::Record;

/// The delay before a dead letter is retried. It doubles from the first to the last, so that a broker that returns is
/// used within a second.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(1);
/// After this time without an acknowledgement the observer is told that a dead letter waits.
const TELL_AFTER: Duration = Duration::from_secs(10);
/// How many dead letters are sent together and then waited for.
const DEAD_LETTERS_AT_ONCE: usize = 256;
/// The same limit in bytes; the producer holds a second copy of them.
const DEAD_LETTER_BYTES_AT_ONCE: usize = 2 * 1024 * 1024;

/// The destinations of a batch.
pub(crate) struct Writer {
    /// The table.
    pub(crate) rows: Arc<dyn RowStore>,
    /// `None` in a settling pass and in most replays, which make no new dead letters.
    pub(crate) dead_letters: Option<Delivery>,
}

/// The dead-letter topic, and the observer of letters that it does not acknowledge.
pub(crate) struct Delivery {
    pub(crate) topic: Box<dyn DeadLetters>,
    pub(crate) observer: Arc<dyn DeliveryObserver>,
}

impl Writer {
    /// Writes all rows and dead letters of a batch.
    ///
    /// # Errors
    /// An error that neither a wait nor a dead letter can fix.
    pub(crate) async fn write(&self, mut batch: Batch) -> Result<WrittenBatch, store::Error> {
        let started = Instant::now();
        let written = self.rows.write(&batch.publications).await?;
        let first_refused = batch.rejected.len();
        // From the last one back, so that the earlier indexes stay valid.
        for refused in written.refused.into_iter().rev() {
            if let Some(record) = batch.records.get(refused.place) {
                let at = &record.position;
                tracing::warn!(
                    topic = %at.topic, partition = at.partition, offset = at.offset,
                    reason = refused.reason,
                    "the database refused a row"
                );
            }
            let message = format!("the database refused the row for its data: {}", refused.reason);
            batch.refuse(refused.place, Rejection::new(Code::RefusedByStore, message));
        }
        batch.rejected[first_refused..].reverse();
        if let Some(dead_letters) = &self.dead_letters {
            dead_letters.deliver(&batch.rejected).await;
        }
        Ok(WrittenBatch { batch, recorded: written.recorded, took: started.elapsed() })
    }
}

impl Delivery {
    /// Delivers all of them, in groups and in order; retries each until it is acknowledged.
    async fn deliver(&self, rejected: &[(Rejection, Record)]) {
        let mut rest = rejected;
        while !rest.is_empty() {
            let (next, later) = rest.split_at(at_once(rest));
            rest = later;
            let deliveries =
                next.iter().map(|(rejection, record)| self.deliver_one(rejection, record));
            futures_util::future::join_all(deliveries).await;
        }
    }

    async fn deliver_one(&self, rejection: &Rejection, record: &Record) {
        let mut wait = FIRST_WAIT;
        let mut waiting = None;
        let at = &record.position;
        loop {
            let mut sending = self.topic.deliver(rejection, record);
            let sent = match tokio::time::timeout(TELL_AFTER, &mut sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    let reason = format!("no answer of the broker within {TELL_AFTER:?}");
                    let silent = Undelivered { position: at.clone(), reason };
                    waiting.get_or_insert_with(|| Waiting::new(&*self.observer, &silent));
                    sending.await
                }
            };
            let Err(error) = sent else { break };
            waiting.get_or_insert_with(|| Waiting::new(&*self.observer, &error));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
        tracing::debug!(
            topic = %at.topic, partition = at.partition, offset = at.offset, code = rejection.code.as_str(),
            message = %rejection.message, "dead letter"
        );
    }
}

/// The wait of one dead letter. It also ends when its write is cancelled.
struct Waiting<'o>(&'o dyn DeliveryObserver);

impl<'o> Waiting<'o> {
    fn new(observer: &'o dyn DeliveryObserver, error: &Undelivered) -> Self {
        observer.waiting(error);
        Self(observer)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.recovered();
    }
}

/// How many of the first dead letters are sent together: at least one.
fn at_once(rejected: &[(Rejection, Record)]) -> usize {
    let mut bytes = 0;
    let fits = rejected.iter().take(DEAD_LETTERS_AT_ONCE).take_while(|(_, record)| {
        bytes += record.size();
        bytes <= DEAD_LETTER_BYTES_AT_ONCE
    });
    fits.count().max(1)
}
