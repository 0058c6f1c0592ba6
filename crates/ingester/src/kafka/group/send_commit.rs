//! Sends commits to the group's coordinator.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::callbacks::Context;
use crate::kafka::commit_metadata::CommitMetadata;
use crate::kafka::config;
use crate::kafka::ffi::{self, CommitAnswer};

/// How often the thread reports that it is alive while it waits for a commit.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(500);

/// How long the coordinator's answer to a commit delays the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A commit that may not be answered yet. Only one is sent at a time: librdkafka starts an assigned partition only at a
/// moment without unanswered commits, which would never come where an answer takes longer than the interval of the commits.
pub(super) struct SentCommit {
    answer: CommitAnswer,
    at: Instant,
    offsets: Vec<(i32, i64)>,
}

impl SentCommit {
    /// Whether the next commit has to wait. A refusal is only logged: librdkafka's statistics show which offsets the group
    /// has, and the others are sent again.
    pub(super) fn is_unanswered(&self) -> bool {
        match self.answer.get(Duration::ZERO) {
            None => self.at.elapsed() < ANSWER_TIMEOUT,
            Some(answer) => {
                if let Err(error) = answer
                    && config::is_new_line("COMMIT", &error.to_string(), Instant::now())
                {
                    tracing::warn!(%error, "the group's coordinator refused a commit; it is sent again");
                }
                false
            }
        }
    }
}

impl Context {
    /// Commits the stored offsets without waiting. A failed commit is repeated with the next one. The consumer must outlive
    /// the result.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Self>) -> Option<SentCommit> {
        let offsets = self.state().commits.take();
        if offsets.is_empty() {
            return None;
        }
        let list = self.to_commit(&offsets);
        match list.and_then(|list| CommitAnswer::ask(consumer.client(), &list)) {
            Ok(answer) => Some(SentCommit { answer, at: Instant::now(), offsets }),
            Err(error) => {
                tracing::warn!(%error, "offsets could not be committed");
                self.state().commits.not_sent(&offsets);
                None
            }
        }
    }

    /// Stores and commits the written offsets and waits for the broker's answer, at most for `timeout`.
    pub(super) fn commit_and_wait(&self, consumer: &BaseConsumer<Self>, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.store_and_wait(deadline, LIVENESS_INTERVAL);
        let Some(sent) = self.commit(consumer) else { return };
        let answer = loop {
            self.observer.polled();
            let left = deadline.saturating_duration_since(Instant::now());
            match sent.answer.get(left.min(LIVENESS_INTERVAL)) {
                None if !left.is_zero() => {}
                answer => break answer,
            }
        };
        match answer {
            Some(Ok(())) => return,
            Some(Err(error)) => tracing::warn!(%error, "offsets could not be committed"),
            None => tracing::warn!(patience = ?timeout, "no answer to a commit in time"),
        }
        self.state().commits.not_sent(&sent.offsets);
    }

    /// The list to commit: the offsets, the leader epoch before each, and the metadata.
    fn to_commit(&self, offsets: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
        let mut list = self.list(offsets.iter().copied())?;
        for &(partition, next) in offsets {
            let settled_by = self.settled.fingerprint(partition);
            let text = {
                let mut state = self.state();
                let log = state.log(partition);
                log.forget_epochs_before(next);
                log.committed = Some(next);
                if let Some(owned) = state.partitions.get_mut(&partition) {
                    owned.settled_by.clone_from(&settled_by);
                }
                let replay = self.observer.last_replay();
                CommitMetadata { settled_by, replay, ..state.metadata(partition) }.to_text()
            };
            if let Some(mut element) = list.find_partition(&self.topic, partition)
                && !text.is_empty()
            {
                element.set_metadata(text);
            }
        }
        let state = self.state();
        ffi::set_leader_epochs(&mut list, |partition, next| {
            state.logs.get(&partition)?.epoch_before(next)
        });
        Ok(list)
    }
}
