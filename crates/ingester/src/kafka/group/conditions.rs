//! Reports the conditions that keep the member from reading: no coordinator, a group that refuses the member,
//! partitions without a leader, revoked rights.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::statistics::{ConsumerGroup, Partition};

use super::callbacks::Context;
use crate::kafka::inspect::no_leader;
use crate::kafka::observe::GroupWait;

/// How long partitions may have no leader before it is reported; an election takes less.
const LEADERLESS_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before a new client tries to join a group that refused the one before for good.
const REJOIN_DELAY: Duration = Duration::from_secs(3);
/// How long joining may take beyond the session timeout, after which the group removes a dead member.
const JOIN_MARGIN: Duration = Duration::from_secs(5);

impl Context {
    /// Reports a condition (`Some`) or its end (`None`), and logs a new condition; the observer logs the end.
    pub(super) fn show(&self, what: GroupWait, reason: Option<String>) {
        let is_reported = self.state().reported_waits.contains(&what);
        match reason {
            Some(reason) => {
                self.state().reported_waits.insert(what);
                if self.observer.waits_for(what, reason.clone()) {
                    tracing::warn!(
                        reason,
                        "not reading some or all partitions; reading resumes by itself when the cause is gone"
                    );
                }
            }
            None if is_reported => {
                self.state().reported_waits.remove(&what);
                self.observer.has(what);
            }
            None => {}
        }
    }

    /// Reports a missing coordinator, and a group that does not accept this member. Without a connected broker nothing
    /// new is known about the coordinator: its absence is not reported then, and stays reported if it was.
    pub(super) fn show_group(&self, group: &ConsumerGroup, is_connected: bool) {
        let is_idle_member = group.join_state == "init" && self.state().is_accepted;
        let join_state = if is_idle_member { "steady" } else { group.join_state.as_str() };
        self.observer.membership(join_state);
        let (is_up, is_member) = (group.state == "up", join_state == "steady");
        let message = self.last_message.text().unwrap_or_else(|| "none yet".to_owned());
        let (away_for, joining_for, trouble) = {
            let mut state = self.state();
            // Without the topic the member has no reason to join, and the missing topic is reported already.
            let is_joining =
                is_up && !is_member && state.partitions.is_empty() && !state.topic_is_missing;
            let now = Instant::now();
            state.coordinator_away =
                state.coordinator_away.or(is_connected.then_some(now)).filter(|_| !is_up);
            state.joining = state.joining.or(Some(now)).filter(|_| is_joining);
            if is_member {
                state.group_error = None;
            }
            let away_for = state.coordinator_away.map(|since| since.elapsed());
            let joining_for = state.joining.map(|since| since.elapsed());
            (away_for, joining_for, state.group_error.clone())
        };
        let away = away_for.filter(|away| *away >= self.session).map(|away| {
            let seconds = away.as_secs();
            format!("the group has had no coordinator for {seconds} s; the last message about a broker: {message}")
        });
        self.show(GroupWait::Coordinator, away);
        // librdkafka does not report every refusal: after some it only retries, without end.
        let timeout = self.session + JOIN_MARGIN;
        let silent = joining_for.filter(|joining| *joining >= timeout).map(|joining| {
            let seconds = joining.as_secs();
            format!("joining has lasted {seconds} s, and the group gives no reason (librdkafka: {join_state}); the last message about a broker: {message}")
        });
        let kept_out = trouble.or(silent).map(|message| {
            format!("the group does not accept this member: {message}; `kafka-consumer-groups --describe --members` lists the other members")
        });
        self.show(GroupWait::Membership, kept_out);
    }

    /// The reason to replace this client, which may never read again. By then the group has removed the member, or the
    /// old records of the topic are lost in any case.
    pub(super) fn stuck_reason(&self) -> Option<&'static str> {
        let state = self.state();
        let is_over = |since: Option<Instant>, sessions| {
            let since = since.and(since.max(state.client_since));
            since.is_some_and(|since| since.elapsed() >= self.session * sessions)
        };
        if state.is_recreated {
            Some("the topic was created again")
        } else if state.unconnected.is_none() && is_over(state.coordinator_away, 2) {
            Some("the group's coordinator stays away")
        } else if is_over(state.unconnected, 6) {
            Some("no broker is connected")
        } else if state.refused_for_good.is_some_and(|since| since.elapsed() >= REJOIN_DELAY) {
            Some("the group refuses this kafka client for good")
        } else {
            None
        }
    }

    /// Reports assigned partitions that have had no leader for [`LEADERLESS_TIMEOUT`].
    pub(super) fn show_leaders(&self, partitions: &HashMap<i32, Partition>) {
        let missing: Vec<i32> = {
            let mut state = self.state();
            let assigned: Vec<i32> = state.partitions.keys().copied().collect();
            let without = assigned.into_iter().filter(|number| {
                partitions.get(number).is_some_and(|partition| partition.leader < 0)
            });
            let without: Vec<i32> = without.collect();
            state.leaderless.retain(|number, _| without.contains(number));
            for number in &without {
                state.leaderless.entry(*number).or_insert_with(Instant::now);
            }
            let long =
                state.leaderless.iter().filter(|(_, since)| since.elapsed() >= LEADERLESS_TIMEOUT);
            long.map(|(&number, _)| number).collect()
        };
        let reason = (!missing.is_empty()).then(|| no_leader(&self.topic, &missing));
        self.show(GroupWait::Leader, reason);
    }
}
