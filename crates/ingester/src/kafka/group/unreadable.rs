//! Skips a batch that cannot be read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::callbacks::Context;
use super::start_offsets::{Facts, Gap, GapCause, LogPosition, Start};
use super::state::{Partition, PollState, Reading};
use crate::kafka::probe::{Probe, Unreadable};

/// The pause before a batch is looked for again whose partition did not answer.
const FIND_AGAIN: Duration = Duration::from_secs(10);

impl PollState {
    /// The batches to find now, each with how far the partitions were read when librdkafka reported it, without partitions that
    /// are no longer read here.
    pub(super) fn batches_to_find(&mut self) -> BTreeMap<i64, Vec<(i32, i64)>> {
        if self.unreadable.is_empty() && self.unfound.is_empty() {
            return BTreeMap::new();
        }
        let reading = self.partitions.iter().filter(|(_, owned)| owned.reading == Reading::Reads);
        let read: BTreeMap<i32, i64> =
            reading.filter_map(|(&number, owned)| Some((number, owned.next_offset()?))).collect();
        let mut batches = BTreeMap::new();
        if self.find_again.is_none_or(|at| at <= Instant::now()) {
            batches = std::mem::take(&mut self.unfound);
            for places in batches.values_mut() {
                places.retain(|(number, _)| read.contains_key(number));
            }
        }
        for batch in std::mem::take(&mut self.unreadable) {
            batches.entry(batch).or_insert_with(|| read.clone().into_iter().collect());
        }
        batches
    }
}

impl Context {
    /// Finds the partitions of the unreadable batches and restarts each after its batch.
    pub(super) fn pass_unreadable(&self, consumer: &BaseConsumer<Self>, probe: &ClientConfig) {
        let batches = self.state().batches_to_find();
        for (batch, read) in batches {
            let found = Probe::open(probe, &self.topic)
                .and_then(|probe| probe.find(batch, read.clone(), || self.observer.polled()));
            match found {
                Ok(Some(found)) => self.pass(consumer, &found),
                Ok(None) => {}
                // librdkafka reads on behind the batch by itself, so it may never report it again.
                Err(error) => {
                    tracing::warn!(%error, batch, "a batch cannot be read, and its end is not known yet");
                    let mut state = self.state();
                    state.unfound.insert(batch, read);
                    state.find_again = Some(Instant::now() + FIND_AGAIN);
                }
            }
        }
    }

    pub(super) fn pass(&self, consumer: &BaseConsumer<Self>, found: &Unreadable) {
        let next = self.state().partitions.get(&found.partition).and_then(Partition::next_offset);
        if next.is_none_or(|next| next < found.offsets.end) {
            self.start_behind(consumer, found);
        } else {
            self.report(found.partition, gap(found));
        }
    }

    fn start_behind(&self, consumer: &BaseConsumer<Self>, found: &Unreadable) {
        let partition = found.partition;
        let list = self.list([(partition, 0)]);
        if self.fatal(list.and_then(|list| consumer.pause(&list))).is_none() {
            return;
        }
        let (topic_id, settled_by) = {
            let mut state = self.state();
            let settled_by =
                state.partitions.get(&partition).and_then(|owned| owned.settled_by.clone());
            (state.log(partition).topic_id.clone(), settled_by)
        };
        let mut facts = Facts { topic_id, ..Facts::default() };
        facts.position = Some(LogPosition::unproved(found.next));
        facts.metadata.settled_by = settled_by;
        let gap = Some(gap(found));
        let position = LogPosition::unproved(found.offsets.end);
        self.start(
            consumer,
            partition,
            &facts,
            Start { position, gap, other_log: false, note: None },
        );
    }
}

fn gap(found: &Unreadable) -> Gap {
    let range = Some((found.offsets.start, found.offsets.end));
    Gap { cause: GapCause::Unreadable, range }
}
