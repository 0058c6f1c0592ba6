//! A log line that many requests want to write at the same time is written once in a while, with the number of those
//! that were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Says whether the next line is written.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// How many lines were left out since the last one; none where this one is left out too.
    pub fn next(&self) -> Option<u64> {
        self.next_at(Instant::now())
    }

    fn next_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stands_for_many() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.next_at(start), Some(0));
        for _ in 0..1_200 {
            assert_eq!(quiet.next_at(start + Duration::from_secs(3)), None);
        }
        assert_eq!(quiet.next_at(start + INTERVAL), Some(1_200));
        assert_eq!(quiet.next_at(start + 3 * INTERVAL), Some(0));
    }
}
