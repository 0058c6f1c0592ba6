//! Limits a log line that many requests would write at the same time: the line is written once per interval, with the
//! number of suppressed lines.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The minimum time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides whether the next line is written.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// The number of lines suppressed since the last written line; `None` if this line is suppressed too.
    pub fn next(&self) -> Option<u64> {
        self.next_at(Instant::now())
    }

    fn next_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
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
