//! What a run found, in the formats that people and programs read.

pub mod escape;
pub mod github;
pub mod json;
pub mod sarif;
pub mod text;

use std::collections::BTreeMap;

use model::PublicationId;

use crate::client::Unanswered;
use crate::exit::Exit;
use crate::finding::Finding;
use crate::location::{Kind, Location};
use crate::lockfile::Lockfile;
use crate::policy::{Exception, Policy};
use crate::rule::Level;
use crate::select::NotAudited;

/// All of a run that a report says.
#[derive(Debug)]
pub struct Report {
    /// The files that were read.
    pub files: Vec<String>,
    /// Whether only what is new since a base file was audited.
    pub is_diff: bool,
    /// The policy, with the exceptions that were used.
    pub policy: Policy,
    /// How many publications were asked about.
    pub asked: usize,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What was not answered, and why.
    pub unanswered: Vec<(PublicationId, Unanswered)>,
    /// What was not asked about, and why.
    pub not_audited: Vec<NotAudited>,
    /// Why nothing was answered at all.
    pub failure: Option<String>,
    /// More about the failure.
    pub hint: Option<String>,
}

impl Report {
    /// A report in which nothing was asked.
    #[must_use]
    pub fn new(lockfiles: &[Lockfile], is_diff: bool, policy: Policy) -> Self {
        Self {
            files: lockfiles.iter().map(|lockfile| lockfile.path.clone()).collect(),
            is_diff,
            policy,
            asked: 0,
            findings: Vec::new(),
            unanswered: Vec::new(),
            not_audited: Vec::new(),
            failure: None,
            hint: None,
        }
    }

    /// Of files in which nothing can come from any registry.
    pub fn add_not_audited(&mut self, lockfiles: &[Lockfile]) {
        for lockfile in lockfiles {
            let file: std::sync::Arc<str> = lockfile.path.as_str().into();
            self.not_audited.extend(lockfile.entries.iter().map(|entry| NotAudited {
                kind: match entry.location {
                    Location::Elsewhere(kind) => kind,
                    _ => Kind::Other,
                },
                name: entry.name.clone(),
                version: entry.version.clone(),
                file: file.clone(),
                line: entry.line,
            }));
        }
    }

    /// The service answered nothing.
    pub fn failed(&mut self, why: &Unanswered, hint: Option<String>) {
        self.failure = Some(format!("not everything was answered: {why}"));
        self.hint = hint;
    }

    /// Applies the exceptions and sorts: when everything is in.
    pub fn finish(&mut self) {
        self.policy.except(&mut self.findings);
        self.findings.sort_by(|one, other| {
            let rank =
                |finding: &Finding| (finding.excepted.is_some(), std::cmp::Reverse(finding.level));
            rank(one)
                .cmp(&rank(other))
                .then_with(|| one.id.cmp(&other.id))
                .then_with(|| one.rule.cmp(&other.rule))
                .then_with(|| one.line.cmp(&other.line))
        });
        if let Some((_, why)) = self.unanswered.first() {
            let count = self.unanswered.len();
            self.failure =
                Some(format!("{count} of {} packages were not answered: {why}", self.asked));
        }
    }

    /// The findings of a level that no exception covers.
    pub fn of_level(&self, level: Level) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |found| found.level == level && found.excepted.is_none())
    }

    /// Whether everything was answered.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.failure.is_none()
    }

    /// The exceptions whose last day is over.
    pub fn outdated(&self) -> impl Iterator<Item = &Exception> {
        self.policy.exceptions.iter().filter(|exception| exception.is_outdated)
    }

    /// The exceptions that covered nothing. Of a part of a lockfile, or of an audit that is not complete, nobody can
    /// say so.
    pub fn unused(&self) -> impl Iterator<Item = &Exception> {
        let is_known = !self.is_diff && self.is_complete();
        let unused = |exception: &&Exception| !exception.is_used && !exception.is_outdated;
        self.policy.exceptions.iter().filter(unused).filter(move |_| is_known)
    }

    /// How many packages of each kind were not asked about.
    #[must_use]
    pub fn not_audited_by_kind(&self) -> BTreeMap<Kind, Vec<&NotAudited>> {
        let mut kinds: BTreeMap<Kind, Vec<&NotAudited>> = BTreeMap::new();
        for entry in &self.not_audited {
            kinds.entry(entry.kind).or_default().push(entry);
        }
        kinds
    }

    /// The exit code's meaning.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if !self.is_complete() {
            Exit::Unanswered
        } else if self.of_level(Level::Error).next().is_some() {
            Exit::Broken
        } else if self.asked == 0 && !self.is_diff {
            Exit::Nothing
        } else {
            Exit::Clean
        }
    }
}
