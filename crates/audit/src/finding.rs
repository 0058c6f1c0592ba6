//! What is wrong with one package.

use std::sync::Arc;

use model::PublicationId;

use crate::rule::{Level, Rule};

/// One rule that one package breaks, at one place.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How serious the policy says it is.
    pub level: Level,
    /// The package.
    pub id: PublicationId,
    /// Where it stands.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// What was found, in one sentence. Not escaped.
    pub message: String,
    /// The reason of the exception that covers it.
    pub excepted: Option<String>,
}
