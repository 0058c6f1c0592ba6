//! Skips a batch that cannot be read.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::callbacks::Context;
use super::start_offsets::{Facts, Gap, GapCause, LogPosition, Start};
use super::state::{Reading, StartAttempt};
use crate::kafka::probe::{Probe, Unreadable};

impl Context {
    /// Finds the partitions of the unreadable batches and restarts each after its batch. Without an answer the partitions that may
    /// have the batch are read again from their positions, so that librdkafka reports it again and reads nothing after it.
    pub(super) fn skip_unreadable(&self, consumer: &BaseConsumer<Self>, probe: &ClientConfig) {
        let (unreadable, read) = {
            let mut state = self.state();
            let unreadable = std::mem::take(&mut state.unreadable);
            let read = state.partitions.iter().filter(|(_, owned)| owned.reading == Reading::Reads);
            let read: Vec<(i32, i64)> =
                read.filter_map(|(&number, owned)| Some((number, owned.next_offset()?))).collect();
            (unreadable, read)
        };
        for batch in unreadable {
            let found = Probe::open(probe, &self.topic)
                .and_then(|probe| probe.find(batch, read.clone(), || self.observer.polled()));
            match found {
                Ok(Some(found)) => self.start_after_batch(consumer, &found),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, batch, "a batch cannot be read, and its end is not known yet");
                    self.read_again(consumer, read.iter().filter(|(_, next)| *next <= batch));
                }
            }
        }
    }

    /// Pauses partitions; the offsets do not matter. `false` if librdkafka fails, which ends the run.
    fn pause(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: impl IntoIterator<Item = (i32, i64)>,
    ) -> bool {
        let list = self.list(partitions);
        self.fatal(list.and_then(|list| consumer.pause(&list))).is_some()
    }

    /// Restarts partitions at the offsets up to which they are read.
    fn read_again<'p>(
        &self,
        consumer: &BaseConsumer<Self>,
        read: impl Iterator<Item = &'p (i32, i64)> + Clone,
    ) {
        if !self.pause(consumer, read.clone().copied()) {
            return;
        }
        let mut state = self.state();
        for &(partition, offset) in read {
            let epoch = state.log(partition).epoch_before(offset);
            if let Some(owned) = state.partitions.get_mut(&partition) {
                owned.reading = Reading::Starts(LogPosition { offset, epoch }, StartAttempt::new());
            }
        }
    }

    fn start_after_batch(&self, consumer: &BaseConsumer<Self>, found: &Unreadable) {
        let partition = found.partition;
        if !self.pause(consumer, [(partition, 0)]) {
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
        let range = Some((found.offsets.start, found.offsets.end));
        let gap = Some(Gap { cause: GapCause::Unreadable, range });
        let position = LogPosition::unproved(found.offsets.end);
        self.start(
            consumer,
            partition,
            &facts,
            Start { position, gap, other_log: false, note: None },
        );
    }
}
