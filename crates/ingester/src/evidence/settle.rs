//! Settling: evaluates publications again that new evidence can change, by reading the ingester's own partitions again
//! with the same loop (crates/enrich/README.md, Settling), so that no address needs to be stored. It commits nothing and
//! makes no dead letters: live ingest did that when it first read the records.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use enrich::ExitHistory;
use model::{Publication, Timestamp};
use parking_lot::Mutex;
use store::{Error, PublicationReader, PublicationTable, Retrying, Written};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::decode::FUTURE_TOLERANCE;
use crate::decode::rejection::Code;
use crate::evidence;
use crate::kafka::{self, SettledEvidence};
use crate::pipeline::batch::WrittenBatch;
use crate::pipeline::evaluate::{Evaluator, Outcome};
use crate::pipeline::ports::{BatchObserver, Evidence, RowStore};
use crate::pipeline::write::Writer;
use crate::pipeline::{BatchLimits, Ingest};
use crate::settings::Settings;

/// The delay before a failed pass is retried.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The evidence by which each assigned partition is settled, and the partitions that need a pass.
///
/// Each partition has its own evidence fingerprint. It is committed with the offset, so neither an assignment nor a
/// restart starts a pass while the lists are the same.
#[derive(Debug)]
pub(crate) struct SettledPartitions {
    history: watch::Receiver<Arc<ExitHistory>>,
    partitions: Mutex<BTreeMap<i32, Partition>>,
    /// The earliest publication that a change can concern since the evidence of the oldest batch that is not written yet,
    /// if a list older than the known evidence came. Locked before `partitions`.
    changed_from: Mutex<Option<Timestamp>>,
    /// The number of assignments so far.
    assignments: AtomicU64,
    notify: Notify,
}

/// The state of an assigned partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Partition {
    /// The fingerprint of the evidence by which it is settled, as far as possible. `None` from the moment at which rows
    /// within it are known that a restart with this fingerprint would miss, until a pass has evaluated them again.
    settled_by: Option<String>,
    /// The earliest publication that a newly found older list can concern. `None`: the pass starts at the oldest
    /// unsettled row.
    from: Option<Timestamp>,
    /// Rows were written that had been evaluated before the evidence changed, and no pass has begun since.
    has_older_rows: bool,
    /// The number of its assignment. Results of a pass for another assignment do not count.
    assignment: u64,
}

impl SettledPartitions {
    /// Starts without partitions. `history`: the present evidence.
    pub(crate) fn new(history: watch::Receiver<Arc<ExitHistory>>) -> Self {
        Self {
            history,
            partitions: Mutex::default(),
            changed_from: Mutex::default(),
            assignments: AtomicU64::new(0),
            notify: Notify::new(),
        }
    }

    /// The set of valid lists changed. `from`: the earliest publication that the change can concern, if a list older than
    /// the known evidence came.
    pub(crate) fn evidence_changed(&self, from: Option<Timestamp>) {
        let mut changed_from = self.changed_from.lock();
        *changed_from = earliest(*changed_from, from);
        for partition in self.partitions.lock().values_mut() {
            partition.begins_at(from);
        }
        self.notify.notify_one();
    }

    /// A batch was written, all earlier ones are. `oldest`: the evidence for its first record. If it is not the present
    /// one, a pass that began meanwhile may have missed these rows.
    fn written_with(&self, oldest: &Arc<ExitHistory>) {
        let mut changed_from = self.changed_from.lock();
        // New evidence is published before `changed_from` is set. What is not published yet sets it after this lock is released.
        if self.is_present(oldest) {
            *changed_from = None;
            return;
        }
        for partition in self.partitions.lock().values_mut() {
            (partition.has_older_rows, partition.settled_by) = (true, None);
            partition.begins_at(*changed_from);
        }
        self.notify.notify_one();
    }

    fn is_present(&self, history: &Arc<ExitHistory>) -> bool {
        Arc::ptr_eq(history, &*self.history.borrow())
    }

    /// Takes the partitions that are not settled by this evidence. None if it is no longer the present one, of which the
    /// loop is notified: a pass by it would take the start that a newer list has set.
    fn due(&self, history: &Arc<ExitHistory>, fingerprint: &str) -> BTreeMap<i32, Partition> {
        let mut partitions = self.partitions.lock();
        if !self.is_present(history) {
            return BTreeMap::new();
        }
        let due = partitions
            .iter_mut()
            .filter(|(_, partition)| partition.settled_by.as_deref() != Some(fingerprint));
        due.map(|(&number, partition)| {
            let taken = partition.clone();
            (partition.from, partition.has_older_rows) = (None, false);
            (number, taken)
        })
        .collect()
    }

