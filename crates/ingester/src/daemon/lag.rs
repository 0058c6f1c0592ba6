//! The lag of each partition, in records and in seconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

use crate::daemon::metrics::IngesterMetrics;
use crate::daemon::partition_state::Window;
use crate::kafka::PartitionEnd;
use crate::pipeline;
use crate::pipeline::ports::{AssignmentId, WrittenOffsets};
use crate::record::Record;

/// By partition, the timestamp in milliseconds of the first record of a batch.
pub(crate) type Oldest = BTreeMap<i32, i64>;

/// The written offsets of the topic, and the batches that are being written.
#[derive(Debug, Default)]
pub(crate) struct Lag(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    on_the_way: VecDeque<Oldest>,
    partitions: BTreeMap<i32, Partition>,
}

/// What is known of a partition.
#[derive(Debug, Default)]
struct Partition {
    /// The assignment of its start: offsets of an earlier assignment do not count.
    since: AssignmentId,
    /// The next offset to be written.
    written: Option<i64>,
    /// One more than the offset of the last record read.
    read: Option<i64>,
    window: Window,
    /// The next offset to be written as shown last, and the time since which it has not changed.
    shown: Option<(i64, Instant)>,
}

impl Lag {
    /// Takes in records that were read, ordered by partition.
    pub(crate) fn read(&self, records: &[Record]) {
        let by_partition =
            records.chunk_by(|one, next| one.position.partition == next.position.partition);
        let mut inner = self.0.lock();
        for last in by_partition.filter_map(<[Record]>::last) {
            inner.partition(last.position.partition).read = Some(last.position.offset + 1);
        }
    }

    /// A batch was sent to the database.
    pub(crate) fn sent(&self, oldest: Oldest) {
        self.0.lock().on_the_way.push_back(oldest);
    }

    /// The oldest batch in flight was written.
    pub(crate) fn written(&self, offsets: &WrittenOffsets) {
        let mut inner = self.0.lock();
        inner.on_the_way.pop_front();
        for (number, offset) in offsets.iter() {
            let partition = inner.partition(number);
            if offset.assignment >= partition.since {
                partition.written = Some(offset.next);
            }
        }
    }

    /// A partition is read from offset `next` on.
    pub(crate) fn start_at(&self, partition: i32, next: i64, assignment: AssignmentId) {
        let mut inner = self.0.lock();
        let partition = inner.partition(partition);
        (partition.since, partition.written, partition.read) = (assignment, Some(next), None);
    }

    /// Sets the lag metrics of the assigned partitions, and removes those of all others.
    pub(crate) fn show(&self, metrics: &IngesterMetrics, topic: &str, ends: &[PartitionEnd]) {
        let now = pipeline::now().as_micros() / 1_000;
        let (looked, paused) = (Instant::now(), metrics.paused.get() != 0);
        let mut inner = self.0.lock();
        for end in ends {
            let label = end.partition.to_string();
            let oldest = inner.on_the_way.iter().find_map(|oldest| oldest.get(&end.partition));
            let oldest = oldest.copied();
            let partition = inner.partition(end.partition);
            let (next, records) = partition.behind(end);
            let state = partition.window.look(looked, next, records, paused);
            metrics.partition_state.with_label_values(&[topic, &label]).set(state as i64);
            let since = match partition.shown {
                Some((position, since)) if position == next && records != 0 => since,
                // The time without records is no delay of the next one.
                _ => looked,
            };
            partition.shown = Some((next, since));
            let seconds = match oldest {
                _ if records == 0 => 0.0,
                Some(oldest) => now.saturating_sub(oldest).max(0) as f64 / 1_000.0,
                None => looked.duration_since(since).as_secs_f64(),
            };
            metrics.lag_records.with_label_values(&[topic, &label]).set(records);
            metrics.lag_seconds.with_label_values(&[topic, &label]).set(seconds);
        }
        let assigned: BTreeSet<i32> = ends.iter().map(|end| end.partition).collect();
        for (number, partition) in &mut inner.partitions {
            if partition.shown.is_none() || assigned.contains(number) {
                continue;
            }
            let label = number.to_string();
            // An error only means that there is no such series.
            let _ = metrics.lag_records.remove_label_values(&[topic, &label]);
            let _ = metrics.lag_seconds.remove_label_values(&[topic, &label]);
            let _ = metrics.partition_state.remove_label_values(&[topic, &label]);
            *partition = Partition { since: partition.since, ..Partition::default() };
        }
    }
}

