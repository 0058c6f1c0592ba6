//! What a write would change: stands in the table's place at the end of the loop, reads the table and writes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use model::{Publication, PublicationId, merge_all};
use serde::Serialize;
use store::{Error, PublicationReader, PublicationWriter, Recorded};

use crate::commands::difference::{Difference, differences};

/// Rows that would change are kept, about half a kilobyte each, because later records of the range may change them
/// again; this many fit into a gigabyte.
const MAX_CHANGES: usize = 2_000_000;
/// Examples of each kind.
const EXAMPLES: usize = 3;

/// The table as it would be.
pub(crate) struct Preview {
    rows: Arc<dyn PublicationReader>,
    changes: Mutex<HashMap<PublicationId, Change>>,
}

struct Change {
    /// The row in the table, where there is one.
    before: Option<Publication>,
    after: Publication,
}

/// What would change, in rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Forecasted {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    /// Of the updated rows, how many change in each column.
    pub(crate) fields: BTreeMap<&'static str, u64>,
    pub(crate) examples: Vec<Example>,
}

/// A row that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Empty for a row that would be inserted.
    pub(crate) changes: Vec<Difference>,
}

impl Preview {
    pub(crate) fn new(rows: Arc<dyn PublicationReader>) -> Self {
        Self { rows, changes: Mutex::default() }
    }

    /// What all writes so far would change together. A row that changes and changes back does not count.
    pub(crate) fn result(&self) -> Forecasted {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut result = Forecasted::default();
        let mut ids: Vec<_> = changes.iter().collect();
        ids.sort_unstable_by_key(|(id, _)| *id);
        // By column, so that each kind of change has its examples.
        let mut shown: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (id, change) in ids {
            let differing = match &change.before {
                None => {
                    result.inserted += 1;
                    Vec::new()
                }
                Some(before) => {
                    let differing = differences(before, &change.after);
                    if differing.is_empty() {
                        continue;
                    }
                    result.updated += 1;
                    for difference in &differing {
                        *result.fields.entry(difference.field).or_default() += 1;
                    }
                    differing
                }
            };
            let kind = differing.first().map_or("inserted", |difference| difference.field);
            let count = shown.entry(kind).or_default();
            if *count < EXAMPLES {
                *count += 1;
                result.examples.push(Example {
                    name: id.name.to_string(),
                    version: id.version.to_string(),
                    changes: differing,
                });
            }
        }
        result
    }
}

#[async_trait]
impl PublicationWriter for Preview {
    async fn record(&self, records: &[Publication]) -> Result<Recorded, Error> {
        let folded = merge_all(records);
        let ids: Vec<PublicationId> = folded.iter().map(|row| row.id.clone()).collect();
        let found = self.rows.find(&ids).await?;
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut recorded = Recorded::default();
        for (row, before) in folded.into_iter().zip(found) {
            let row = row.into_owned();
            if let Some(change) = changes.get_mut(&row.id) {
                let after = change.after.clone().merge(row);
                recorded.updated += u64::from(after != change.after);
                change.after = after;
                continue;
            }
            let after = match &before {
                None => {
                    recorded.inserted += 1;
                    row
                }
                Some(before) => {
                    let after = before.clone().merge(row);
                    if after == *before {
                        continue;
                    }
                    recorded.updated += 1;
                    after
                }
            };
            changes.insert(after.id.clone(), Change { before, after });
        }
        if changes.len() > MAX_CHANGES {
            let message = "more than 2,000,000 rows would change, which is more than a dry run keeps in memory: ask for a smaller range";
            return Err(Error::Fatal(message.into()));
        }
        recorded.unchanged = records.len() as u64 - recorded.inserted - recorded.updated;
        Ok(recorded)
    }
}