    /// Marks the partitions as settled by this evidence, except those with a newer assignment, and those for which the
    /// next pass is known to have more to do.
    fn settled(&self, taken: &BTreeMap<i32, Partition>, fingerprint: &str) {
        self.each_of(taken, |partition, _| {
            if partition.from.is_none() && !partition.has_older_rows {
                partition.settled_by = Some(fingerprint.to_owned());
            }
        });
    }

    /// Makes the partitions due again, because the pass over them failed.
    fn put_back(&self, taken: &BTreeMap<i32, Partition>) {
        self.keep_due(taken);
        self.notify.notify_one();
    }

    /// Like [`Self::put_back`], but starts no pass.
    fn keep_due(&self, taken: &BTreeMap<i32, Partition>) {
        self.each_of(taken, |partition, taken| {
            partition.has_older_rows |= taken.has_older_rows;
            partition.begins_at(taken.from);
        });
    }

    fn each_of(
        &self,
        taken: &BTreeMap<i32, Partition>,
        mut act: impl FnMut(&mut Partition, &Partition),
    ) {
        let mut partitions = self.partitions.lock();
        for (number, taken) in taken {
            if let Some(partition) = partitions.get_mut(number)
                && partition.assignment == taken.assignment
            {
                act(partition, taken);
            }
        }
    }
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

impl Partition {
    fn begins_at(&mut self, from: Option<Timestamp>) {
        self.from = earliest(self.from, from);
        if from.is_some() {
            self.settled_by = None;
        }
    }
}

impl SettledEvidence for SettledPartitions {
    fn assigned(&self, partition: i32, has_history: bool, fingerprint: Option<&str>) {
        // Under the lock, so that a change that is not seen here concerns the partition when `evidence_changed` gets the lock.
        let mut partitions = self.partitions.lock();
        let history = self.history.borrow().clone();
        // Without history all of it is still to be evaluated, by this evidence or newer.
        let (settled_by, from) = if has_history {
            let epoch = Timestamp::from_micros(0);
            let since = fingerprint.map_or(Some(epoch), |known| history.differs_since(known));
            let settle_after = history.rules().settle_after;
            let from = since.map(|since| since.before(settle_after).max(epoch));
            (fingerprint.map(str::to_owned), from)
        } else {
            (history.fingerprint(), None)
        };
        let assignment = self.assignments.fetch_add(1, Ordering::Relaxed);
        let mut state = Partition { settled_by, assignment, ..Partition::default() };
        state.begins_at(from);
        partitions.insert(partition, state);
        self.notify.notify_one();
    }

    fn revoked(&self, partition: i32) {
        self.partitions.lock().remove(&partition);
    }

    fn fingerprint(&self, partition: i32) -> Option<String> {
        self.partitions.lock().get(&partition)?.settled_by.clone()
    }
}

/// The evidence of live ingest.
pub(crate) struct LiveEvidence {
    pub(crate) history: watch::Receiver<Arc<ExitHistory>>,
    pub(crate) settled: Arc<SettledPartitions>,
}

impl Evidence for LiveEvidence {
    fn has_changed(&self) -> bool {
        self.history.has_changed().unwrap_or(false)
    }

    fn current(&mut self) -> Arc<ExitHistory> {
        self.history.borrow_and_update().clone()
    }

