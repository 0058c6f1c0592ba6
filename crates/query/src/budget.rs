//! The memory of requests: what comes in, what is worked on and what goes out is bounded for all of them together, so
//! that neither slow clients nor many large requests at once pile it up. Small requests never wait here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use service::metrics::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// In what the budget is counted, in bytes: a semaphore counts to less than what a `usize` can hold.
const UNIT: usize = 1_024;
/// Answers up to this many bytes are sent without asking: they take no more than their connection does.
const SMALL: usize = 16 * UNIT;

/// Bytes that may be held at the same time: bodies while they are read, or answers while they are sent.
#[derive(Debug)]
pub(crate) struct ByteBudget {
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

impl ByteBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT as u64).unwrap_or(u32::MAX).max(1);
        // More than a semaphore can count is more than any machine has.
        let units = usize::try_from(total)
            .map_or(Semaphore::MAX_PERMITS, |total| total.min(Semaphore::MAX_PERMITS));
        Self { units: Arc::new(Semaphore::new(units)), total }
    }

    /// Waits until so many bytes may be held beside the others; nothing to wait for where they are few.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= SMALL {
            return None;
        }
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, self.total);
        // The semaphore is never closed, so that this is no error.
        self.units.clone().acquire_many_owned(units).await.ok()
    }

    /// Waits until the answer fits beside those on their way, at most for `patience`; then `None`.
    pub(crate) async fn hold(
        &self,
        mut body: String,
        gauge: &IntGauge,
        patience: Duration,
    ) -> Option<Bytes> {
        body.shrink_to_fit();
        let units = tokio::time::timeout(patience, self.reserve(body.len())).await.ok()?;
        let bytes = i64::try_from(body.len()).unwrap_or(i64::MAX);
        gauge.add(bytes);
        Some(Bytes::from_owner(Held { body, bytes, gauge: gauge.clone(), _units: units }))
    }
}

/// Requests for up to this many publications have a lane of their own, so that a lookup never waits behind bulk
/// requests; it is the largest page.
const LOOKUP: u64 = 100;

/// Publications that may be worked on at the same time, over all requests: so many in lookups, and so many in bulk.
#[derive(Debug)]
pub(crate) struct WorkBudget {
    lookups: Semaphore,
    bulk: Semaphore,
    total: u32,
}

impl WorkBudget {
    pub(crate) fn new(total: u32) -> Self {
        let places = || Semaphore::new(total as usize);
        Self { lookups: places(), bulk: places(), total }
    }

    /// Waits until so many publications may be worked on beside the others.
    pub(crate) async fn turn(&self, publications: u64) -> Turn<'_> {
        let places = u32::try_from(publications).unwrap_or(u32::MAX).min(self.total);
        let lane = if publications <= LOOKUP { &self.lookups } else { &self.bulk };
        // The semaphore is never closed, so that there is always a permit.
        Turn { permit: lane.acquire_many(places).await.ok() }
    }

    /// Waits before a body is parsed, when it is not known yet what it asks for: a reference has 27 bytes at least.
    pub(crate) async fn turn_for_body(&self, bytes: usize) -> Turn<'_> {
        if bytes <= SMALL { Turn::default() } else { self.turn((bytes / 27) as u64).await }
    }

    /// The turn for what is asked for. What was too small is given back first: two requests that each hold a part and
    /// wait for more would wait for ever.
    pub(crate) async fn enough<'a>(&'a self, turn: Turn<'a>, publications: u64) -> Turn<'a> {
        let held = turn.permit.as_ref().map_or(0, SemaphorePermit::num_permits) as u64;
        if publications.min(self.total.into()) <= held {
            return turn;
        }
        drop(turn);
        self.turn(publications).await
    }
}

/// The right to work on some publications, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Turn<'a> {
    permit: Option<SemaphorePermit<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_answers_wait_for_each_other_and_small_ones_do_not() {
        let budget = ByteBudget::new(100 * UNIT as u64);
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

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_its_turn_and_never_for_itself() {
        let budget = WorkBudget::new(1_000);
        let second = Duration::from_secs(1);
        let first = budget.turn(600).await;
        assert!(tokio::time::timeout(second, budget.turn(600)).await.is_err());
        let other = budget.turn(400).await;
        assert!(tokio::time::timeout(second, budget.enough(first, 601)).await.is_err());
        let other = tokio::time::timeout(second, budget.enough(other, 400)).await.unwrap();
        let more = tokio::time::timeout(second, budget.enough(other, 10_000)).await.unwrap();
        assert!(tokio::time::timeout(second, budget.turn_for_body(1_000_000)).await.is_err());
        assert!(tokio::time::timeout(second, budget.turn(LOOKUP)).await.is_ok(), "another lane");
        drop(more);
        assert!(tokio::time::timeout(second, budget.turn_for_body(1_000_000)).await.is_ok());
        assert!(budget.turn_for_body(SMALL).await.permit.is_none());
    }
}
