//! The poll thread's work on the table's account: it claims the account before a partition starts, stores positions in it
//! before each commit, and claims it again if an answer shows that the database went back in time. A separate task,
//! [`answer_requests`], sends the requests to the database; the poll thread waits for it only during a revocation and
//! at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use store::{Advance, Claimed, PositionKey, Positions, TablePosition};
use tokio::sync::mpsc::UnboundedReceiver;

use super::account::{
    AdvanceResult, Answer, CLAIM_TIMEOUT, Claim, OwnedAccount, Request, evaluate_advance,
};
use super::callbacks::Context;
use super::start_offsets::{LogPosition, Note};
use super::state::{Command, PollState, Reading};
use crate::pipeline::ports::{AssignmentId, SourceError};

/// How long the account may have another owner before it is claimed again. A member that lost its partitions learns it
/// with its next heartbeat, which is sent every three seconds.
const FOREIGN_TIMEOUT: Duration = Duration::from_secs(4);

/// Sends the requests to the database one at a time, until the poll thread has ended.
pub(super) async fn answer_requests(
    store: Arc<dyn Positions>,
    mut requests: UnboundedReceiver<Request>,
    answers: Sender<Command>,
) {
    while let Some(request) = requests.recv().await {
        let answer = answer(&*store, request).await.unwrap_or_else(Answer::Failed);
        if answers.send(Command::Account(Box::new(answer))).is_err() {
            return;
        }
    }
}

async fn answer(store: &dyn Positions, request: Request) -> Result<Answer, store::Error> {
    match request {
        Request::Claim { key, owner, partitions } => {
            let numbers: Vec<i32> = partitions.iter().map(|&(number, _)| number).collect();
            let claimed = store.claim(&key, &owner, &numbers).await?;
            warn_of_other_topic(store, &key, &claimed).await?;
            Ok(Answer::Claimed { topic_id: key.topic_id, owner, partitions, claimed })
        }
        Request::Advance { key, positions } => {
            let asked: Vec<_> = positions.iter().map(|(_, position)| position.clone()).collect();
            let advanced = store.advance(&key, &asked).await?;
            Ok(Answer::Advanced { positions, advanced })
        }
    }
}

/// Warns if the group has read another topic before. A broker deletes the group's offsets when a topic is deleted: if
/// this topic was created again while no ingester ran, only the table shows that there was another.
async fn warn_of_other_topic(
    store: &dyn Positions,
    key: &PositionKey,
    claimed: &Claimed,
) -> Result<(), store::Error> {
    let new = claimed.accounts.iter().filter(|account| account.position.is_none());
    let new: Vec<i32> = new.map(|account| account.partition).collect();
    if new.is_empty() {
        return Ok(());
    }
    let accounts = store.accounts(&key.group).await?;
    let mut others =
        accounts.iter().filter(|(topic_id, _)| *topic_id != key.topic_id).map(|(_, other)| other);
    if others.any(|other| other.position.is_some() && new.contains(&other.partition)) {
        tracing::warn!(
            group = key.group, topic_id = key.topic_id, partitions = ?new,
            "the group has read another topic before: if this topic was deleted and created again while no ingester ran, the unread records of the deleted topic are lost"
        );
    }
    Ok(())
}

impl PollState {
    /// Applies an answer of the database to the state.
    pub(super) fn account_answered(&mut self, answer: Answer) {
        match answer {
            Answer::Claimed { topic_id, owner, partitions, claimed } => {
                for ((number, since), account) in partitions.into_iter().zip(claimed.accounts) {
                    let is_present = self.commits.since(number) == Some(since);
                    let Some(partition) = self.partitions.get_mut(&number).filter(|_| is_present)
                    else {
                        continue;
                    };
                    partition.claim = Claim::Owned(OwnedAccount {
                        topic_id: topic_id.clone(),
                        owner: owner.clone(),
                        database: claimed.database.clone(),
                        position: account.position,
                        at_least: None,
                        foreign_since: None,
                    });
                }
                self.ask_at = None;
            }
            Answer::Advanced { positions, advanced } => {
                self.is_storing = false;
                self.commit_stored = true;
                for ((since, position), before) in positions.into_iter().zip(&advanced.before) {
                    let result = evaluate_advance(&position, &advanced.database, before.as_ref());
                    self.stored(since, &position, result);
                }
            }
            Answer::Failed(error) => {
                self.is_storing = false;
                self.fail(SourceError::Account(error));
            }
        }
    }

