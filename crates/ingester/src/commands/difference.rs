//! In which columns two rows of the same publication differ, for people.

use model::{Publication, Timestamp, Username};
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

/// The columns that differ, in the contract's order.
pub(crate) fn differences(before: &Publication, after: &Publication) -> Vec<Difference> {
    let shown = columns(before).into_iter().zip(columns(after));
    shown
        .filter(|((_, before), (_, after))| before != after)
        .map(|((field, before), (_, after))| Difference { field, before, after })
        .collect()
}

fn columns(row: &Publication) -> [(&'static str, String); 14] {
    let info = &row.info;
    let flag = |flag: Option<bool>| flag.map_or_else(null, |flag| flag.to_string());
    let identity = row.identity.0.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        ("username", info.username.as_ref().map(Username::to_string).unwrap_or_else(null)),
        ("created", info.created.to_rfc3339_micros()),
        ("tor", flag(info.tor)),
        ("tfa", flag(info.tfa)),
        ("tor_reason", info.tor_reason.to_string()),
        ("tfa_reason", info.tfa_reason.to_string()),
        (
            "tor_evidence_until",
            row.tor_evidence_until.map(Timestamp::to_rfc3339_micros).unwrap_or_else(null),
        ),
        ("tor_settled", info.tor_settled.to_string()),
        ("credential", info.credential.to_string()),
        ("actor", info.actor.to_string()),
        ("revision", row.revision.to_string()),
        ("generation", row.generation.to_string()),
        ("event_identity", identity),
        ("disputed", info.disputed.to_string()),
    ]
}

fn null() -> String {
    "null".to_owned()
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
