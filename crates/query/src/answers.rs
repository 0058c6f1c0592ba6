//! The memory that answers take while they are sent: clients that read slowly must not pile it up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use service::metrics::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// In what the budget is counted, in bytes: a semaphore counts to less than what a `usize` can hold.
const UNIT: usize = 1_024;
/// Answers up to this many bytes are sent without asking: they take no more than their connection does.
const SMALL: usize = 16 * UNIT;

/// Bytes of answers that may be on their way at the same time.
#[derive(Debug)]
pub(crate) struct AnswerBudget {
    units: Arc<Semaphore>,
    total: u32,
}

/// A body that gives its part of the budget back when its last byte has left the process.
struct Held {
    body: String,
    bytes: i64,
    gauge: IntGauge,
    _units: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.body.as_bytes()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}

impl AnswerBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT as u64).unwrap_or(u32::MAX).max(1);
        // More than a semaphore can count is more than any machine has.
        let units = usize::try_from(total)
            .map_or(Semaphore::MAX_PERMITS, |total| total.min(Semaphore::MAX_PERMITS));
        Self { units: Arc::new(Semaphore::new(units)), total }
    }

    /// Waits until the answer fits beside those on their way, at most for `patience`; then `None`.
    pub(crate) async fn hold(
        &self,
        mut body: String,
        gauge: &IntGauge,
        patience: Duration,
    ) -> Option<Bytes> {
        body.shrink_to_fit();
        let units = if body.len() <= SMALL {
            None
        } else {
            let wanted = u32::try_from(body.len() / UNIT).unwrap_or(u32::MAX).clamp(1, self.total);
            let waiting = self.units.clone().acquire_many_owned(wanted);
            // The semaphore is never closed, so that the inner error cannot be.
            Some(tokio::time::timeout(patience, waiting).await.ok()?.ok()?)
        };
        let bytes = i64::try_from(body.len()).unwrap_or(i64::MAX);
        gauge.add(bytes);
        Some(Bytes::from_owner(Held { body, bytes, gauge: gauge.clone(), _units: units }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_answers_wait_for_each_other_and_small_ones_do_not() {
        let budget = AnswerBudget::new(100 * UNIT as u64);
        let gauge = IntGauge::new("bytes", "Bytes").unwrap();
        let patience = Duration::from_secs(1);
        let large = || "x".repeat(80 * UNIT);
        let first = budget.hold(large(), &gauge, patience).await.unwrap();
        assert!(budget.hold(large(), &gauge, patience).await.is_none());
        assert!(budget.hold("x".repeat(SMALL), &gauge, patience).await.is_some());
        assert_eq!(gauge.get(), 80 * 1_024);
        let part = first.slice(10..20);
        drop(first);
        assert!(budget.hold(large(), &gauge, patience).await.is_none());
        drop(part);
        assert_eq!(gauge.get(), 0);
        assert!(budget.hold(large(), &gauge, patience).await.is_some());
        assert!(budget.hold("x".repeat(200 * UNIT), &gauge, patience).await.is_some());
    }
}
