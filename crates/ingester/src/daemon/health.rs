//! The state that the probes report, derived from the reports of the ingester's parts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use prometheus::IntGauge;
use service::admin::{Health as AdminHealth, Readiness, State};
use store::WaitCause;

use crate::kafka::GroupWait;

/// The poll thread reports at least every second, except in a revocation, which waits for up to `kafka.revoke_timeout`.
/// If it is silent for this much longer it hangs, and only a restart helps.
const STUCK_AFTER: Duration = Duration::from_secs(60);

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident = $word:literal,)*) => {
        /// The cause why nothing, or not everything, is read and written. The words are stable: the reason in `/readyz`
        /// begins with one, and the runbook has an entry for each. The most serious cause comes first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PauseCause { $($(#[$doc])* $cause,)* }

        impl PauseCause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$cause,)*];

            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$cause => $word,)* }
            }
        }
    };
}

causes! {
    /// The poll thread no longer reports: `/livez` fails too, and only a restart helps.
    PollThreadStuck = "poll_thread_stuck",
    /// No broker is connected.
    KafkaAway = "kafka_away",
    /// The topic does not exist.
    TopicMissing = "topic_missing",
    /// The group's coordinator is unreachable.
    CoordinatorAway = "coordinator_away",
    /// The group refuses this member.
    KeptOutOfGroup = "kept_out_of_group",
    /// The broker no longer allows this user to read.
    KafkaNotAllowed = "kafka_not_allowed",
    /// Assigned partitions have no leader.
    LeaderMissing = "leader_missing",
    /// The database is unreachable, or lacks a resource.
    DatabaseAway = "database_away",
    /// The database refuses every row, or this user.
    DatabaseRefuses = "database_refuses",
    /// Conflicts with other transactions keep recurring.
    DatabaseConflict = "database_conflict",
    /// No write ends although writes are in flight, or statements keep reaching a time limit.
    DatabaseTimeLimit = "database_time_limit",
    /// The connection pool has had no free connection for a long time.
    DatabaseBusy = "database_busy",
    /// The database does not answer, even when there are no rows to write.
    DatabaseSilent = "database_silent",
    /// The start offsets of assigned partitions are unknown. While the database is the reason, its own cause comes first.
    StartOffsetsUnknown = "start_offsets_unknown",
    /// Dead letters are not acknowledged.
    DeadLettersWait = "dead_letters_wait",
    /// Too many records in a row are rejected (`reject.max_consecutive`).
    RejectionLimit = "rejection_limit",
}

impl From<WaitCause> for PauseCause {
    fn from(cause: WaitCause) -> Self {
        match cause {
            WaitCause::Away => Self::DatabaseAway,
            WaitCause::Refused => Self::DatabaseRefuses,
            WaitCause::Conflict => Self::DatabaseConflict,
            WaitCause::TimeLimit => Self::DatabaseTimeLimit,
            WaitCause::Busy => Self::DatabaseBusy,
        }
    }
}

impl From<GroupWait> for PauseCause {
    fn from(wait: GroupWait) -> Self {
        match wait {
            GroupWait::Broker => Self::KafkaAway,
            GroupWait::Topic => Self::TopicMissing,
            GroupWait::Coordinator => Self::CoordinatorAway,
            GroupWait::Membership => Self::KeptOutOfGroup,
            GroupWait::Permission => Self::KafkaNotAllowed,
            GroupWait::Leader => Self::LeaderMissing,
            GroupWait::StartOffsets => Self::StartOffsetsUnknown,
        }
    }
}

/// The reports of the ingester's parts.
#[derive(Debug)]
pub(crate) struct Health {
    started: Instant,
    /// Milliseconds from `started` to the poll thread's last report; 0 before its first.
    beat: AtomicU64,
    live_within: Duration,
    paused: IntGauge,
    parts: Mutex<Parts>,
}

#[derive(Debug)]
struct Parts {
    joined: bool,
    rebalancing: bool,
    pauses: BTreeMap<PauseCause, Pause>,
    stopping: bool,
    /// What the start waits for.
    step: &'static str,
    shown: State,
    since: SystemTime,
}

/// A pause: its cause is the key in [`Parts`].
#[derive(Debug)]
struct Pause {
    waiters: usize,
    /// The latest reason.
    reason: String,
    since: Instant,
}

impl Health {
    /// How long the poll thread has not reported; zero before its first report.
    fn silence(&self) -> Duration {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        if beat.is_zero() { beat } else { self.started.elapsed().saturating_sub(beat) }
    }