    fn written_with(&self, oldest: &Arc<ExitHistory>) {
        self.settled.written_with(oldest);
    }
}

/// The inputs of a pass.
pub(crate) struct Settling {
    pub(crate) settings: Settings,
    pub(crate) settled: Arc<SettledPartitions>,
    pub(crate) evaluator: Evaluator,
    pub(crate) limits: BatchLimits,
    pub(crate) store: Arc<Retrying<dyn PublicationTable>>,
    pub(crate) rows: Arc<Retrying<dyn PublicationReader>>,
}

impl Settling {
    /// Runs the due passes, one at a time, until `stop` is cancelled.
    ///
    /// # Errors
    /// None: a failed pass is retried.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop.run_until_cancelled(self.settled.notify.notified()).await.is_some() {
            // Read before the ends of the partitions: later records are evaluated by this evidence or newer.
            let history = self.settled.history.borrow().clone();
            let Some(fingerprint) = history.fingerprint() else { continue };
            let due = self.settled.due(&history, &fingerprint);
            match stop.run_until_cancelled(self.pass(history, &due, &stop)).await {
                None => break,
                Some(Ok(done)) => {
                    let (left, read): (BTreeMap<_, _>, BTreeMap<_, _>) =
                        due.into_iter().partition(|(number, _)| done.left_out.contains(number));
                    let (refused, settled) =
                        read.into_iter().partition(|(number, _)| done.refused.contains(number));
                    self.settled.settled(&settled, &fingerprint);
                    // The database would refuse the same rows again: these wait for the next list or assignment.
                    self.settled.keep_due(&refused);
                    self.put_back_later(&left, &stop).await;
                }
                Some(Err(error)) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a settling pass failed; it is tried again"
                    );
                    self.put_back_later(&due, &stop).await;
                }
            }
        }
        Ok(())
    }

    async fn put_back_later(&self, due: &BTreeMap<i32, Partition>, stop: &CancellationToken) {
        if !due.is_empty() {
            let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await;
            self.settled.put_back(due);
        }
    }

    /// Runs one pass over these partitions.
    async fn pass(
        &self,
        history: Arc<ExitHistory>,
        due: &BTreeMap<i32, Partition>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Pass> {
        if due.is_empty() {
            return Ok(Pass::default());
        }
        let horizon = evidence::now().before(self.settings.tor.settle_horizon);
        // Older rows are left to replays, because a row that no list can settle would start a pass each time.
        let unsettled = self.store.oldest_unsettled(horizon).await?;
        let Some(start) = start_of(due, unsettled, horizon) else { return Ok(Pass::default()) };
        let partitions: Vec<i32> = due.keys().copied().collect();
        tracing::info!(%start, ?partitions, "settling: evaluating again with new evidence");
        let left_out = Arc::new(OnceLock::new());
        let settings = &self.settings;
        let stop = stop.child_token();
        let records = kafka::read_since(settings, partitions, start, left_out.clone(), stop)
            .map_err(kafka::refused)?;
        let (counts, changed) = <(Arc<PassCounts>, Arc<AtomicU64>)>::default();
        let rows = ChangedRows {
            rows: self.rows.clone(),
            store: self.store.clone(),
            changed: changed.clone(),
        };
        let ingest = Ingest {
            evaluator: Evaluator { history: history.clone(), ..self.evaluator.clone() },
            evidence: Box::new(history),
            writer: Arc::new(Writer { rows: Arc::new(rows), dead_letters: None }),
            observer: Box::new(counts.clone()),
            limits: self.limits,
        };
        ingest.start(records)?.await?;
        let records = counts.records.load(Ordering::Relaxed);
        let refused = std::mem::take(&mut *counts.refused.lock());
        let left_out = left_out.get().cloned().unwrap_or_default();
        let rows = changed.load(Ordering::Relaxed);
        tracing::info!(records, rows, ?refused, without_leader = ?left_out, "settling: done");
        Ok(Pass { left_out, refused })
    }
}

/// The partitions that a pass did not settle.
#[derive(Default)]
struct Pass {
    /// They have no leader.
    left_out: Vec<i32>,
    /// The database refused one of their rows.
    refused: BTreeSet<i32>,
}

/// The time of the first record of a pass, not before the horizon. `None` if new evidence cannot change any publication.
fn start_of(
    due: &BTreeMap<i32, Partition>,
    unsettled: Option<Timestamp>,
    horizon: Timestamp,
) -> Option<Timestamp> {
    let from = due.values().filter_map(|partition| partition.from);
    Some(from.chain(unsettled).min()?.before(FUTURE_TOLERANCE).max(horizon))
}

/// The records that a pass has read, and the partitions of the rows that the database refused.
#[derive(Default)]
struct PassCounts {
    records: AtomicU64,
    refused: Mutex<BTreeSet<i32>>,
}

impl BatchObserver for Arc<PassCounts> {
    fn evaluated(&mut self, _: &Outcome) -> ControlFlow<()> {
        self.records.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    }

    fn written(&mut self, written: &WrittenBatch) {
        let rejected = written.batch.rejected.iter();
        let refused = rejected.filter(|(rejection, _)| rejection.code == Code::RefusedByStore);
        self.refused.lock().extend(refused.map(|(_, record)| record.position.partition));
    }
}

/// The table for a pass: it writes only rows whose verdict, reason or `tor_settled` changes. A missing row is not
/// inserted: live ingest will write it, or it was deleted.
struct ChangedRows {
    rows: Arc<Retrying<dyn PublicationReader>>,
    store: Arc<dyn RowStore>,
    changed: Arc<AtomicU64>,
}

