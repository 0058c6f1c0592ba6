//! Where a partition is read from. librdkafka may not jump by itself (`auto.offset.reset=error`): every start is chosen
//! here, and what is passed over is a gap, which is counted, named, and by policy ends the ingester.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::callbacks::Context;
use crate::kafka::ffi::TopicIds;
use crate::pipeline::ports::SourceError;
use crate::settings::OnGap;

/// How long the broker has for one question.
const QUESTION: Duration = Duration::from_secs(5);
/// How long a new assignment waits for a broker that does not answer. Partitions are then read after the committed
/// offsets all the same, but a topic that was made again goes unnoticed until the next look at its id.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the group's commits carry beside the offset, so that an offset of a topic that is gone is known for one.
const TOPIC_ID: &str = "topic-id=";
/// And so that verdicts which lack lists that came while nobody ran are known for such. It stands first, where builds that
/// know only of the topic's id look for that and find none.
const EVIDENCE: &str = "evidence=";

/// Why a partition cannot be read on where it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The broker has deleted what was not read yet.
    Retention,
    /// The topic was deleted and made again, or its log was cut.
    MadeAgain,
    /// The group has no offset: it is new, or its offsets expired or were deleted.
    NoOffset,
}

/// A start, and what lies before it unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The offset to read from.
    pub(super) offset: i64,
    /// None where nothing is passed over and nothing need be said.
    pub(super) why: Option<Why>,
    /// The first record that is lost, and the one after the last as far as it is known.
    pub(super) lost: Option<(i64, i64)>,
}

/// Where to read on, when librdkafka does not know: `next` is the next offset by the group or the consumer's position,
/// `low` and `high` what the partition holds now, `known_end` the greatest end that was seen of the topic as it was.
pub(super) fn start(next: Option<i64>, low: i64, high: i64, known_end: Option<i64>) -> Start {
    match next {
        None => Start { offset: low, why: Some(Why::NoOffset), lost: None },
        Some(next) if next < low => {
            Start { offset: low, why: Some(Why::Retention), lost: Some((next, low)) }
        }
        Some(next) => {
            // In range and refused all the same is a log that was cut and grew again: which of its records are new
            // nobody can tell, so all are read.
            let lost = known_end.filter(|&end| next > high && end > next).map(|end| (next, end));
            Start { offset: low, why: Some(Why::MadeAgain), lost }
        }
    }
}

/// The topic as it is known, and what of it was read: kept by the poll thread and its callbacks.
#[derive(Debug, Default)]
pub(super) struct TopicState {
    /// The topic's id; none where the broker does not say it.
    pub(super) topic_id: Option<String>,
    /// By partition, the greatest end that was seen.
    ends: BTreeMap<i32, i64>,
    /// By partition, the offsets at which a leader epoch began, ascending.
    epochs: BTreeMap<i32, VecDeque<(i64, i32)>>,
    /// By partition, the last offset we committed: a broker forgets the group's when it deletes a topic.
    committed: BTreeMap<i32, i64>,
    /// By partition, what was committed since it was assigned and is not known to have arrived.
    unconfirmed: BTreeMap<i32, i64>,
    /// The broker knows no such topic.
    pub(super) topic_is_missing: bool,
    /// librdkafka has asked for a start, and statistics will say of which partitions.
    pub(super) asked_for_start: bool,
    /// Partitions that stand still for want of a start.
    pub(super) still: BTreeSet<i32>,
}

impl TopicState {
    /// An end was seen.
    pub(super) fn end(&mut self, partition: i32, end: i64) {
        let known = self.ends.entry(partition).or_insert(end);
        *known = end.max(*known);
    }

    /// A record was read that the leader of this epoch wrote.
    pub(super) fn epoch(&mut self, partition: i32, offset: i64, epoch: i32) {
        let epochs = self.epochs.entry(partition).or_default();
        if epochs.back().is_none_or(|&(_, last)| last != epoch) {
            epochs.push_back((offset, epoch));
        }
    }

