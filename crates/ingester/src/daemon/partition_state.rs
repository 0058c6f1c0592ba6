//! Whether the ingester keeps up with a partition, by Burrow's rules (its evaluator of consumer lag): they need no lag
//! threshold, but look at whether the position moves and whether the lag falls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The length of the window. Longer than a rebalance, shorter than an acceptable delay of an alert.
const WINDOW: Duration = Duration::from_secs(120);

/// The state of a partition, as the metric shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PartitionState {
    /// The ingester keeps up.
    Ok = 0,
    /// The position moves, but the lag never fell.
    Warn = 1,
    /// There is lag and the position does not move, while there is a pause.
    Stall = 2,
    /// There is lag and the position does not move, without a pause.
    Stop = 3,
}

/// The recent observations of a partition.
#[derive(Debug, Default)]
pub(crate) struct Window(VecDeque<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    /// The next offset to be written.
    position: i64,
    /// The number of records from it to the end.
    lag: i64,
}

impl Window {
    /// Adds an observation and returns the state. Until the window is full the state is unknown and returned as `Ok`.
    pub(crate) fn look(
        &mut self,
        at: Instant,
        position: i64,
        lag: i64,
        paused: bool,
    ) -> PartitionState {
        self.0.push_back(Seen { at, position, lag });
        // One observation from before the window stays, so that the window is complete.
        while self.0.get(1).is_some_and(|seen| at.duration_since(seen.at) >= WINDOW) {
            self.0.pop_front();
        }
        let whole = self.0.front().is_some_and(|first| at.duration_since(first.at) >= WINDOW);
        if !whole || self.0.iter().any(|seen| seen.lag == 0) {
            return PartitionState::Ok;
        }
        if self.0.iter().all(|seen| seen.position == position) {
            return if paused { PartitionState::Stall } else { PartitionState::Stop };
        }
        let lags = self.0.iter().map(|seen| seen.lag);
        if lags.is_sorted() { PartitionState::Warn } else { PartitionState::Ok }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state after observations one second apart.
    fn after(sights: impl Iterator<Item = (i64, i64)>, paused: bool) -> PartitionState {
        let (mut window, start) = (Window::default(), Instant::now());
        let states = sights.zip(0..).map(|((position, lag), second)| {
            window.look(start + Duration::from_secs(second), position, lag, paused)
        });
        states.last().unwrap()
    }

    #[test]
    fn what_stands_still_with_lag_stalls_or_has_stopped() {
        let stalled = |seconds: i64| (0..seconds).map(|second| (7, 10 + second));
        assert_eq!(after(stalled(120), false), PartitionState::Ok, "too early to say");
        assert_eq!(after(stalled(121), false), PartitionState::Stop);
        assert_eq!(after(stalled(500), true), PartitionState::Stall);
        assert_eq!(after((0..500).map(|_| (7, 0)), false), PartitionState::Ok, "nothing to do");
    }

    #[test]
    fn lag_that_never_falls_is_a_warning() {
        assert_eq!(after((0..200).map(|n| (n, 5 + n)), false), PartitionState::Warn);
        assert_eq!(after((0..200).map(|n| (n, 5)), false), PartitionState::Warn);
        assert_eq!(after((0..200).map(|n| (n, 500 - n)), false), PartitionState::Ok, "it falls");
        let caught_up_once = (0..200).map(|n| (n, if n == 150 { 0 } else { 5 + n }));
        assert_eq!(after(caught_up_once, false), PartitionState::Ok);
    }

    #[test]
    fn what_moves_again_is_well_again() {
        let mended = (0..400).map(|n: i64| if n < 200 { (7, 100) } else { (n, 500 - n) });
        assert_eq!(after(mended, false), PartitionState::Ok);
    }
}
