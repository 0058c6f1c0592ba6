//! What the probes say: derived from what the parts report, never set to what somebody hopes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntGauge;
use service::admin::{Health as AdminHealth, Readiness, State};

/// The poll thread turns at least every second, but for a revocation that waits, which it does for
/// `kafka.revoke_timeout`; after this much more it is stuck, and only a restart helps.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Why nothing is written; each ends by itself, whatever the others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// No broker is connected.
    Kafka,
    /// The topic is not there.
    Topic,
    /// The database is away: a batch could not be written.
    Database,
    /// The database does not answer, whether there is anything to write or not.
    Silence,
    /// Dead letters are not acknowledged.
    DeadLetters,
    /// Everything is rejected (`reject.max_consecutive`).
    Rejections,
}

/// What the parts of the ingester report about themselves.
#[derive(Debug)]
pub(crate) struct Health {
    started: Instant,
    /// Milliseconds from `started` to the last turn of the poll thread; 0 before its first.
    beat: AtomicU64,
    live_within: Duration,
    paused: IntGauge,
    parts: Mutex<Parts>,
}

#[derive(Debug)]
struct Parts {
    joined: bool,
    rebalancing: bool,
    pauses: BTreeMap<Cause, String>,
    stopping: bool,
    shown: State,
    since: SystemTime,
}

impl Health {
    /// `revoke_timeout`: how long the poll thread may stand still. `paused`: the metric that follows the pauses.
    pub(crate) fn new(revoke_timeout: Duration, paused: IntGauge) -> Self {
        let parts = Parts {
            joined: false,
            rebalancing: false,
            pauses: BTreeMap::new(),
            stopping: false,
            shown: State::Starting,
            since: SystemTime::now(),
        };
        Self {
            started: Instant::now(),
            beat: AtomicU64::new(0),
            live_within: revoke_timeout + STUCK_AFTER,
            paused,
            parts: Mutex::new(parts),
        }
    }

    /// The poll thread turned.
    pub(crate) fn poll_beat(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(since.max(1), Ordering::Relaxed);
    }

    /// What librdkafka says of its membership (its statistics, `cgrp.join_state`).
    pub(crate) fn group_state(&self, join_state: &str) {
        self.change(|parts| {
            let steady = join_state == "steady";
            parts.joined |= steady;
            parts.rebalancing = parts.joined && !steady;
        });
    }

    /// Partitions were assigned.
    pub(crate) fn assigned(&self) {
        self.change(|parts| {
            parts.joined = true;
            parts.rebalancing = false;
        });
    }

    /// Partitions are being handed over.
    pub(crate) fn rebalancing(&self) {
        self.change(|parts| parts.rebalancing = true);
    }

    /// Nothing is written for the reason given. Whether that is news.
    pub(crate) fn pause(&self, cause: Cause, reason: String) -> bool {
        let mut news = false;
        self.change(|parts| news = parts.pauses.insert(cause, reason).is_none());
        news
    }

    /// The cause is over. Whether that is news.
    pub(crate) fn resume(&self, cause: Cause) -> bool {
        let mut news = false;
        self.change(|parts| news = parts.pauses.remove(&cause).is_some());
        news
    }

    /// Asked to stop.
    pub(crate) fn stopping(&self) {
        self.change(|parts| parts.stopping = true);
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.lock();
        change(&mut parts);
        self.paused.set((!parts.pauses.is_empty()).into());
        let state = parts.state();
        if state != parts.shown {
            parts.shown = state;
            parts.since = SystemTime::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// The gravest first.
    fn state(&self) -> State {
        if self.stopping {
            State::Stopping
        } else if !self.pauses.is_empty() {
            State::Paused
        } else if !self.joined {
            State::Starting
        } else if self.rebalancing {
            State::Rebalancing
        } else {
            State::Ready
        }
    }
}

impl AdminHealth for Health {
    /// That the poll thread turns. Before its first turn the ingester is starting, which may take as long as the
    /// database is away.
    fn live(&self) -> bool {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        beat.is_zero() || self.started.elapsed().saturating_sub(beat) < self.live_within
    }

    fn ready(&self) -> Readiness {
        let parts = self.lock();
        Readiness {
            state: parts.shown,
            ready: matches!(parts.shown, State::Ready | State::Rebalancing),
            reason: parts.pauses.values().next().cloned(),
            since: parts.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_state_is_shown() {
        let health = Health::new(Duration::ZERO, IntGauge::new("paused", "paused").unwrap());
        let state = || health.ready().state;
        assert_eq!(state(), State::Starting);
        health.group_state("wait-join");
        assert_eq!(state(), State::Starting, "not yet a member");
        health.group_state("steady");
        assert_eq!((state(), health.ready().ready), (State::Ready, true));
        health.rebalancing();
        assert_eq!((state(), health.ready().ready), (State::Rebalancing, true));
        assert!(health.pause(Cause::Database, "the database is away".into()));
        assert!(!health.pause(Cause::Database, "the database is away".into()), "no news");
        health.pause(Cause::DeadLetters, "so are the dead letters".into());
        assert_eq!((state(), health.ready().ready), (State::Paused, false));
        assert_eq!(health.ready().reason.as_deref(), Some("the database is away"));
        health.resume(Cause::Database);
        assert_eq!((state(), health.paused.get()), (State::Paused, 1));
        assert_eq!(health.ready().reason.as_deref(), Some("so are the dead letters"));
        health.resume(Cause::DeadLetters);
        assert_eq!(health.paused.get(), 0);
        health.assigned();
        assert_eq!(state(), State::Ready);
        health.stopping();
        health.assigned();
        assert_eq!(state(), State::Stopping);
    }
}
