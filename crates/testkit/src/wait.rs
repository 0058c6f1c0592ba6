//! Waiting for a condition, never for a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Short beside what is waited for (a write, a commit, a restart), long enough to leave the two cores to those who work.
const POLL: Duration = Duration::from_millis(20);

/// What a condition may answer: `bool`, or `Option<T>` when it has something to hand out.
pub trait Probe {
    /// What the waiting returns.
    type Found;
    /// `None` as long as the condition does not hold.
    fn found(self) -> Option<Self::Found>;
}

impl Probe for bool {
    type Found = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Probe for Option<T> {
    type Found = T;
    fn found(self) -> Option<T> {
        self
    }
}

/// Polls `probe` until it answers `true` or `Some`, and returns what it found.
///
/// Panics after `timeout`, naming `what` was waited for. It blocks the thread; async tests use `eventually`.
pub fn wait_until<P: Probe>(what: &str, timeout: Duration, probe: impl FnMut() -> P) -> P::Found {
    poll_until(timeout, probe).unwrap_or_else(|| panic!("waited {timeout:?} in vain for {what}"))
}

/// Polls the async closure `probe` until it answers `true` or `Some`, and returns what it found.
///
/// Panics after `timeout`, naming `what` was waited for; a probe that hangs is cut off at the same deadline.
#[cfg(feature = "client")]
pub async fn eventually<P: Probe>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> P,
) -> P::Found {
    let polling = async {
        loop {
            if let Some(found) = probe().await.found() {
                return found;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(timeout, polling)
        .await
        .unwrap_or_else(|_| panic!("waited {timeout:?} in vain for {what}"))
}

/// Polls until the probe answers or the time is over; the probe is asked at least once.
pub(crate) fn poll_until<P: Probe>(
    timeout: Duration,
    mut probe: impl FnMut() -> P,
) -> Option<P::Found> {
    let deadline = Instant::now() + timeout;
    loop {
        let found = probe().found();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_what_it_waited_for() {
        let mut polls = 0;
        let found = wait_until("the third poll", Duration::from_secs(5), || {
            polls += 1;
            (polls == 3).then_some("third")
        });
        assert_eq!(found, "third");
    }

    #[test]
    #[should_panic(expected = "in vain for a day that never comes")]
    fn names_what_never_came() {
        wait_until("a day that never comes", Duration::from_millis(1), || false);
    }
}
