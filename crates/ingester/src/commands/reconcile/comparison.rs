//! What a range of the topic says, against what the table says. Stands in the table's place at the end of the loop.
//!
//! A row is right when it is what the merge rule makes of it and the range together: it may be greater than the range
//! says, because of events outside. But it must not claim an event of the range and say something else than that event:
//! the merge rule believes what stands in the table, so an altered row can be the greater one. An event is claimed by its
//! identity, its revision and a time that is not earlier: what is of a higher revision or an earlier time under the same
//! identity can be another event of a producer that repeats its ids, and is kept by the merge rule (contract, section 2).
//! Such a row is named and never mended.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use model::{Publication, PublicationId, TorReason};
use store::{Error, PublicationReader, PublicationWriter, Recorded};

use crate::commands::difference::{Difference, adds_nothing, differences, only_of_the_evaluation};

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
    /// Whether a record has the row's identity and another revision or a later time.
    namesake: bool,
}

/// A row that is not what it should be, or that nothing in the range accounts for.
pub(super) struct Finding {
    pub(super) id: PublicationId,
    pub(super) kind: Kind,
    /// From the row to what it should be; of an unproven row, to what the range says.
    pub(super) changes: Vec<Difference>,
    pub(super) mend: Mend,
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Missing,
    Different,
    /// It has the identity of an event of the range and stands above it, and the range has no record of its own.
    Unproven,
}

impl Kind {
    /// As it is printed.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Unproven => "unproven",
        }
    }
}

/// How a row becomes what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mend {
    /// Merging this suffices.
    Merge(Publication),
    /// The merge rule would keep what is wrong: in the place of the very row that was seen.
    Replace { seen: Box<Publication>, instead: Box<Publication> },
    /// Not at all: nothing says that it is wrong.
    Leave,
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
        let claims = row.is_some_and(|row| is_claimed(row, record));
        let namesake = row.is_some_and(|row| row.identity == record.identity) && !claims;
        let right = row.is_some_and(|row| {
            adds_nothing(row, record.clone())
                && !namesake
                && (!claims || says_what_it_claims(row, record))
        });
        if right {
            return;
        }
        let claimed = claims.then(|| record.clone());
        match self.suspects.get_mut(&record.id) {
            None => {
                let suspect =
                    Suspect { seen: row.cloned(), fold: record.clone(), claimed, namesake };
                self.suspects.insert(record.id.clone(), suspect);
            }
            Some(suspect) => {
                suspect.fold = suspect.fold.clone().merge(record.clone());
                suspect.namesake |= namesake;
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
        let (id, fold) = (self.fold.id.clone(), self.fold.clone());
        let Some(row) = row else {
            let (kind, mend) = (Kind::Missing, Mend::Merge(fold));
            return Some(Finding { id, kind, changes: Vec::new(), mend });
        };
        // Somebody wrote the row meanwhile, and it was us: nothing is known about it but the merge.
        let is_seen = self.seen.as_ref() == Some(&row);
        let trusted = match &self.claimed {
            Some(claimed) if is_seen && !says_what_it_claims(&row, claimed) => {
                // An event that was sent again under its old name is explained by its other record.
                if explained && !same_event(&row, claimed) {
                    row.clone()
                } else {
                    as_claimed(claimed, &row)
                }
            }
            _ => row.clone(),
        };
        let expected = trusted.merge(fold.clone());
        let changes = differences(&row, &expected);
        if only_of_the_evaluation(&changes) {
            let (kind, mend) = (Kind::Unproven, Mend::Leave);
            return (is_seen && self.namesake && !explained).then(|| Finding {
                id,
                kind,
                changes: differences(&row, &fold),
                mend,
            });
        }
        let mend = if row.clone().merge(fold.clone()) == expected {
            Mend::Merge(fold)
        } else {
            Mend::Replace { seen: Box::new(row), instead: Box::new(expected) }
        };
        Some(Finding { id, kind: Kind::Different, changes, mend })
    }
}

