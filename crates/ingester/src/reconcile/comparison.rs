//! What a range of the topic says, against what the table says. Stands in the table's place at the end of the loop.
//!
//! A row is right when it is what the merge rule makes of it and the range together: it may be greater than the range
//! says, because of events outside. But it must not claim an event of the range and say something else than that event:
//! the merge rule believes what stands in the table, so an altered row can be the greater one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use model::{Publication, PublicationId, TorReason};
use store::{Error, PublicationReader, PublicationWriter, Recorded};

use crate::difference::{Difference, adds_nothing, only_of_the_evaluation};

/// Publications in doubt are kept, about a kilobyte each.
const MAX_SUSPECTS: usize = 1_000_000;
/// Rows asked for at once.
const LOOKUP: usize = 1_000;

/// The comparison while records flow.
pub(super) struct Comparison {
    rows: Arc<dyn PublicationReader>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the hash of its key, every publication of the range, and whether a record explains the event of its row.
    known: HashMap<u64, bool>,
    suspects: HashMap<PublicationId, Suspect>,
}

/// A publication whose row does not follow from some record of the range.
struct Suspect {
    seen: Option<Publication>,
    /// What those records say together.
    fold: Publication,
    /// The record of the event that the row claims to be.
    claimed: Option<Publication>,
}

/// A row that is not what it should be.
pub(super) struct Finding {
    /// The row; none where it is missing.
    pub(super) seen: Option<Publication>,
    pub(super) expected: Publication,
    pub(super) changes: Vec<Difference>,
    /// What to merge into the table, where that makes the row what it should be.
    pub(super) merge: Option<Publication>,
}

impl Comparison {
    pub(super) fn new(rows: Arc<dyn PublicationReader>) -> Self {
        Self { rows, inner: Mutex::default() }
    }

    /// Whether the range has a record of this publication.
    pub(super) fn knows(&self, id: &PublicationId) -> bool {
        self.lock().known.contains_key(&hash(id))
    }

