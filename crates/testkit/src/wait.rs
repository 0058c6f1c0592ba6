//! Waits for conditions, with a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Short compared with a write, a commit or a restart, but long enough to leave the two cores to other work.
const POLL: Duration = Duration::from_millis(20);

/// The result of a condition: `bool`, or `Option<T>` to return a value.
pub trait Probe {
    /// The value that the wait returns.
    type Found;
    /// `None` while the condition does not hold.
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

/// Polls `probe` until it returns `true` or `Some`, and returns the value.
///
/// Panics after `timeout`, with `what` in the message. It blocks the thread; async tests use `eventually`.
pub fn wait_until<P: Probe>(what: &str, timeout: Duration, probe: impl FnMut() -> P) -> P::Found {
    poll_until(timeout, probe).unwrap_or_else(|| panic!("waited {timeout:?} in vain for {what}"))
}

/// Polls the async closure `probe` until it returns `true` or `Some`, and returns the value.
///
/// Panics after `timeout`, with `what` in the message. A probe that hangs is cancelled at the same deadline.
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

/// Polls until the probe succeeds or the timeout has passed. The probe runs at least once.
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