/// Whether the row says to be this event. Above it by the merge rule's first two steps stands only another one.
fn is_claimed(row: &Publication, record: &Publication) -> bool {
    row.identity == record.identity
        && row.revision == record.revision
        && row.info.created >= record.info.created
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
            let message = "more than 1,000,000 rows are missing, different or unproven, which is more than is kept in memory: replay the range instead";
            return Err(Error::Fatal(message.into()));
        }
        Ok(Recorded { unchanged: records.len() as u64, ..Recorded::default() })
    }
}

#[cfg(test)]
mod tests {
    use model::{
        Actor, Credential, EventIdentity, PublicationInfo, TfaReason, Timestamp, Username,
    };

    use super::*;

    /// `id` at a minute, as it was judged.
    fn event(id: u8, minute: i64) -> Publication {
        Publication {
            id: PublicationId::new("pg", "1.0.0").unwrap(),
            info: PublicationInfo {
                username: Username::new("brianc").ok(),
                created: Timestamp::from_millis(minute * 60_000),
                tor: Some(false),
                tfa: Some(true),
                tor_reason: TorReason::NotListed,
                tfa_reason: TfaReason::SecondFactor,
                tor_settled: true,
                credential: Credential::SessionToken,
                actor: Actor::User,
                disputed: false,
                integrity: None,
            },
            tor_evidence_until: Some(Timestamp::from_millis(0)),
            revision: 0,
            generation: 0,
            identity: EventIdentity([id; 16]),
        }
    }

    /// What a range of these records finds wrong with a row.
    fn finding(row: &Publication, range: &[Publication]) -> Option<Finding> {
        let mut inner = Inner::default();
        for record in range {
            inner.compare(Some(row), record);
        }
        let explained = inner.known[&hash(&row.id)];
        inner.suspects.remove(&row.id)?.finding(Some(row.clone()), explained)
    }

    fn kind(row: &Publication, range: &[Publication]) -> Option<Kind> {
        finding(row, range).map(|finding| finding.kind)
    }

    #[test]
    fn an_earlier_event_of_the_same_id_outside_of_the_range_is_left_alone() {
        let (earlier, later) = (event(1, 1), event(1, 10));
        let row = earlier.clone().merge(later.clone());
        assert_eq!(row.info.created, earlier.info.created);
        let found = finding(&row, std::slice::from_ref(&later)).unwrap();
        assert_eq!((found.kind, found.mend), (Kind::Unproven, Mend::Leave));
        assert_eq!(kind(&row, &[later.clone(), earlier.clone()]), None, "the range explains it");
        assert_eq!(kind(&row, std::slice::from_ref(&earlier)), None);

        // The later one was never written: that is mended by the merge, and the earlier time stays.
        let found = finding(&earlier, std::slice::from_ref(&later)).unwrap();
        assert_eq!((found.kind, found.mend), (Kind::Different, Mend::Merge(later)));
    }

    #[test]
    fn a_correction_of_the_same_id_outside_of_the_range_is_left_alone() {
        let first = event(1, 1);
        let row = Publication { revision: 1, ..event(1, 10) };
        assert_eq!(kind(&row, std::slice::from_ref(&first)), Some(Kind::Unproven));
        assert_eq!(kind(&row, &[first, row.clone()]), None);
    }

    #[test]
    fn a_row_that_says_something_else_than_the_event_it_claims_is_put_right() {
        let record = event(1, 1);
        let alter = |change: fn(&mut PublicationInfo)| {
            let mut row = record.clone();
            change(&mut row.info);
            row
        };
        for row in [
            alter(|info| info.tor = Some(true)),
            alter(|info| (info.tor, info.tor_reason) = (Some(true), TorReason::ExitList)),
            alter(|info| info.tfa_reason = TfaReason::Amr),
            alter(|info| info.username = Username::new("aaa").ok()),
            alter(|info| info.created = Timestamp::from_millis(61_000)),
        ] {
            let found = finding(&row, std::slice::from_ref(&record)).unwrap();
            assert_eq!(found.kind, Kind::Different, "{row:?}");
            let instead = match found.mend {
                Mend::Merge(publication) => row.merge(publication),
                Mend::Replace { instead, .. } => *instead,
                Mend::Leave => panic!("{row:?} is left"),
            };
            assert_eq!(instead, record);
        }
    }
}