    /// What is wrong, in the order of the keys. The rows in doubt are read once more, so that what live ingest wrote
    /// meanwhile is no difference.
    pub(super) async fn findings(&self) -> Result<Vec<Finding>, Error> {
        let mut suspects: Vec<_> = std::mem::take(&mut self.lock().suspects).into_iter().collect();
        suspects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut findings = Vec::new();
        for some in suspects.chunks(LOOKUP) {
            let ids: Vec<_> = some.iter().map(|(id, _)| id.clone()).collect();
            let rows = self.rows.find(&ids).await?;
            for ((id, suspect), row) in some.iter().zip(rows) {
                let explained = self.lock().known.get(&hash(id)).copied().unwrap_or(false);
                findings.extend(suspect.finding(row, explained));
            }
        }
        Ok(findings)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn compare(&mut self, row: Option<&Publication>, record: &Publication) {
        let explains = row.is_some_and(|row| same_event(row, record));
        *self.known.entry(hash(&record.id)).or_default() |= explains;
        let claims = row.is_some_and(|row| row.identity == record.identity);
        let right = row.is_some_and(|row| {
            adds_nothing(row, record.clone()) && (!claims || says_what_it_claims(row, record))
        });
        if right {
            return;
        }
        let claimed = claims.then(|| record.clone());
        match self.suspects.get_mut(&record.id) {
            None => {
                let suspect = Suspect { seen: row.cloned(), fold: record.clone(), claimed };
                self.suspects.insert(record.id.clone(), suspect);
            }
            Some(suspect) => {
                suspect.fold = suspect.fold.clone().merge(record.clone());
                // The record that explains the row's event says more of it than one of the same name.
                if explains || suspect.claimed.is_none() {
                    suspect.claimed = claimed.or(suspect.claimed.take());
                }
            }
        }
    }
}

impl Suspect {
    fn finding(&self, row: Option<Publication>, explained: bool) -> Option<Finding> {
        let Some(row) = row else {
            let (expected, merge) = (self.fold.clone(), Some(self.fold.clone()));
            return Some(Finding { seen: None, expected, changes: Vec::new(), merge });
        };
        let trusted = match &self.claimed {
            // Somebody wrote the row meanwhile, and it was us: nothing is known about it but the merge.
            _ if self.seen.as_ref() != Some(&row) => row.clone(),
            Some(claimed) if !says_what_it_claims(&row, claimed) => {
                // An event that was sent again under its old name is explained by its other record.
                if explained && !same_event(&row, claimed) {
                    row.clone()
                } else {
                    as_claimed(claimed, &row)
                }
            }
            _ => row.clone(),
        };
        let expected = trusted.merge(self.fold.clone());
        let changes = crate::difference::differences(&row, &expected);
        if only_of_the_evaluation(&changes) {
            return None;
        }
        let mergeable = row.clone().merge(self.fold.clone()) == expected;
        let merge = mergeable.then(|| self.fold.clone());
        Some(Finding { seen: Some(row), expected, changes, merge })
    }
}

/// Whether everything that an event says by itself is the same.
fn same_event(row: &Publication, record: &Publication) -> bool {
    let (a, b) = (&row.info, &record.info);
    row.identity == record.identity
        && row.revision == record.revision
        && a.created == b.created
        && a.username == b.username
        && a.credential == b.credential
        && a.actor == b.actor
}

/// Whether a row that claims this event says what follows from it.
fn says_what_it_claims(row: &Publication, record: &Publication) -> bool {
    let (a, b) = (&row.info, &record.info);
    // What an older generation said of the flags followed from other rules.
    let same_rules = row.generation == record.generation;
    same_event(row, record)
        && (!same_rules || (a.tfa, a.tfa_reason) == (b.tfa, b.tfa_reason))
        && tor_can_be(row, record)
}

/// Whether the verdict on Tor can have come from some evaluation: its reason fits, and by the same evidence it is the
/// same. By other evidence it may know more: lists are taken away when they are old.
fn tor_can_be(row: &Publication, record: &Publication) -> bool {
    let fits = match row.info.tor_reason {
        TorReason::AnonymousIp
        | TorReason::Edge
        | TorReason::ExitList
        | TorReason::Prefix
        | TorReason::Snapshot => Some(true),
        TorReason::NotListed => Some(false),
        TorReason::BadAddress
        | TorReason::ListedAfter
        | TorReason::NoAddress
        | TorReason::NoCoverage
        | TorReason::NotGlobal => None,
    };
    let same_evidence =
        row.generation == record.generation && row.tor_evidence_until == record.tor_evidence_until;
    let (a, b) = (&row.info, &record.info);
    a.tor == fits && (!same_evidence || (a.tor, a.tor_reason) == (b.tor, b.tor_reason))
}

/// The row as its event has it, with the row's own verdict on Tor where that can be right.
fn as_claimed(claimed: &Publication, row: &Publication) -> Publication {
    let mut right = claimed.clone();
    right.info.disputed = row.info.disputed;
    if row.generation == claimed.generation && tor_can_be(row, claimed) {
        right.info.tor = row.info.tor;
        right.info.tor_reason = row.info.tor_reason;
        right.info.tor_settled = row.info.tor_settled;
        right.tor_evidence_until = row.tor_evidence_until;
    }
    right
}

/// Two keys of a hundred million are taken for one with a chance of one in four thousand.
fn hash(id: &PublicationId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[async_trait]
impl PublicationWriter for Comparison {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        let mut ids: Vec<PublicationId> = records.iter().map(|record| record.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = self.rows.find(&ids).await?;
        let mut inner = self.lock();
        for record in records {
            let row = ids.binary_search(&record.id).ok().and_then(|place| rows[place].as_ref());
            inner.compare(row, record);
        }
        if inner.suspects.len() > MAX_SUSPECTS {
            let message = "more than 1,000,000 rows are missing or different, which is more than is kept in memory: replay the range instead";
            return Err(Error::Fatal(message.into()));
        }
        Ok(Recorded { unchanged: records.len() as u64, ..Recorded::default() })
    }
}
