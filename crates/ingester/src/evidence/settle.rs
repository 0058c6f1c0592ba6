//! Settling: evaluating again what new evidence can change, by reading the ingester's own partitions once more through the
//! same loop (crates/enrich/README.md, Settling). Addresses are kept nowhere for it. It commits nothing and rejects
//! nothing: its records were counted, committed and, where wrong, dead-lettered when they came first.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// T may lie this much behind or ahead of the record's timestamp by the rule of `future_time`.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// A pass that the environment broke is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// By which evidence the assigned partitions are settled, and which of them need a pass.
///
/// Each partition keeps its own evidence fingerprint. It is committed with the partition's offset, so neither an
/// assignment nor a restart starts a pass while the lists are the same.
#[derive(Debug)]
pub(crate) struct SettledPartitions {
    history: watch::Receiver<Arc<ExitHistory>>,
    partitions: Mutex<BTreeMap<i32, Partition>>,
    /// The earliest act that the newest change of evidence can concern, where that lies before what was known.
    last_change: Mutex<Option<Timestamp>>,
    /// How often partitions were assigned.
    assignments: AtomicU64,
    notify: Notify,
}

/// A partition that is assigned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Partition {
    /// The fingerprint of the evidence by which it is settled, as far as it can be.
    settled_by: Option<String>,
    /// The earliest act that a list older than what was known can concern. Without it, the unsettled rows say where to
    /// begin.
    from: Option<Timestamp>,
    /// Rows were written that were evaluated before the evidence changed.
    has_older_rows: bool,
    /// What a pass learned under another assignment says nothing about this one.
    assignment: u64,
}

impl SettledPartitions {
    /// No partitions yet. `history`: the evidence as it stands.
    pub(crate) fn new(history: watch::Receiver<Arc<ExitHistory>>) -> Self {
        Self {
            history,
            partitions: Mutex::default(),
            last_change: Mutex::default(),
            assignments: AtomicU64::new(0),
            notify: Notify::new(),
        }
    }

    /// The set of valid lists changed. `from`: the earliest act that it can concern, where that lies before what was
    /// known.
    pub(crate) fn evidence_changed(&self, from: Option<Timestamp>) {
        *self.lock_last_change() = from;
        for partition in self.lock().values_mut() {
            partition.begins_at(from);
        }
        self.notify.notify_one();
    }

    /// Rows were written that were evaluated before the evidence changed: a pass that began meanwhile may have missed
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
        let due = partitions.iter_mut().filter(|(_, partition)| {
            partition.has_older_rows || partition.settled_by.as_deref() != Some(fingerprint)
        });
        due.map(|(&number, partition)| {
            let taken = partition.clone();
            (partition.from, partition.has_older_rows) = (None, false);
            (number, taken)
        })
        .collect()
    }

    /// These partitions are settled by the evidence with this fingerprint, but for those that were assigned anew.
    fn settled(&self, taken: &BTreeMap<i32, Partition>, fingerprint: &str) {
        self.each_of(taken, |partition, _| partition.settled_by = Some(fingerprint.to_owned()));
    }

    /// A pass over these partitions failed.
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
            let newest = self.history.borrow().mark();
            return self.add(partition, newest, None);
        }
        // What was not known then may be older than its newest list, and concern acts that are settled.
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

/// The evidence that live ingest evaluates by.
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

/// Everything a pass needs.
pub(crate) struct Settling {
    pub(crate) settings: Settings,
    pub(crate) settled: Arc<SettledPartitions>,
    pub(crate) evaluator: Evaluator,
    pub(crate) limits: BatchLimits,
    pub(crate) table: Arc<dyn PublicationTable>,
    /// Waits for the database, as `table` and `rows` do.
    pub(crate) store: Arc<dyn RowStore>,
    pub(crate) rows: Arc<dyn PublicationReader>,
}

