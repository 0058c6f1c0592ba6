//! The waits of a command: logged once when they begin and when they end, and shown with the progress.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use store::{Error, WaitCause, WaitObserver};

use crate::pipeline::ports::{DeliveryObserver, Undelivered};

/// The waits of several concurrent writes, by cause.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<BTreeMap<Cause, Waiting>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Store(WaitCause),
    DeadLetters,
}

#[derive(Debug)]
struct Waiting {
    operations: usize,
    reason: String,
}

impl Waits {
    /// The reason why nothing is written at present, if there is one.
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.lock().values().next().map(|waiting| waiting.reason.clone())
    }

    fn begin(&self, cause: Cause, reason: String) {
        let mut waits = self.0.lock();
        if let Some(waiting) = waits.get_mut(&cause) {
            waiting.operations += 1;
            waiting.reason = reason;
        } else {
            tracing::warn!(reason, "waiting; it is tried again until it succeeds");
            waits.insert(cause, Waiting { operations: 1, reason });
        }
    }

    /// Replaces the reason of a wait that goes on.
    fn reword(&self, cause: Cause, reason: String) {
        if let Some(waiting) = self.0.lock().get_mut(&cause) {
            waiting.reason = reason;
        }
    }

    fn end(&self, cause: Cause) {
        let mut waits = self.0.lock();
        let Some(waiting) = waits.get_mut(&cause) else { return };
        waiting.operations -= 1;
        if waiting.operations == 0
            && let Some(over) = waits.remove(&cause)
        {
            tracing::info!(reason = over.reason, "no longer waiting");
        }
    }
}

impl WaitObserver for Waits {
    fn waiting(&self, cause: WaitCause, error: &Error) {
        self.begin(Cause::Store(cause), error.to_string());
    }

    fn recovered(&self, cause: WaitCause) {
        self.end(Cause::Store(cause));
    }

    fn retried(&self, cause: WaitCause, error: &Error) {
        self.reword(Cause::Store(cause), error.to_string());
    }
}

impl DeliveryObserver for Waits {
    fn waiting(&self, error: &Undelivered) {
        self.begin(Cause::DeadLetters, error.to_string());
    }

    fn recovered(&self) {
        self.end(Cause::DeadLetters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_over_when_the_last_of_its_operations_is() {
        let waits = Waits::default();
        let away = Error::Transient("connection refused".into());
        WaitObserver::waiting(&waits, WaitCause::Away, &away);
        WaitObserver::waiting(&waits, WaitCause::Away, &away);
        WaitObserver::recovered(&waits, WaitCause::Away);
        assert!(waits.reason().is_some_and(|reason| reason.contains("connection refused")));
        let full = Error::Transient("the disk is full".into());
        WaitObserver::retried(&waits, WaitCause::Away, &full);
        assert!(waits.reason().is_some_and(|reason| reason.contains("the disk is full")));
        WaitObserver::recovered(&waits, WaitCause::Away);
        assert_eq!(waits.reason(), None);
    }
}
