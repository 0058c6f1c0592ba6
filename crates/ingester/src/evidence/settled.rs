//! By which evidence each partition is settled. It is committed beside the partition's offset, so that a restart or
//! another member need not read again what is settled already.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enrich::ExitHistory;
use tokio::sync::watch;

use crate::evidence::settle::Trigger;
use crate::kafka::SettledEvidence;

/// The partitions that are owned, each with the fingerprint of the evidence by which it is settled.
#[derive(Debug)]
pub(crate) struct SettledPartitions {
    owned: Mutex<Owned>,
    trigger: Arc<Trigger>,
    evidence: watch::Receiver<Arc<ExitHistory>>,
}

#[derive(Debug, Default)]
struct Owned {
    /// How many partitions came so far.
    arrivals: u64,
    partitions: BTreeMap<i32, Settled>,
}

#[derive(Debug)]
struct Settled {
    arrival: u64,
    /// None: not settled by any evidence.
    by: Option<String>,
}

impl SettledPartitions {
    /// `trigger` is told when a partition comes that other evidence than the newest has settled.
    pub(crate) fn new(trigger: Arc<Trigger>, evidence: watch::Receiver<Arc<ExitHistory>>) -> Self {
        Self { owned: Mutex::default(), trigger, evidence }
    }

    /// The partitions in order, and a number for [`Self::settle`].
    pub(crate) fn owned(&self) -> (Vec<i32>, u64) {
        let owned = self.lock();
        (owned.partitions.keys().copied().collect(), owned.arrivals)
    }

    /// The partitions that were owned when the number was given are settled by the evidence with this fingerprint.
    pub(crate) fn settle(&self, fingerprint: &str, arrivals: u64) {
        for settled in self.lock().partitions.values_mut() {
            if settled.arrival <= arrivals {
                settled.by = Some(fingerprint.to_owned());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SettledEvidence for SettledPartitions {
    fn assigned(&self, partition: i32, has_history: bool, fingerprint: Option<&str>) {
        let evidence = self.evidence.borrow().clone();
        let newest = evidence.mark();
        // What was never read is evaluated by the newest evidence or later.
        let by = if has_history { fingerprint.map(str::to_owned) } else { newest.clone() };
        let is_settled = by == newest;
        {
            let mut owned = self.lock();
            owned.arrivals += 1;
            let arrival = owned.arrivals;
            owned.partitions.insert(partition, Settled { arrival, by });
        }
        if is_settled {
            return;
        }
        if fingerprint.is_some_and(|fingerprint| evidence.extends(fingerprint)) {
            self.trigger.assigned();
        } else {
            self.trigger.evidence_unknown();
        }
    }

    fn revoked(&self, partition: i32) {
        self.lock().partitions.remove(&partition);
    }

    fn fingerprint(&self, partition: i32) -> Option<String> {
        self.lock().partitions.get(&partition)?.by.clone()
    }
}
