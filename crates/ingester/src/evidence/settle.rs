//! Settling: evaluates publications again that new evidence can change, by reading the ingester's own partitions again
//! with the same loop (crates/enrich/README.md, Settling), so that no address needs to be stored. It commits nothing and
//! makes no dead letters: live ingest did that when it first read the records.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use enrich::ExitHistory;
use model::{Publication, Timestamp};
use store::{Error, PublicationReader, PublicationTable, Written};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::evidence;
use crate::kafka::{self, SettledEvidence};
use crate::pipeline::batch::WrittenBatch;
use crate::pipeline::evaluate::{Evaluator, Outcome};
use crate::pipeline::ports::{BatchObserver, Evidence, RowStore};
use crate::pipeline::write::Writer;
use crate::pipeline::{BatchLimits, Ingest};
use crate::settings::Settings;

/// The largest difference between T and the record's timestamp, by the rule of `future_time`.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
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
    /// The earliest publication that the latest change can concern, if a list older than the known evidence came.
    last_change: Mutex<Option<Timestamp>>,
    /// The number of assignments so far.
    assignments: AtomicU64,
    notify: Notify,
}

/// The state of an assigned partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Partition {
    /// The fingerprint of the evidence by which it is settled, as far as possible.
    settled_by: Option<String>,
    /// The earliest publication that a newly found older list can concern. `None`: the pass starts at the oldest
    /// unsettled row.
    from: Option<Timestamp>,
    /// Rows were written that had been evaluated before the evidence changed.
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
            last_change: Mutex::default(),
            assignments: AtomicU64::new(0),
            notify: Notify::new(),
        }
    }

    /// The set of valid lists changed. `from`: the earliest publication that the change can concern, if a list older than
    /// the known evidence came.
    pub(crate) fn evidence_changed(&self, from: Option<Timestamp>) {
        *self.lock_last_change() = from;
        for partition in self.lock().values_mut() {
            partition.begins_at(from);
        }
        self.notify.notify_one();
    }

    /// Rows were written that had been evaluated before the evidence changed: a pass that began meanwhile may have missed
    /// them.
    fn written_with_older_evidence(&self) {
        let from = *self.lock_last_change();
        for partition in self.lock().values_mut() {
            partition.has_older_rows = true;
            partition.begins_at(from);
        }
        self.notify.notify_one();
    }

    fn add(&self, number: i32, settled_by: Option<String>, from: Option<Timestamp>) {
        let assignment = self.assignments.fetch_add(1, Ordering::Relaxed);
        let partition = Partition { settled_by, from, has_older_rows: false, assignment };
        self.lock().insert(number, partition);
        self.notify.notify_one();
    }

    /// Takes the partitions that are not settled by this evidence.
    fn due(&self, fingerprint: &str) -> BTreeMap<i32, Partition> {
        let mut partitions = self.lock();
        // A list that was corrected and has as many addresses as before has the same fingerprint, and is a start of its own.
        let due = partitions.iter_mut().filter(|(_, partition)| {
            partition.has_older_rows
                || partition.from.is_some()
                || partition.settled_by.as_deref() != Some(fingerprint)
        });
        due.map(|(&number, partition)| {
            let taken = partition.clone();
            (partition.from, partition.has_older_rows) = (None, false);
            (number, taken)
        })
        .collect()
    }

    /// Marks the partitions as settled by this evidence, except those with a newer assignment.
    fn settled(&self, taken: &BTreeMap<i32, Partition>, fingerprint: &str) {
        self.each_of(taken, |partition, _| partition.settled_by = Some(fingerprint.to_owned()));
    }

    /// Makes the partitions due again, because the pass over them failed.
    fn put_back(&self, taken: &BTreeMap<i32, Partition>) {
        self.each_of(taken, |partition, taken| {
            partition.has_older_rows |= taken.has_older_rows;
            partition.begins_at(taken.from);
        });
        self.notify.notify_one();
    }

    fn each_of(
        &self,
        taken: &BTreeMap<i32, Partition>,
        mut act: impl FnMut(&mut Partition, &Partition),
    ) {
        let mut partitions = self.lock();
        for (number, taken) in taken {
            if let Some(partition) = partitions.get_mut(number)
                && partition.assignment == taken.assignment
            {
                act(partition, taken);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_last_change(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.last_change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition {
    fn begins_at(&mut self, from: Option<Timestamp>) {
        self.from = self.from.into_iter().chain(from).min();
    }
}

impl SettledEvidence for SettledPartitions {
    fn assigned(&self, partition: i32, has_history: bool, fingerprint: Option<&str>) {
        if !has_history {
            // All of it is still to be evaluated, by this evidence or newer.
            let newest = self.history.borrow().fingerprint();
            return self.add(partition, newest, None);
        }
        // A list that was unknown then may be older than the newest known one, and concern settled publications.
        let is_known = fingerprint.is_some_and(|known| self.history.borrow().extends(known));
        let from = (!is_known).then(|| Timestamp::from_micros(0));
        self.add(partition, fingerprint.map(str::to_owned), from);
    }

    fn revoked(&self, partition: i32) {
        self.lock().remove(&partition);
    }

    fn fingerprint(&self, partition: i32) -> Option<String> {
        self.lock().get(&partition)?.settled_by.clone()
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
        if !Arc::ptr_eq(oldest, &*self.history.borrow()) {
            self.settled.written_with_older_evidence();
        }
    }
}

/// The inputs of a pass.
pub(crate) struct Settling {
    pub(crate) settings: Settings,
    pub(crate) settled: Arc<SettledPartitions>,
    pub(crate) evaluator: Evaluator,
    pub(crate) limits: BatchLimits,
    pub(crate) table: Arc<dyn PublicationTable>,
    /// Waits for the database, like `table` and `rows`.
    pub(crate) store: Arc<dyn RowStore>,
    pub(crate) rows: Arc<dyn PublicationReader>,
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
            let due = self.settled.due(&fingerprint);
            match stop.run_until_cancelled(self.pass(history, &due, &stop)).await {
                None => break,
                Some(Ok(left_out)) => {
                    let is_left = |number: &i32| left_out.contains(number);
                    let (left, settled) = due.into_iter().partition(|(number, _)| is_left(number));
                    self.settled.settled(&settled, &fingerprint);
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

    /// Returns the partitions that were left out because they have no leader.
    async fn pass(
        &self,
        history: Arc<ExitHistory>,
        due: &BTreeMap<i32, Partition>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<i32>> {
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let horizon = evidence::now().before(self.settings.tor.settle_horizon);
        // Older rows are left to replays, because a row that no list can settle would start a pass each time.
        let unsettled = self.table.oldest_unsettled(horizon).await?;
        let from = due.values().filter_map(|partition| partition.from);
        let Some(start) = from.chain(unsettled).min() else { return Ok(Vec::new()) };
        let start = start.before(TOLERANCE).max(horizon);
        let partitions: Vec<i32> = due.keys().copied().collect();
        tracing::info!(%start, ?partitions, "settling: evaluating again with new evidence");
        let left_out = Arc::new(OnceLock::new());
        let settings = &self.settings;
        let stop = stop.child_token();
        let records = kafka::read_since(settings, partitions, start, left_out.clone(), stop)
            .map_err(kafka::refused)?;
        let (read, changed) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let rows = ChangedRows {
            rows: self.rows.clone(),
            store: self.store.clone(),
            changed: changed.clone(),
        };
        let ingest = Ingest {
            evaluator: Evaluator { history: history.clone(), ..self.evaluator.clone() },
            evidence: Box::new(history),
            writer: Arc::new(Writer { rows: Arc::new(rows), dead_letters: None }),
            observer: Box::new(RecordCount(read.clone())),
            limits: self.limits,
        };
        ingest.start(records)?.await?;
        let (records, rows) = (read.load(Ordering::Relaxed), changed.load(Ordering::Relaxed));
        let left_out = left_out.get().cloned().unwrap_or_default();
        tracing::info!(records, rows, without_leader = ?left_out, "settling: done");
        Ok(left_out)
    }
}

/// Counts the records of a pass.
struct RecordCount(Arc<AtomicU64>);

impl BatchObserver for RecordCount {
    fn evaluated(&mut self, _: &Outcome) -> ControlFlow<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    }

    fn written(&mut self, _: &WrittenBatch) {}
}

/// The table for a pass: it writes only rows whose verdict, reason or `tor_settled` changes. A missing row is not
/// inserted: live ingest will write it, or it was deleted.
struct ChangedRows {
    rows: Arc<dyn PublicationReader>,
    store: Arc<dyn RowStore>,
    changed: Arc<AtomicU64>,
}

#[async_trait]
impl RowStore for ChangedRows {
    async fn write(&self, rows: &[Publication]) -> Result<Written, Error> {
        let ids: Vec<_> = rows.iter().map(|incoming| incoming.id.clone()).collect();
        let there = self.rows.find(&ids).await?;
        let changed: Vec<Publication> = rows
            .iter()
            .zip(there)
            .filter(|(incoming, row)| {
                row.as_ref().is_some_and(|row| changes_verdict(row, incoming))
            })
            .map(|(incoming, _)| incoming.clone())
            .collect();
        if changed.is_empty() {
            return Ok(Written::default());
        }
        let written = self.store.write(&changed).await?;
        let count = written.recorded.inserted + written.recorded.updated;
        self.changed.fetch_add(count, Ordering::Relaxed);
        // The indexes of refused rows are those of `changed`; the pass makes no dead letters.
        Ok(Written { refused: Vec::new(), ..written })
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
        let addresses: Vec<String> = (1..=60).map(|last| format!("185.220.100.{last}")).collect();
        for &hour in hours {
            let time = Timestamp::from_micros(hour * HOUR);
            let list = format::snapshot(addresses.join("\n").as_bytes(), time).unwrap();
            update.snapshot(&list, Path::new(&hour.to_string()));
        }
        Arc::new(update.finish(Timestamp::from_micros(1_000 * HOUR)).0)
    }

    fn mark(history: &ExitHistory) -> String {
        history.fingerprint().unwrap()
    }

    fn due(settled: &SettledPartitions, history: &ExitHistory) -> Vec<(i32, Option<Timestamp>)> {
        settled.due(&mark(history)).iter().map(|(&number, one)| (number, one.from)).collect()
    }

    #[test]
    fn an_assignment_under_the_same_evidence_needs_no_pass() {
        let known = history(&[10, 20]);
        let (shown, evidence) = watch::channel(known.clone());
        let settled = SettledPartitions::new(evidence);
        settled.assigned(0, true, Some(&mark(&known)));
        settled.assigned(1, false, None);
        assert_eq!(due(&settled, &known), []);
        assert_eq!(settled.fingerprint(0), Some(mark(&known)));
        // Another member's partition is assigned too, and the own one again.
        settled.assigned(0, true, Some(&mark(&known)));
        assert_eq!(due(&settled, &known), []);

        // With newer lists the oldest unsettled row is the start; after unknown lists everything is read.
        let newer = history(&[10, 20, 30]);
        shown.send_replace(newer.clone());
        settled.assigned(2, true, None);
        settled.assigned(3, true, Some(&mark(&history(&[10, 15, 20]))));
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
        let taken = settled.due(&mark(&known));
        settled.put_back(&taken);
        assert_eq!(settled.due(&mark(&known)), taken);
        settled.settled(&taken, &mark(&known));
        assert_eq!(due(&settled, &known), []);

        settled.assigned(0, true, None);
        settled.settled(&taken, &mark(&known));
        assert_eq!(settled.fingerprint(0), None);
        // Rows that were evaluated by older evidence make a settled partition due too.
        let taken = settled.due(&mark(&known));
        settled.settled(&taken, &mark(&known));
        settled.written_with_older_evidence();
        assert_eq!(due(&settled, &known), [(0, None)]);
    }
}