    /// The epoch of the record before this offset; what came before it is forgotten.
    pub(super) fn epoch_before(&mut self, partition: i32, next: i64) -> Option<i32> {
        let epochs = self.epochs.get_mut(&partition)?;
        while epochs.get(1).is_some_and(|&(first, _)| first < next) {
            epochs.pop_front();
        }
        epochs.front().filter(|&&(first, _)| first < next).map(|&(_, epoch)| epoch)
    }

    /// An offset was sent to be committed.
    pub(super) fn committed(&mut self, partition: i32, next: i64) {
        self.committed.insert(partition, next);
        self.unconfirmed.insert(partition, next);
    }

    /// What librdkafka says of the group's offset. Answers what we committed and what has not arrived: during a
    /// rebalance the coordinator refuses commits, and nobody says so of one that was not waited for.
    pub(super) fn confirmed(&mut self, partition: i32, committed: i64) -> Option<i64> {
        let next = *self.unconfirmed.get(&partition)?;
        if committed >= next {
            self.unconfirmed.remove(&partition);
            return None;
        }
        Some(next)
    }

    /// The partition came or went: what another has committed meanwhile is not ours to set back.
    pub(super) fn changed_hands(&mut self, partition: i32) {
        self.unconfirmed.remove(&partition);
    }

    /// What of a partition lies unread behind this offset, as far as its end was seen.
    fn unread(&self, partition: i32, next: i64) -> Option<(i64, i64)> {
        self.ends.get(&partition).filter(|&&end| end > next).map(|&end| (next, end))
    }

    fn forget(&mut self, partition: i32) {
        self.ends.remove(&partition);
        self.epochs.remove(&partition);
        self.committed.remove(&partition);
        self.unconfirmed.remove(&partition);
    }
}