    /// Applies the result of storing a position to the state.
    fn stored(&mut self, since: AssignmentId, position: &Advance, result: AdvanceResult) {
        let number = position.partition;
        let next = position.to.next_offset;
        if result == AdvanceResult::Stored && !self.commits.stored(number, since, next) {
            return;
        }
        let is_present = self.commits.since(number) == Some(since);
        let partition = self.partitions.get_mut(&number).filter(|_| is_present);
        let Some(Claim::Owned(owned)) = partition.map(|partition| &mut partition.claim) else {
            return;
        };
        match result {
            AdvanceResult::Stored => {
                owned.at_least = Some(next);
                owned.foreign_since = None;
            }
            AdvanceResult::Doubted => {
                self.doubted.insert(number);
            }
            AdvanceResult::Foreign => {
                let since = owned.foreign_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= FOREIGN_TIMEOUT {
                    self.doubted.insert(number);
                }
            }
        }
    }
}

impl Context {
    fn ask(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok())
    }

    fn key(&self, topic_id: &str) -> PositionKey {
        PositionKey { group: self.group.clone(), topic_id: topic_id.to_owned() }
    }

    /// Claims the accounts of partitions that are to start. Returns the partitions that may start now.
    ///
    /// # Errors
    /// When the database has not answered a claim for [`CLAIM_TIMEOUT`].
    pub(super) fn claimed(
        &self,
        partitions: &[i32],
        topic_id: Option<&str>,
    ) -> (Vec<i32>, Result<(), String>) {
        let (mut ready, mut unclaimed, mut result) = (Vec::new(), Vec::new(), Ok(()));
        {
            let state = &mut *self.state();
            for &number in partitions {
                let Some(mut since) = state.commits.since(number) else { continue };
                let Some(partition) = state.partitions.get_mut(&number) else { continue };
                match &partition.claim {
                    _ if topic_id.is_none() || self.requests.is_none() => {
                        partition.claim = Claim::NotKept;
                        ready.push(number);
                    }
                    Claim::Owned(owned) if Some(owned.topic_id.as_str()) == topic_id => {
                        ready.push(number);
                    }
                    Claim::Asked(since) if since.elapsed() >= CLAIM_TIMEOUT => {
                        let reason = "the database has not said how far it is";
                        result = Err(format!("partition {number}: {reason}"));
                    }
                    Claim::Asked(_) => {}
                    claim => {
                        if let Claim::Owned(_) = claim {
                            // Offsets of another topic are not valid in this one, whose account is claimed now.
                            state.commits.assign([number]);
                            since = state.commits.assignment();
                        }
                        partition.claim = Claim::Asked(Instant::now());
                        unclaimed.push((number, since));
                    }
                }
            }
        }
        if let Some(topic_id) = topic_id.filter(|_| !unclaimed.is_empty()) {
            let number = self.state().commits.assignment().0;
            let owner = format!("{}-{number}", self.token);
            let key = self.key(topic_id);
            self.ask(Request::Claim { key, owner, partitions: unclaimed });
        }
        (ready, result)
    }

    /// Requests that positions are stored, unless a request is pending: those that changed, or with `all` those of every
    /// partition. Returns whether a request was sent.
    pub(super) fn ask_to_store(&self, all: bool) -> bool {
        let mut by_topic: BTreeMap<String, Vec<(AssignmentId, Advance)>> = BTreeMap::new();
        {
            let mut state = self.state();
            if state.is_storing {
                return false;
            }
            for (number, since, next) in state.commits.to_store(all) {
                let leader_epoch = state.log(number).epoch_before(next);
                let owned = match state.partitions.get(&number).map(|partition| &partition.claim) {
                    Some(Claim::Owned(owned)) => owned.clone(),
                    Some(Claim::NotKept) => {
                        state.commits.stored(number, since, next);
                        continue;
                    }
                    _ => continue,
                };
                let evidence = self.settled.fingerprint(number);
                let to = TablePosition { next_offset: next, leader_epoch, evidence };
                let OwnedAccount { topic_id, owner, database, at_least, .. } = owned;
                let position = Advance { partition: number, owner, database, at_least, to };
                by_topic.entry(topic_id).or_default().push((since, position));
            }
            // One topic at a time: there are two only while a new topic is being detected.
            state.is_storing = !by_topic.is_empty();
        }
        let Some((topic_id, positions)) = by_topic.pop_first() else { return false };
        let is_asked = self.ask(Request::Advance { key: self.key(&topic_id), positions });
        self.state().is_storing = is_asked;
        is_asked
    }

    /// Stores the written offsets and waits for the answer until the deadline.
    pub(super) fn store_and_wait(&self, deadline: Instant, interval: Duration) {
        // First the pending request, then the offsets written since.
        for _ in 0..2 {
            if !self.state().is_storing && !self.ask_to_store(false) {
                return;
            }
            while self.state().is_storing {
                self.observer.polled();
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    tracing::warn!(
                        "the database did not take the positions in time: they are not committed"
                    );
                    return;
                }
                let command = self.commands.lock().recv_timeout(left.min(interval));
                match command {
                    Ok(command) => self.state().apply(command),
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// Claims the doubted accounts again; the partitions then start at the positions in the accounts.
    pub(super) fn start_doubted(&self, consumer: &BaseConsumer<Self>) {
        let doubted: Vec<i32> = {
            let mut state = self.state();
            let doubted = std::mem::take(&mut state.doubted);
            doubted.into_iter().filter(|number| state.partitions.contains_key(number)).collect()
        };
        if doubted.is_empty() {
            return;
        }
        tracing::info!(
            topic = %self.topic, partitions = ?doubted,
            "the database's account is not as this ingester left it (another database, an earlier state of it, or another owner): the ingester claims it again"
        );
        let list = self.list(doubted.iter().map(|&partition| (partition, 0)));
        if self.fatal(list.and_then(|list| consumer.pause(&list))).is_none() {
            return;
        }
        let mut state = self.state();
        for &number in &doubted {
            let stored = state.commits.stored_at(number);
            let epoch = stored.and_then(|stored| state.log(number).epoch_before(stored));
            let Some(partition) = state.partitions.get_mut(&number) else { continue };
            let stored = stored.map(|offset| LogPosition { offset, epoch });
            // Nothing was stored since an earlier doubt that led to no start, so its position still counts.
            partition.proved = stored.or(partition.proved).or(partition.start);
            partition.claim = Claim::Unclaimed;
            if !matches!(partition.reading, Reading::Refused(_)) {
                partition.reading = Reading::NoStart;
            }
        }
        state.commits.assign(doubted);
        state.ask_at = None;
    }

    /// Logs the note of a start, and counts its records.
    pub(super) fn log_note(&self, partition: i32, note: Note) {
        let topic = &self.topic;
        let count = |from: i64, to: i64| to.saturating_sub(from).max(0).cast_unsigned();
        match note {
            Note::WentBack { from, to } => {
                let records = count(from, to);
                tracing::warn!(
                    %topic, partition, from, to, records,
                    "the database went back in time: what it lacks is read again from the topic"
                );
                self.observer.went_back(records);
            }
            Note::AccountGone { from, to } => {
                let records = count(from, to);
                tracing::warn!(
                    %topic, partition, from, to, records,
                    "the database has no account of this group, although there was one: the topic is read again from its first record"
                );
                self.observer.went_back(records);
            }
            Note::Reset { from, to } if to > from => {
                let skipped = count(from, to);
                tracing::warn!(
                    %topic, partition, from, to, skipped,
                    "another program has set the group's offset forwards: the ingester reads from there and skips the records between"
                );
                self.observer.lost(skipped);
            }
            Note::Reset { from, to } => {
                tracing::warn!(
                    %topic, partition, from, to, read_again = count(to, from),
                    "another program has set the group's offset back: the ingester reads again from there"
                );
            }
        }
    }
}
