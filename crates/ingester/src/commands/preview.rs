//! The changes that a range of records would make, without writing to the table. The range is merged into a temporary
//! table, which is compared with the real table row by row. `--dry-run` counts the changes; `reconcile` lists each.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{COLUMNS, Publication};
use serde::Serialize;
use store::{PublicationReader, Retrying};

use crate::commands::scratch::Scratch;

/// The maximum number of examples for each kind of change.
const EXAMPLES: usize = 3;

/// A range of records, to be compared with the table.
pub(crate) struct Preview {
    /// The records of the range, merged by the merge rule.
    pub(crate) range: Arc<Scratch>,
    table: Arc<Retrying<dyn PublicationReader>>,
}

impl Preview {
    /// Creates an empty preview; the caller then writes the range to [`Preview::range`].
    ///
    /// # Errors
    /// If the temporary table cannot be created.
    pub(crate) async fn create(
        table: Arc<Retrying<dyn PublicationReader>>,
    ) -> anyhow::Result<Self> {
        Ok(Self { range: Arc::new(Scratch::create().await?), table })
    }

    /// Passes each publication of the range to `act`, page by page and newest first, with its present row in the table.
    ///
    /// # Errors
    /// The error of `act`; also if the table cannot be read.
    pub(crate) async fn each_page(
        &self,
        mut act: impl AsyncFnMut(Vec<(Publication, Option<Publication>)>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut after = None;
        while let Some(page) = self.range.page(&mut after).await? {
            let ids: Vec<_> = page.iter().map(|from_range| from_range.id.clone()).collect();
            let rows = self.table.find(&ids).await?;
            act(page.into_iter().zip(rows).collect()).await?;
        }
        Ok(())
    }

    /// The changes that writing the range would make, in rows.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(crate) async fn changes(&self) -> anyhow::Result<Changes> {
        let mut changes = Changes::default();
        self.each_page(async |page| {
            for (from_range, row) in page {
                changes.add(from_range, row);
            }
            Ok(())
        })
        .await?;
        Ok(changes)
    }
}

/// Rows that would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Changes {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    /// For each column, the number of updated rows in which it changes.
    pub(crate) fields: BTreeMap<&'static str, u64>,
    pub(crate) examples: Vec<Example>,
    /// The number of examples by the first column that changes, so that each kind of change has some.
    #[serde(skip)]
    shown: BTreeMap<&'static str, usize>,
}

/// A row that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Empty for a row that would be inserted.
    pub(crate) changes: Vec<Difference>,
}

impl Changes {
    fn add(&mut self, from_range: Publication, row: Option<Publication>) {
        let (id, differing) = match row {
            None => {
                self.inserted += 1;
                (from_range.id, Vec::new())
            }
            Some(row) => {
                let differing = differences(&row, &row.clone().merge(from_range));
                if differing.is_empty() {
                    return;
                }
                self.updated += 1;
                for difference in &differing {
                    *self.fields.entry(difference.field).or_default() += 1;
                }
                (row.id, differing)
            }
        };
        let kind = differing.first().map_or("inserted", |difference| difference.field);
        let shown = self.shown.entry(kind).or_default();
        if *shown < EXAMPLES {
            *shown += 1;
            self.examples.push(Example {
                name: id.name.to_string(),
                version: id.version.to_string(),
                changes: differing,
            });
        }
    }
}

/// A column with its values before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    pub(crate) field: &'static str,
    pub(crate) before: String,
    pub(crate) after: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.field, self.before, self.after)
    }
}

/// The columns that differ, in the order of the table.
pub(crate) fn differences(before: &Publication, after: &Publication) -> Vec<Difference> {
    COLUMNS
        .into_iter()
        .zip(before.columns().into_iter().zip(after.columns()))
        .filter(|(_, (before, after))| before != after)
        .map(|(field, (before, after))| Difference {
            field,
            before: before.to_string(),
            after: after.to_string(),
        })
        .collect()
}

/// Columns about the evaluation and not about the publication: they change with every evaluation.
const OF_THE_EVALUATION: [&str; 2] = ["tor_evidence_until", "tor_settled"];

/// Whether the changes concern only these columns, and no fact about the publication.
pub(crate) fn only_of_the_evaluation(changes: &[Difference]) -> bool {
    changes.iter().all(|change| OF_THE_EVALUATION.contains(&change.field))
}

/// Whether merging `other` into `row` would add no fact about the publication.
pub(crate) fn adds_nothing(row: &Publication, other: Publication) -> bool {
    let merged = row.clone().merge(other);
    merged == *row || only_of_the_evaluation(&differences(row, &merged))
}
