//! Tells what keeps the member from reading: a coordinator that is away, a group that does not take it, partitions
//! without a leader, rights that were taken away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::statistics::{ConsumerGroup, Partition};

use super::callbacks::Context;
use crate::kafka::observe::GroupWait;

/// An election takes less.
const LEADERLESS: Duration = Duration::from_secs(10);

impl Context {
    /// Tells or takes back one trouble; logged when it begins and when it ends.
    pub(super) fn show(&self, what: GroupWait, reason: Option<String>) {
        let is_told = self.state().told.contains(&what);
        match reason {
            Some(reason) => {
                self.state().told.insert(what);
                if self.observer.waits_for(what, reason.clone()) {
                    tracing::warn!(
                        reason,
                        "not reading, or not all; it goes on by itself when this is over"
                    );
                }
            }
            None if is_told => {
                self.state().told.remove(&what);
                self.observer.has(what);
                tracing::info!(trouble = ?what, "over: reading goes on");
            }
            None => {}
        }
    }

    pub(super) fn show_group(&self, group: &ConsumerGroup) {
        let (away_for, member, words) = {
            let mut state = self.state();
            if group.state == "up" {
                state.coordinator_away = None;
            } else {
                state.coordinator_away.get_or_insert_with(Instant::now);
            }
            if group.join_state == "steady" {
                state.group_trouble = None;
            }
            let away_for = state.coordinator_away.map(|since| since.elapsed());
            (away_for, state.group_trouble.clone(), state.trouble.clone())
        };
        let away = away_for.filter(|away| *away >= self.session).map(|away| {
            let seconds = away.as_secs();
            format!("the group has had no coordinator for {seconds} s; the last word about a broker: {words}")
        });
        self.show(GroupWait::Coordinator, away);
        let kept_out = member.map(|words| {
            format!("the group does not take this member: {words}; `kafka-consumer-groups --describe --members` names the others")
        });
        self.show(GroupWait::Membership, kept_out);
    }

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
            let long = state.leaderless.iter().filter(|(_, since)| since.elapsed() >= LEADERLESS);
            long.map(|(&number, _)| number).collect()
        };
        let reason = (!missing.is_empty()).then(|| {
            format!(
                "partitions {missing:?} of {} have no leader: the brokers that hold them are away",
                self.topic
            )
        });
        self.show(GroupWait::Leader, reason);
    }
}

/// Whether an error says that the group does not take the member.
pub(super) fn is_of_the_group(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::InconsistentGroupProtocol
            | Code::GroupAuthorizationFailed
            | Code::GroupMaxSizeReached
            | Code::InvalidGroupId
            | Code::InvalidSessionTimeout
            | Code::UnsupportedVersion
    )
}