fn offset(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

impl Context {
    /// Chooses the starts of partitions that were assigned this moment.
    pub(super) fn starts(
        &self,
        consumer: &BaseConsumer<Self>,
        assigned: &TopicPartitionList,
    ) -> TopicPartitionList {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.health.poll_beat();
            match self.committed_starts(consumer, assigned) {
                Ok(starts) => return starts,
                Err(error) if Instant::now() > deadline || self.events.is_closed() => {
                    tracing::warn!(%error, "the committed offsets are not known; librdkafka will ask for them");
                    return assigned.clone();
                }
                Err(error) => tracing::warn!(%error, "asking again for the committed offsets"),
            }
        }
    }

    fn committed_starts(
        &self,
        consumer: &BaseConsumer<Self>,
        assigned: &TopicPartitionList,
    ) -> KafkaResult<TopicPartitionList> {
        let id = self.topic_id(consumer);
        let committed = consumer.committed_offsets(assigned.clone(), QUESTION)?;
        let changed = self.is_new(id.as_deref());
        // Before anything is reported: an answer that lacks a partition is asked for again as a whole.
        committed.elements().iter().try_for_each(|element| element.error())?;
        let mut starts = TopicPartitionList::new();
        let mut without = Vec::new();
        let elements = committed.elements();
        for element in &elements {
            let partition = element.partition();
            let next = offset(element.offset());
            let said = |key| element.metadata().split(' ').find_map(|part| part.strip_prefix(key));
            let of = said(TOPIC_ID);
            let start = if changed || (of.is_some() && id.is_some() && of != id.as_deref()) {
                let known = self.known();
                let next = next.or_else(|| known.committed.get(&partition).copied());
                let lost = next.and_then(|next| known.unread(partition, next));
                drop(known);
                self.report(partition, Why::MadeAgain, lost);
                self.forget(partition);
                self.assignment.settled.assigned(partition, false, None);
                Offset::Beginning
            } else if let Some(next) = next {
                self.assignment.settled.assigned(partition, true, said(EVIDENCE));
                Offset::Offset(next)
            } else {
                without.push(partition);
                self.assignment.settled.assigned(partition, false, None);
                Offset::Beginning
            };
            starts.add_partition_offset(element.topic(), partition, start)?;
        }
        if !without.is_empty() {
            tracing::info!(
                topic = %self.topic, partitions = ?without,
                "the group has no committed offset for these partitions: they are read from their first record"
            );
        }
        // Partitions that were kept are still to be read from the new topic, which the next look at its id sees to.
        if id.is_some() && (!changed || self.assignment.partitions().is_empty()) {
            self.known().topic_id = id;
        }
        Ok(starts)
    }

    /// Asks for the topic's id; none where there is no answer.
    fn topic_id(&self, consumer: &BaseConsumer<Self>) -> Option<String> {
        let ids = TopicIds::new(consumer.client(), &self.topic)?;
        ids.ask(QUESTION);
        ids.answer(QUESTION).flatten()
    }

    /// Whether this is another topic than the one that was read so far.
    pub(super) fn is_new(&self, id: Option<&str>) -> bool {
        let known = self.known();
        known.topic_id.is_some() && id.is_some() && known.topic_id.as_deref() != id
    }

    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, TopicState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every commit carries beside the offset.
    pub(super) fn commit_metadata(&self, partition: i32) -> Option<String> {
        let evidence = self.assignment.settled.fingerprint(partition);
        let evidence = evidence.map(|fingerprint| format!("{EVIDENCE}{fingerprint}"));
        let id = self.known().topic_id.as_ref().map(|id| format!("{TOPIC_ID}{id}"));
        let said: Vec<_> = evidence.into_iter().chain(id).collect();
        (!said.is_empty()).then(|| said.join(" "))
    }

    /// Says, counts and by policy ends what a start passes over.
    fn report(&self, partition: i32, why: Why, lost: Option<(i64, i64)>) {
        let topic = &self.topic;
        let what = match why {
            Why::NoOffset => {
                tracing::info!(%topic, partition, "no committed offset: reading from the first record");
                return;
            }
            Why::Retention => "the broker deleted records before they were read",
            Why::MadeAgain => {
                "the topic was made again, or its log cut: it is read from its first record, and what was not read of the \
                 old one is lost"
            }
        };
        let records = lost.map_or(0, |(from, to)| to.saturating_sub(from).max(0).cast_unsigned());
        self.metrics.offset_gap_records_total.inc_by(records);
        let range = match lost {
            Some((from, to)) => format!("offsets {from} to {}", to - 1),
            None => "an unknown range".to_owned(),
        };
        tracing::error!(%topic, partition, records, range, "{what}");
        if self.on_gap == OnGap::Stop {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(SourceError::Gap(format!(
                "{what}: partition {partition} of {topic}, {range}; kafka.on_gap = \"continue\" reads on, and \
                 `kafka-consumer-groups --reset-offsets` chooses another place"
            )));
        }
    }

    /// Chooses new starts for partitions that stand still because their position is not in the log any more.
    ///
    /// # Errors
    /// When the broker does not answer; to be tried again.
    pub(super) fn restart(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &BTreeSet<i32>,
    ) -> KafkaResult<()> {
        let mut wanted = TopicPartitionList::new();
        for &partition in partitions {
            wanted.add_partition(&self.topic, partition);
        }
        if let Some(id) = self.topic_id(consumer).filter(|id| self.is_new(Some(id))) {
            return self.made_again(consumer, id);
        }
        let positions = consumer.position()?;
        let committed = consumer.committed_offsets(wanted.clone(), QUESTION)?;
        // All are known before any is reported: a failure half-way would count the first ones again.
        let mut chosen = Vec::new();
        for &partition in partitions {
            let of = |list: &TopicPartitionList| {
                offset(list.find_partition(&self.topic, partition)?.offset())
            };
            let next = of(&positions).or_else(|| of(&committed));
            let (low, high) = consumer.fetch_watermarks(&self.topic, partition, QUESTION)?;
            let known_end = self.known().ends.get(&partition).copied();
            chosen.push((partition, start(next, low, high, known_end)));
        }
        let mut starts = TopicPartitionList::new();
        for (partition, start) in chosen {
            if let Some(why) = start.why {
                self.report(partition, why, start.lost);
                if why == Why::MadeAgain {
                    self.forget(partition);
                }
            }
            starts.add_partition_offset(&self.topic, partition, Offset::Offset(start.offset))?;
        }
        consumer.incremental_unassign(&wanted)?;
        consumer.incremental_assign(&starts)
    }

    /// The topic has another id than before: all of it is read from its first record.
    ///
    /// # Errors
    /// When librdkafka does not take the assignment; to be tried again.
    pub(super) fn made_again(&self, consumer: &BaseConsumer<Self>, id: String) -> KafkaResult<()> {
        let positions = consumer.position()?;
        let mut wanted = TopicPartitionList::new();
        let mut starts = TopicPartitionList::new();
        for partition in self.assignment.partitions() {
            let position = positions.find_partition(&self.topic, partition);
            let next = position.and_then(|element| offset(element.offset()));
            let lost = next.and_then(|next| self.known().unread(partition, next));
            self.report(partition, Why::MadeAgain, lost);
            self.forget(partition);
            wanted.add_partition(&self.topic, partition);
            starts.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        consumer.incremental_unassign(&wanted)?;
        consumer.incremental_assign(&starts)?;
        self.known().topic_id = Some(id);
        Ok(())
    }

    /// What was written of a partition's old log says nothing about its new one.
    fn forget(&self, partition: i32) {
        self.known().forget(partition);
        self.progress.forget(&self.topic, partition);
        self.lag.forget(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_never_passes_over_records_without_saying_so() {
        let start = |next, low, high, end| {
            let start = super::start(next, low, high, end);
            (start.offset, start.why, start.lost)
        };
        assert_eq!(start(None, 7, 9, None), (7, Some(Why::NoOffset), None));
        assert_eq!(start(Some(3), 7, 9, Some(9)), (7, Some(Why::Retention), Some((3, 7))));
        assert_eq!(start(Some(20), 0, 9, Some(25)), (0, Some(Why::MadeAgain), Some((20, 25))));
        assert_eq!(start(Some(20), 0, 9, None), (0, Some(Why::MadeAgain), None));
        assert_eq!(start(Some(20), 0, 9, Some(20)), (0, Some(Why::MadeAgain), None));
        assert_eq!(start(Some(5), 0, 9, Some(9)), (0, Some(Why::MadeAgain), None), "cut");
    }

    #[test]
    fn a_commit_counts_when_it_has_arrived() {
        let mut known = TopicState::default();
        assert_eq!(known.confirmed(0, -1_001), None);
        known.committed(0, 7);
        assert_eq!(known.confirmed(0, -1_001), Some(7));
        known.committed(0, 9);
        assert_eq!(known.confirmed(0, 7), Some(9));
        assert_eq!(known.confirmed(0, 9), None);
        assert_eq!(known.confirmed(0, 7), None, "somebody reset it");
        known.committed(0, 12);
        known.changed_hands(0);
        assert_eq!(known.confirmed(0, 9), None);
    }

    #[test]
    fn a_commit_has_the_epoch_of_the_record_before_it() {
        let mut known = TopicState::default();
        for (offset, epoch) in [(10, 1), (11, 1), (15, 2), (16, 2), (20, 3)] {
            known.epoch(0, offset, epoch);
        }
        assert_eq!(known.epoch_before(0, 10), None);
        assert_eq!(known.epoch_before(0, 12), Some(1));
        assert_eq!(known.epoch_before(0, 15), Some(1));
        assert_eq!(known.epoch_before(0, 16), Some(2));
        assert_eq!(known.epoch_before(0, 30), Some(3));
        assert_eq!(known.epoch_before(1, 30), None);
    }
}