impl Inner {
    fn partition(&mut self, number: i32) -> &mut Partition {
        self.partitions.entry(number).or_default()
    }
}

impl Partition {
    /// The next offset to be written, and the number of records from it to the end: -1, not 0, where the end is unknown.
    fn behind(&self, end: &PartitionEnd) -> (i64, i64) {
        let committed = if end.committed >= 0 { end.committed } else { end.start.max(0) };
        let next = self.written.unwrap_or(committed);
        let end = if end.is_read { Some(self.read.unwrap_or(next)) } else { end.end };
        (next, end.map_or(-1, |end| (end - next).max(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use service::metrics::Registry;

    use super::*;
    use crate::pipeline::tests::record;

    fn offsets(read: i64, assignment: u64) -> WrittenOffsets {
        let mut offsets = WrittenOffsets::default();
        offsets.include(&record(read).position, AssignmentId(assignment));
        offsets
    }

    /// An end at offset 10.
    fn end() -> PartitionEnd {
        PartitionEnd { partition: 0, end: Some(10), is_read: false, committed: 2, start: 0 }
    }

    #[test]
    fn lag_is_what_is_not_written_yet() {
        let metrics = IngesterMetrics::create(&Registry::new(), "test").unwrap();
        let lag = Lag::default();
        let shown = |end: PartitionEnd| {
            lag.show(&metrics, "t", &[end]);
            let records = metrics.lag_records.with_label_values(&["t", "0"]).get();
            let seconds = metrics.lag_seconds.with_label_values(&["t", "0"]).get();
            (records, seconds > 0.0)
        };
        assert_eq!(shown(end()), (8, false), "as committed, before anything is known");
        lag.start_at(0, 4, AssignmentId(1));
        assert_eq!(shown(end()), (6, false));
        lag.sent([(0, 1)].into());
        lag.sent([(0, 2)].into());
        assert_eq!(shown(end()), (6, true), "a batch is on its way");
        lag.written(&offsets(6, 1));
        assert_eq!(shown(end()), (3, true));
        lag.written(&offsets(9, 1));
        assert_eq!(shown(end()), (0, false));
        // Only readable records count: after the last one there is a transaction marker.
        lag.start_at(0, 4, AssignmentId(2));
        lag.read(&[record(7)]);
        assert_eq!(shown(PartitionEnd { is_read: true, ..end() }), (4, false));
    }

    #[test]
    fn the_time_without_records_is_no_delay_of_the_next_one() {
        let metrics = IngesterMetrics::create(&Registry::new(), "test").unwrap();
        let lag = Lag::default();
        lag.start_at(0, 10, AssignmentId(1));
        lag.show(&metrics, "t", &[end()]);
        let hour_ago = Instant::now() - Duration::from_secs(3_600);
        lag.0.lock().partition(0).shown = Some((10, hour_ago));
        lag.show(&metrics, "t", &[end()]);
        lag.show(&metrics, "t", &[PartitionEnd { end: Some(11), ..end() }]);
        let seconds = metrics.lag_seconds.with_label_values(&["t", "0"]).get();
        assert!(seconds < 1.0, "{seconds}");
    }

    #[test]
    fn a_write_that_outlives_its_assignment_does_not_move_the_lag() {
        let metrics = IngesterMetrics::create(&Registry::new(), "test").unwrap();
        let lag = Lag::default();
        lag.start_at(0, 2, AssignmentId(1));
        lag.sent(Oldest::new());
        lag.start_at(0, 8, AssignmentId(3));
        lag.written(&offsets(4, 1));
        lag.show(&metrics, "t", &[end()]);
        assert_eq!(metrics.lag_records.with_label_values(&["t", "0"]).get(), 2);
        lag.show(&metrics, "t", &[]);
        let series = metrics.lag_records.with_label_values(&["t", "0"]).get();
        assert_eq!(series, 0, "the series of a partition that is gone is removed");
    }
}
