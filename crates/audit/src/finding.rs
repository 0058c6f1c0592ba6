//! A finding about one package.

use std::sync::Arc;

use model::PublicationId;

use crate::rule::{Level, Rule};

/// A rule that a package breaks, at one position of a lockfile.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The level of the rule in the policy.
    pub level: Level,
    /// The package.
    pub id: PublicationId,
    /// The lockfile.
    pub file: Arc<str>,
    /// The line of the package, from 1.
    pub line: u32,
    /// The finding in one sentence. Not escaped.
    pub message: String,
    /// The reason of the exception that matches it.
    pub excepted: Option<String>,
}
