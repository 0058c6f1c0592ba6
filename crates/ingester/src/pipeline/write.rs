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
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// After this time without an acknowledgement, the observer gets a report that a dead letter waits.
const REPORT_AFTER: Duration = Duration::from_secs(10);
/// The largest number of dead letters that are sent together, before their acknowledgements are awaited.
const GROUP_LETTERS: usize = 256;
/// The same limit in bytes. The producer holds a second copy of these letters.
const GROUP_BYTES: usize = 2 * 1024 * 1024;

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
        Ok(WrittenBatch { batch, recorded: written.recorded, duration: started.elapsed() })
    }
}

impl Delivery {
    /// Delivers the dead letters in groups and in order; retries each until it is acknowledged.
    async fn deliver(&self, rejected: &[(Rejection, Record)]) {
        let mut rest = rejected;
        while !rest.is_empty() {
            let (next, later) = rest.split_at(group_len(rest));
            rest = later;
            let deliveries =
                next.iter().map(|(rejection, record)| self.deliver_one(rejection, record));
            futures_util::future::join_all(deliveries).await;
        }
    }

    async fn deliver_one(&self, rejection: &Rejection, record: &Record) {
        let mut wait = FIRST_RETRY_DELAY;
        let mut waiting = None;
        let at = &record.position;
        loop {
            let mut sending = self.topic.deliver(rejection, record);
            let sent = match tokio::time::timeout(REPORT_AFTER, &mut sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    let reason = format!("no answer of the broker within {REPORT_AFTER:?}");
                    let silent = Undelivered { position: at.clone(), reason };
                    waiting.get_or_insert_with(|| Waiting::new(&*self.observer, &silent));
                    sending.await
                }
            };
            let Err(error) = sent else { break };
            waiting.get_or_insert_with(|| Waiting::new(&*self.observer, &error));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MAX_RETRY_DELAY);
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
fn group_len(rejected: &[(Rejection, Record)]) -> usize {
    let mut bytes = 0;
    let fits = rejected.iter().take(GROUP_LETTERS).take_while(|(_, record)| {
        bytes += record.size();
        bytes <= GROUP_BYTES
    });
    fits.count().max(1)
}
