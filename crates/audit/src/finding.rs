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
    /// The name and version of the entry, if its location is that of this other package. An exception names the entry.
    pub entry: Option<(String, String)>,
    /// The lockfile.
    pub file: Arc<str>,
    /// The line of the package, from 1.
    pub line: u32,
    /// The finding in one sentence. Not escaped.
    pub message: String,
    /// The reason of the exception that matches it.
    pub excepted: Option<String>,
}

impl Finding {
    /// The name and version under which an exception accepts the finding.
    #[must_use]
    pub fn accepted_as(&self) -> (&str, &str) {
        match &self.entry {
            Some((name, version)) => (name, version),
            None => (self.id.name.as_str(), self.id.version.as_str()),
        }
    }
}
