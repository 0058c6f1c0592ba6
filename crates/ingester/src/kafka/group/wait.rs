//! Waits for a future on a thread without a runtime: the poll thread may end after the runtime was shut down.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future's result; `None` after the timeout. The future must not need a runtime (channels do not).
pub(super) fn wait_for<F: Future>(future: F, timeout: Duration) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut future, deadline) = (pin!(future), Instant::now() + timeout);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(result);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_waited_for_without_a_runtime() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        sender.try_send(1).unwrap();
        assert!(wait_for(sender.reserve(), Duration::from_millis(1)).is_none(), "it is full");
        let taking = std::thread::spawn(move || {
            let first = receiver.blocking_recv();
            (first, receiver.blocking_recv())
        });
        let permit = wait_for(sender.reserve(), Duration::from_secs(30)).unwrap().unwrap();
        permit.send(2);
        assert_eq!(taking.join().unwrap(), (Some(1), Some(2)));
        assert!(wait_for(sender.reserve(), Duration::from_secs(30)).unwrap().is_err(), "closed");
    }
}