    /// `revoke_timeout`: how long the poll thread may be silent. `paused`: the metric that is 1 during a pause.
    pub(crate) fn new(revoke_timeout: Duration, paused: IntGauge) -> Self {
        let parts = Parts {
            joined: false,
            rebalancing: false,
            pauses: BTreeMap::new(),
            stopping: false,
            step: "reading the exit lists",
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

    /// What the start waits for from now on.
    pub(crate) fn starting(&self, step: &'static str) {
        self.change(|parts| parts.step = step);
    }

    /// Begins a pause if the poll thread is silent for too long, and ends it when the thread reports again. While it is silent the
    /// other metrics of the group stay as they were.
    pub(crate) fn check_poll_thread(&self) {
        let silence = self.silence();
        if silence >= self.live_within {
            let reason = format!("no report for {} s; only a restart helps", silence.as_secs());
            if self.pause(PauseCause::PollThreadStuck, reason) {
                tracing::error!("the poll thread is stuck; only a restart helps");
            }
        } else if self.resume(PauseCause::PollThreadStuck) {
            tracing::info!("the poll thread reports again");
        }
    }

    /// The poll thread is alive.
    pub(crate) fn poll_beat(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(since.max(1), Ordering::Relaxed);
    }

    /// The membership state in librdkafka's statistics (`cgrp.join_state`).
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

    /// Partitions are being revoked.
    pub(crate) fn rebalancing(&self) {
        self.change(|parts| parts.rebalancing = true);
    }

    /// Begins the pause of a cause that only one part reports, however often. Returns whether it is new.
    pub(crate) fn pause(&self, cause: PauseCause, reason: String) -> bool {
        self.change(|parts| {
            let is_news = !parts.pauses.contains_key(&cause);
            parts.pause(cause, reason).waiters = 1;
            is_news
        })
    }

    /// Ends the pause of a cause that only one part reports. Returns whether there was one.
    pub(crate) fn resume(&self, cause: PauseCause) -> bool {
        self.change(|parts| parts.pauses.remove(&cause).is_some())
    }

    /// Adds a waiter to a cause. Returns whether it is the first.
    pub(crate) fn waiting(&self, cause: PauseCause, reason: String) -> bool {
        self.change(|parts| {
            let pause = parts.pause(cause, reason);
            pause.waiters += 1;
            pause.waiters == 1
        })
    }

    /// Replaces the reason of a pause, if there is one.
    pub(crate) fn reword(&self, cause: PauseCause, reason: impl FnOnce() -> String) {
        if let Some(pause) = self.parts.lock().pauses.get_mut(&cause) {
            pause.reason = reason();
        }
    }

    /// The pauses that have lasted at least this long, with the reason and how long each has lasted, the most serious first.
    pub(crate) fn lasting(&self, at_least: Duration) -> Vec<(PauseCause, String, Duration)> {
        let parts = self.parts.lock();
        let pauses = parts.pauses.iter();
        let lasting = pauses.map(|(&cause, it)| (cause, it.reason.clone(), it.since.elapsed()));
        lasting.filter(|(.., lasted)| *lasted >= at_least).collect()
    }

    /// Removes a waiter from a cause. Returns whether it was the last.
    pub(crate) fn recovered(&self, cause: PauseCause) -> bool {
        self.change(|parts| {
            let Some(pause) = parts.pauses.get_mut(&cause) else { return false };
            pause.waiters -= 1;
            let is_last = pause.waiters == 0;
            if is_last {
                parts.pauses.remove(&cause);
            }
            is_last
        })
    }

    /// A stop was requested.
    pub(crate) fn stopping(&self) {
        self.change(|parts| parts.stopping = true);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Parts) -> T) -> T {
        let mut parts = self.parts.lock();
        let answer = change(&mut parts);
        self.paused.set((!parts.pauses.is_empty()).into());
        let state = parts.state();
        if state != parts.shown {
            parts.shown = state;
            parts.since = SystemTime::now();
        }
        answer
    }
}

impl Parts {
    /// The pause of this cause, with this reason.
    fn pause(&mut self, cause: PauseCause, reason: String) -> &mut Pause {
        let pause = Pause { waiters: 0, reason: String::new(), since: Instant::now() };
        let pause = self.pauses.entry(cause).or_insert(pause);
        pause.reason = reason;
        pause
    }

    /// The state by priority: the first that applies.
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
    /// Whether the poll thread reports. Before its first report the ingester is starting, which may take as long as the
    /// database is unreachable.
    fn live(&self) -> bool {
        self.silence() < self.live_within
    }

