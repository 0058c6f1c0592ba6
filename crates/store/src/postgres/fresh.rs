//! Predicts whether the keys of the next batch are new.

use std::sync::atomic::{AtomicU32, Ordering};

/// The maximum number of batches to skip after a batch with a known key.
const MAX_PAUSE: u32 = 64;

/// Decides whether to try a write that assumes every key to be new. Publications are usually all new in ingest and all
/// known in a replay, seldom mixed. Such a write is wasted if it meets a known key, so the pause before the next try
/// doubles after each failure.
#[derive(Debug, Default)]
pub(crate) struct FreshKeys {
    /// The number of batches until the next try.
    pause: AtomicU32,
    /// The pause after the next failure.
    next_pause: AtomicU32,
}

impl FreshKeys {
    /// Whether to try the write with this batch.
    pub(crate) fn expected(&self) -> bool {
        self.pause
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_err()
    }

    /// Records the result of the try.
    pub(crate) fn learn(&self, fresh: bool) {
        let pause =
            if fresh { 0 } else { self.next_pause.load(Ordering::Relaxed).clamp(1, MAX_PAUSE) };
        self.pause.store(pause, Ordering::Relaxed);
        self.next_pause.store(pause.saturating_mul(2), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_ever_more_rarely_while_keys_are_known_and_at_once_again_when_they_are_new() {
        let fresh = FreshKeys::default();
        let mut tries = 0;
        for _ in 0..1_000 {
            if fresh.expected() {
                tries += 1;
                fresh.learn(false);
            }
        }
        assert!((10..30).contains(&tries), "{tries}");
        fresh.learn(true);
        assert!(fresh.expected() && fresh.expected());
    }
}