#[async_trait]
impl RowStore for ChangedRows {
    async fn write(&self, rows: &[Publication]) -> Result<Written, Error> {
        let ids: Vec<_> = rows.iter().map(|incoming| incoming.id.clone()).collect();
        let there = self.rows.find(&ids).await?;
        let (places, changed): (Vec<usize>, Vec<Publication>) = rows
            .iter()
            .zip(there)
            .enumerate()
            .filter(|(_, (incoming, row))| {
                row.as_ref().is_some_and(|row| changes_verdict(row, incoming))
            })
            .map(|(place, (incoming, _))| (place, incoming.clone()))
            .unzip();
        if changed.is_empty() {
            return Ok(Written::default());
        }
        let mut written = self.store.write(&changed).await?;
        let count = written.recorded.inserted + written.recorded.updated;
        self.changed.fetch_add(count, Ordering::Relaxed);
        written.refused.iter_mut().for_each(|refused| refused.place = places[refused.place]);
        Ok(written)
    }

    fn is_serial(&self) -> bool {
        self.store.is_serial()
    }
}

/// Whether merging the new publication changes the row's verdict, reason or `tor_settled` about Tor.
fn changes_verdict(row: &Publication, incoming: &Publication) -> bool {
    let verdict = |row: &Publication| (row.info.tor, row.info.tor_reason, row.info.tor_settled);
    verdict(&row.clone().merge(incoming.clone())) != verdict(row)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use enrich::{TorRules, format};

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    /// A history with lists of these hours.
    fn history(hours: &[i64]) -> Arc<ExitHistory> {
        let mut update = ExitHistory::new(TorRules::default()).update();
        let text = testkit::exit_list_of(60);
        for &hour in hours {
            let time = Timestamp::from_micros(hour * HOUR);
            let list = format::snapshot(text.as_bytes(), time).unwrap();
            update.snapshot(&list, Path::new(&hour.to_string()));
        }
        Arc::new(update.finish(Timestamp::from_micros(1_000 * HOUR)).0)
    }

    fn fingerprint_of(history: &ExitHistory) -> String {
        history.fingerprint().unwrap()
    }

    fn take(settled: &SettledPartitions, history: &Arc<ExitHistory>) -> BTreeMap<i32, Partition> {
        settled.due(history, &fingerprint_of(history))
    }

    fn due(
        settled: &SettledPartitions,
        history: &Arc<ExitHistory>,
    ) -> Vec<(i32, Option<Timestamp>)> {
        take(settled, history).iter().map(|(&number, one)| (number, one.from)).collect()
    }

    /// Runs a pass over the due partitions, which it settles by this evidence.
    fn pass(settled: &SettledPartitions, history: &Arc<ExitHistory>) {
        settled.settled(&take(settled, history), &fingerprint_of(history));
    }

    #[test]
    fn an_assignment_under_the_same_evidence_needs_no_pass() {
        let known = history(&[10, 20]);
        let (shown, evidence) = watch::channel(known.clone());
        let settled = SettledPartitions::new(evidence);
        settled.assigned(0, true, Some(&fingerprint_of(&known)));
        settled.assigned(1, false, None);
        assert_eq!(due(&settled, &known), []);
        assert_eq!(settled.fingerprint(0), Some(fingerprint_of(&known)));
        // Another member's partition is assigned too, and the own one again.
        settled.assigned(0, true, Some(&fingerprint_of(&known)));
        assert_eq!(due(&settled, &known), []);

        // With newer lists the oldest unsettled row is the start; after unknown lists everything is read.
        let newer = history(&[10, 20, 30]);
        shown.send_replace(newer.clone());
        settled.assigned(2, true, None);
        settled.assigned(3, true, Some(&fingerprint_of(&history(&[10, 15, 20]))));
        let everything = Some(Timestamp::from_micros(0));
        let expected = [(0, None), (1, None), (2, everything), (3, everything)];
        assert_eq!(due(&settled, &newer), expected);
    }

    #[test]
    fn what_a_failed_pass_took_is_due_again_and_a_new_assignment_is_not_settled_by_an_old_pass() {
        let known = history(&[10]);
        let (_shown, evidence) = watch::channel(known.clone());
        let settled = SettledPartitions::new(evidence);
        settled.assigned(0, true, None);
        let taken = take(&settled, &known);
        settled.put_back(&taken);
        assert_eq!(take(&settled, &known), taken);
        settled.settled(&taken, &fingerprint_of(&known));
        assert_eq!(due(&settled, &known), []);

        settled.assigned(0, true, None);
        settled.settled(&taken, &fingerprint_of(&known));
        assert_eq!(settled.fingerprint(0), None);
    }

    /// One partition, settled by lists of the hours 10 and 20.
    fn one_settled() -> (Arc<ExitHistory>, watch::Sender<Arc<ExitHistory>>, SettledPartitions) {
        let known = history(&[10, 20]);
        let (shown, evidence) = watch::channel(known.clone());
        let settled = SettledPartitions::new(evidence);
        settled.assigned(0, true, Some(&fingerprint_of(&known)));
        (known, shown, settled)
    }

    #[test]
    fn rows_of_older_evidence_are_read_again_from_all_that_changed_since() {
        let (known, shown, settled) = one_settled();
        let from = Timestamp::from_micros(5 * HOUR);
        let with_older = history(&[10, 15, 20]);
        shown.send_replace(with_older.clone());
        settled.evidence_changed(Some(from));
        pass(&settled, &with_older);
        let newer = history(&[10, 15, 20, 30]);
        shown.send_replace(newer.clone());
        settled.evidence_changed(None);
        pass(&settled, &newer);
        assert_eq!(due(&settled, &newer), []);
        // Both passes skipped the rows of this batch, which were missing.
        settled.written_with(&known);
        assert_eq!(due(&settled, &newer), [(0, Some(from))]);
        // No batch is older than the evidence any more: a later change reads again from the oldest unsettled row.
        settled.written_with(&newer);
        pass(&settled, &newer);
        let newest = history(&[10, 15, 20, 30, 40]);
        shown.send_replace(newest.clone());
        settled.evidence_changed(None);
        settled.written_with(&newer);
        assert_eq!(due(&settled, &newest), [(0, None)]);
    }

    #[test]
    fn a_pass_by_evidence_that_was_replaced_takes_nothing() {
        let (known, shown, settled) = one_settled();
        settled.assigned(1, true, None);
        let with_older = history(&[10, 15, 20]);
        shown.send_replace(with_older.clone());
        let from = Some(Timestamp::from_micros(5 * HOUR));
        settled.evidence_changed(from);
        assert_eq!(due(&settled, &known), []);
        let everything = Some(Timestamp::from_micros(0));
        assert_eq!(due(&settled, &with_older), [(0, from), (1, everything)]);
    }

    #[test]
    fn a_pass_starts_five_minutes_before_the_earliest_publication_but_not_before_the_horizon() {
        let minute = |minute: i64| Timestamp::from_micros(minute * HOUR / 60);
        let start = |from: &[Option<i64>], unsettled: Option<i64>| {
            let partition =
                |from: &Option<i64>| Partition { from: from.map(minute), ..Partition::default() };
            let due = (0..).zip(from.iter().map(partition)).collect();
            start_of(&due, unsettled.map(minute), minute(100))
        };
        assert_eq!(start(&[None, None], None), None);
        assert_eq!(start(&[None, None], Some(300)), Some(minute(295)));
        assert_eq!(start(&[None, Some(200), Some(250)], Some(300)), Some(minute(195)));
        assert_eq!(start(&[Some(200)], Some(150)), Some(minute(145)));
        // Older records are left to replays.
        assert_eq!(start(&[None], Some(104)), Some(minute(100)));
        assert_eq!(start(&[Some(0)], Some(300)), Some(minute(100)));
    }

    #[test]
    fn a_stop_before_the_end_of_a_pass_loses_nothing() {
        let (known, shown, settled) = one_settled();
        let newer = history(&[10, 20, 30]);
        shown.send_replace(newer.clone());
        settled.evidence_changed(None);
        // A restart would begin at the oldest unsettled row too.
        assert_eq!(settled.fingerprint(0), Some(fingerprint_of(&known)));
        pass(&settled, &newer);
        assert_eq!(settled.fingerprint(0), Some(fingerprint_of(&newer)));

        // Rows of older evidence that come within a pass are left to the next.
        settled.written_with(&known);
        assert_eq!(settled.fingerprint(0), None);
        let taken = take(&settled, &newer);
        assert_eq!(settled.fingerprint(0), None);
        settled.written_with(&known);
        settled.settled(&taken, &fingerprint_of(&newer));
        assert_eq!(settled.fingerprint(0), None);
        pass(&settled, &newer);
        assert_eq!(settled.fingerprint(0), Some(fingerprint_of(&newer)));

        // So does an older list.
        let older = history(&[10, 15, 20, 30]);
        shown.send_replace(older.clone());
        settled.evidence_changed(Some(Timestamp::from_micros(0)));
        assert_eq!(settled.fingerprint(0), None);
        let taken = take(&settled, &older);
        settled.put_back(&taken);
        assert_eq!(settled.fingerprint(0), None);
        pass(&settled, &older);
        assert_eq!(settled.fingerprint(0), Some(fingerprint_of(&older)));
    }
}