    fn ready(&self) -> Readiness {
        self.check_poll_thread();
        let parts = self.parts.lock();
        let gravest = parts.pauses.first_key_value();
        let gravest = gravest.map(|(cause, pause)| format!("{}: {}", cause.as_str(), pause.reason));
        let step = (parts.shown == State::Starting).then(|| parts.step.to_owned());
        Readiness {
            state: parts.shown,
            ready: matches!(parts.shown, State::Ready | State::Rebalancing),
            reason: gravest.or(step),
            since: parts.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(Duration::ZERO, IntGauge::new("paused", "paused").unwrap())
    }

    #[test]
    fn the_gravest_state_is_shown() {
        let health = health();
        let state = || health.ready().state;
        assert_eq!(state(), State::Starting);
        health.starting("joining the consumer group");
        assert_eq!(health.ready().reason.as_deref(), Some("joining the consumer group"));
        health.group_state("wait-join");
        assert_eq!(state(), State::Starting, "not yet a member");
        health.group_state("steady");
        assert_eq!((state(), health.ready().ready), (State::Ready, true));
        health.rebalancing();
        assert_eq!((state(), health.ready().ready), (State::Rebalancing, true));
        assert!(health.pause(PauseCause::DatabaseSilent, "no answer".into()));
        assert!(!health.pause(PauseCause::DatabaseSilent, "no answer".into()), "no news");
        health.pause(PauseCause::RejectionLimit, "all is rejected".into());
        assert_eq!((state(), health.ready().ready), (State::Paused, false));
        assert_eq!(health.ready().reason.as_deref(), Some("database_silent: no answer"));
        assert!(health.resume(PauseCause::DatabaseSilent));
        assert!(!health.resume(PauseCause::DatabaseSilent), "no news");
        assert_eq!((state(), health.paused.get()), (State::Paused, 1));
        assert_eq!(health.ready().reason.as_deref(), Some("rejection_limit: all is rejected"));
        health.resume(PauseCause::RejectionLimit);
        assert_eq!(health.paused.get(), 0);
        health.assigned();
        assert_eq!(state(), State::Ready);
        health.stopping();
        health.assigned();
        assert_eq!(state(), State::Stopping);
    }

    #[test]
    fn the_first_of_four_writers_to_succeed_does_not_end_the_pause_of_the_others() {
        let health = health();
        health.assigned();
        let cause = PauseCause::DatabaseAway;
        let first: Vec<_> = (0..4).map(|_| health.waiting(cause, "refused".into())).collect();
        assert_eq!(first, [true, false, false, false]);
        for _ in 0..3 {
            assert!(!health.recovered(cause));
            assert_eq!((health.ready().state, health.paused.get()), (State::Paused, 1));
        }
        // Causes are independent of each other.
        health.waiting(PauseCause::DatabaseConflict, "deadlock".into());
        assert!(health.recovered(cause));
        assert_eq!(health.ready().reason.as_deref(), Some("database_conflict: deadlock"));
        assert!(health.recovered(PauseCause::DatabaseConflict));
        assert_eq!((health.ready().state, health.paused.get()), (State::Ready, 0));
        assert!(!health.recovered(cause), "nobody waits");
    }

    #[test]
    fn the_newest_words_are_shown_and_a_pause_lasts_from_its_first() {
        let health = health();
        let cause = PauseCause::DatabaseAway;
        health.reword(cause, || "nobody waits".into());
        assert_eq!(health.lasting(Duration::ZERO), []);
        health.waiting(cause, "connection refused".into());
        health.reword(cause, || "the database system is starting up".into());
        let reason = "database_away: the database system is starting up";
        assert_eq!(health.ready().reason.as_deref(), Some(reason));
        let first = health.lasting(Duration::ZERO).remove(0);
        health.waiting(cause, "too many clients".into());
        let later = health.lasting(first.2).remove(0);
        assert_eq!((later.0, later.1.as_str()), (cause, "too many clients"));
        assert_eq!(health.lasting(Duration::from_secs(60)), []);
        health.recovered(cause);
        health.recovered(cause);
        assert_eq!(health.lasting(Duration::ZERO), []);
    }

    #[test]
    fn a_poll_thread_that_reports_no_more_is_not_live() {
        let began = Instant::now() - STUCK_AFTER - Duration::from_secs(1);
        let health = Health { started: began, ..health() };
        assert!(health.live(), "the first report may take long");
        health.poll_beat();
        assert!(health.live());
        health.beat.store(500, Ordering::Relaxed);
        let answer = health.ready();
        assert!(!health.live() && !answer.ready);
        assert!(answer.reason.is_some_and(|reason| reason.starts_with("poll_thread_stuck: ")));
        assert_eq!(health.paused.get(), 1);
        health.poll_beat();
        assert!(health.live(), "it was slow");
        health.check_poll_thread();
        assert_eq!((health.lasting(Duration::ZERO).len(), health.paused.get()), (0, 0));
    }

    #[test]
    fn each_cause_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> =
            PauseCause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), PauseCause::ALL.len());
    }
}