impl Settling {
    /// Runs a pass whenever one is called for, one after the other, until `stop` is cancelled.
    ///
    /// # Errors
    /// None: a pass that fails is tried again.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop.run_until_cancelled(self.settled.notify.notified()).await.is_some() {
            // Taken before the ends of the partitions are: what comes behind them is evaluated by this evidence or newer.
            let history = self.settled.history.borrow().clone();
            let Some(fingerprint) = history.mark() else { continue };
            let due = self.settled.due(&fingerprint);
            match stop.run_until_cancelled(self.pass(history, &due, &stop)).await {
                None => break,
                Some(Ok(())) => self.settled.settled(&due, &fingerprint),
                Some(Err(error)) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a settling pass failed; it is tried again"
                    );
                    let _ = stop.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await;
                    self.settled.put_back(&due);
                }
            }
        }
        Ok(())
    }

    async fn pass(
        &self,
        history: Arc<ExitHistory>,
        due: &BTreeMap<i32, Partition>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        let horizon = evidence::now().before(self.settings.tor.settle_horizon);
        // Rows older than the horizon are left to replays: no list would ever end their passes.
        let unsettled = self.table.oldest_unsettled(horizon).await?;
        let from = due.values().filter_map(|partition| partition.from);
        let Some(start) = from.chain(unsettled).min() else { return Ok(()) };
        let start = start.before(TOLERANCE).max(horizon);
        let partitions: Vec<i32> = due.keys().copied().collect();
        tracing::info!(%start, ?partitions, "settling: evaluating again with new evidence");
        let records = kafka::read_since(&self.settings, partitions, start, stop.child_token())
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
        tracing::info!(records, rows, "settling: done");
        Ok(())
    }
}

/// Counts the records that a pass reads.
struct RecordCount(Arc<AtomicU64>);

impl BatchObserver for RecordCount {
    fn evaluated(&mut self, _: &Outcome) -> ControlFlow<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    }

    fn written(&mut self, _: &WrittenBatch) {}
}

/// The table as a pass sees it: only rows whose verdict, reason or `tor_settled` changes are written. A row that is not
/// there is not made: live ingest will write it, or somebody deleted it.
struct ChangedRows {
    rows: Arc<dyn PublicationReader>,
    store: Arc<dyn RowStore>,
    changed: Arc<AtomicU64>,
}

#[async_trait]
impl RowStore for ChangedRows {
    async fn write(&self, rows: &[Publication]) -> Result<Written, Error> {
        let ids: Vec<_> = rows.iter().map(|said| said.id.clone()).collect();
        let there = self.rows.find(&ids).await?;
        let changed: Vec<Publication> = rows
            .iter()
            .zip(there)
            .filter(|(said, row)| row.as_ref().is_some_and(|row| changes_verdict(row, said)))
            .map(|(said, _)| said.clone())
            .collect();
        if changed.is_empty() {
            return Ok(Written::default());
        }
        let written = self.store.write(&changed).await?;
        let count = written.recorded.inserted + written.recorded.updated;
        self.changed.fetch_add(count, Ordering::Relaxed);
        // Refused places are of the rows that were given on; the pass rejects nothing.
        Ok(Written { refused: Vec::new(), ..written })
    }

    fn is_serial(&self) -> bool {
        self.store.is_serial()
    }
}

/// Whether merging what was said now changes what the row says about Tor.
fn changes_verdict(row: &Publication, said: &Publication) -> bool {
    let verdict = |row: &Publication| (row.info.tor, row.info.tor_reason, row.info.tor_settled);
    verdict(&row.clone().merge(said.clone())) != verdict(row)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use enrich::{TorRules, format};

    use super::*;

    const HOUR: i64 = 3_600_000_000;

    /// With lists of these hours.
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
        history.mark().unwrap()
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
        // Another member's partition comes too, and the own one is assigned again.
        settled.assigned(0, true, Some(&mark(&known)));
        assert_eq!(due(&settled, &known), []);

        // Newer lists: the unsettled rows say where to begin. Of what was settled by unknown lists, everything is read.
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
        // Rows that were written by older evidence are due in a settled partition too.
        let taken = settled.due(&mark(&known));
        settled.settled(&taken, &mark(&known));
        settled.written_with_older_evidence();
        assert_eq!(due(&settled, &known), [(0, None)]);
    }
}
