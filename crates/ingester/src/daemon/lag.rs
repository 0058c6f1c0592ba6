//! The lag of each partition, in records and in seconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use crate::daemon::metrics::IngesterMetrics;
use crate::daemon::partition_state::Window;
use crate::kafka::PartitionEnd;
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
    /// By partition, the next offset and the last written record's timestamp.
    written: BTreeMap<i32, (i64, i64)>,
    /// By partition, the assignment of its start: offsets of an earlier assignment do not count.
    since: BTreeMap<i32, AssignmentId>,
    /// By partition, one more than the offset of the last record read.
    read: BTreeMap<i32, i64>,
    shown: BTreeSet<i32>,
    windows: BTreeMap<i32, Window>,
    /// By partition, the next offset to be written, and the time since which it has not changed.
    positions: BTreeMap<i32, (i64, Instant)>,
}

impl Lag {
    /// Takes in records that were read, ordered by partition.
    pub(crate) fn read(&self, records: &[Record]) {
        let by_partition =
            records.chunk_by(|one, next| one.position.partition == next.position.partition);
        let mut inner = self.0.lock();
        for last in by_partition.filter_map(<[Record]>::last) {
            inner.read.insert(last.position.partition, last.position.offset + 1);
        }
    }

    /// A batch was sent to the database.
    pub(crate) fn sent(&self, oldest: Oldest) {
        self.0.lock().on_the_way.push_back(oldest);
    }

    /// The oldest batch in flight was written.
    pub(crate) fn written(&self, offsets: &WrittenOffsets) {
        let mut inner = self.0.lock();
        let oldest = inner.on_the_way.pop_front().unwrap_or_default();
        for (partition, offset) in offsets.iter() {
            if inner.since.get(&partition).is_some_and(|&since| offset.assignment < since) {
                continue;
            }
            let last = oldest.get(&partition).copied().unwrap_or(i64::MAX);
            inner.written.insert(partition, (offset.next, last));
        }
    }

    /// A partition is read from offset `next` on.
    pub(crate) fn start_at(&self, partition: i32, next: i64, assignment: AssignmentId) {
        let mut inner = self.0.lock();
        inner.since.insert(partition, assignment);
        inner.written.insert(partition, (next, i64::MAX));
        inner.read.remove(&partition);
    }

    /// Forgets the offsets of a partition that reads another log now.
    pub(crate) fn forget(&self, partition: i32) {
        let mut inner = self.0.lock();
        inner.written.remove(&partition);
        inner.read.remove(&partition);
    }

    /// Sets the lag metrics of the assigned partitions, and removes those of all others.
    pub(crate) fn show(&self, metrics: &IngesterMetrics, topic: &str, ends: &[PartitionEnd]) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let (looked, paused) = (Instant::now(), metrics.paused.get() != 0);
        let mut inner = self.0.lock();
        for end in ends {
            let label = end.partition.to_string();
            let (next, records, oldest) = inner.behind(end);
            let window = inner.windows.entry(end.partition).or_default();
            let state = window.look(looked, next, records, paused);
            metrics.partition_state.with_label_values(&[topic, &label]).set(state as i64);
            if records == 0 {
                // The time without records is no delay of the next one.
                inner.positions.remove(&end.partition);
            }
            let unchanged = inner.unchanged_for(end.partition, next, looked);
            let seconds = oldest
                .map_or(unchanged, |oldest| now.saturating_sub(oldest).max(0) as f64 / 1_000.0);
            let seconds = if records == 0 { 0.0 } else { seconds };
            metrics.lag_records.with_label_values(&[topic, &label]).set(records);
            metrics.lag_seconds.with_label_values(&[topic, &label]).set(seconds);
        }
        let assigned: BTreeSet<i32> = ends.iter().map(|end| end.partition).collect();
        for gone in inner.shown.difference(&assigned) {
            let label = gone.to_string();
            // An error only means that there is no such series.
            let _ = metrics.lag_records.remove_label_values(&[topic, &label]);
            let _ = metrics.lag_seconds.remove_label_values(&[topic, &label]);
            let _ = metrics.partition_state.remove_label_values(&[topic, &label]);
        }
        let Inner { shown, written, read, windows, positions, .. } = &mut *inner;
        for gone in shown.difference(&assigned) {
            written.remove(gone);
            read.remove(gone);
            windows.remove(gone);
            positions.remove(gone);
        }
        inner.shown = assigned;
    }
}

impl Inner {
    /// How many seconds ago the next offset to be written changed last.
    fn unchanged_for(&mut self, partition: i32, next: i64, now: Instant) -> f64 {
        let (position, since) = self.positions.entry(partition).or_insert((next, now));
        if *position != next {
            (*position, *since) = (next, now);
        }
        now.duration_since(*since).as_secs_f64()
    }

    /// The next offset to be written, the number of records from it to the end, and the timestamp of the oldest record
    /// that was read but not written. The number is -1, not 0, where the end is unknown.
    fn behind(&self, end: &PartitionEnd) -> (i64, i64, Option<i64>) {
        let written = self.written.get(&end.partition);
        let next = written.map_or(
            if end.committed >= 0 { end.committed } else { end.start.max(0) },
            |&(next, _)| next,
        );
        let on_the_way =
            self.on_the_way.iter().find_map(|oldest| oldest.get(&end.partition)).copied();
        let last_read = self.read.get(&end.partition).copied().unwrap_or(next);
        let end = if end.is_read { Some(last_read) } else { end.end };
        (next, end.map_or(-1, |end| (end - next).max(0)), on_the_way)
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
        lag.0.lock().positions.insert(0, (10, Instant::now() - Duration::from_secs(3_600)));
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
