//! In which columns two rows of the same publication differ, for people.

use model::{COLUMNS, Publication};
use serde::Serialize;

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

/// The columns that differ, in their order.
pub(crate) fn differences(before: &Publication, after: &Publication) -> Vec<Difference> {
    let values = before.columns().into_iter().zip(after.columns());
    COLUMNS
        .into_iter()
        .zip(values)
        .filter(|(_, (before, after))| before != after)
        .map(|(field, (before, after))| Difference {
            field,
            before: before.to_string(),
            after: after.to_string(),
        })
        .collect()
}

/// Columns that say when a row was judged rather than what: they move with every evaluation.
const OF_THE_EVALUATION: [&str; 2] = ["tor_evidence_until", "tor_settled"];

/// Whether these columns say nothing new about the publication.
pub(crate) fn only_of_the_evaluation(changes: &[Difference]) -> bool {
    changes.iter().all(|change| OF_THE_EVALUATION.contains(&change.field))
}

/// Whether merging `other` into `row` would say nothing new about the publication.
pub(crate) fn adds_nothing(row: &Publication, other: Publication) -> bool {
    let merged = row.clone().merge(other);
    merged == *row || only_of_the_evaluation(&differences(row, &merged))
}
