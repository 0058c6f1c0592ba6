//! The report of a run, in formats for people and programs.

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
use crate::lockfile::{Lockfile, NPM};
use crate::policy::{Exception, Policy};
use crate::rule::Level;
use crate::select::NotAudited;

/// The data of a report.
#[derive(Debug)]
pub struct Report {
    /// The files that were read.
    pub files: Vec<String>,
    /// The type of the packages' purls.
    pub ecosystem: String,
    /// Whether only entries that are new since a base file were audited.
    pub is_diff: bool,
    /// The policy, with the exceptions that were used.
    pub policy: Policy,
    /// How many publications were requested.
    pub asked: usize,
    /// The findings, most serious first.
    pub findings: Vec<Finding>,
    /// The publications without an answer, and the reasons.
    pub unanswered: Vec<(PublicationId, Unanswered)>,
    /// The packages that were not requested, and the reasons.
    pub not_audited: Vec<NotAudited>,
    /// Why the service gave no answer at all.
    pub failure: Option<String>,
    /// Advice about the failure.
    pub hint: Option<String>,
}

impl Report {
    /// A report without requests.
    #[must_use]
    pub fn new(lockfiles: &[Lockfile], is_diff: bool, policy: Policy) -> Self {
        Self {
            files: lockfiles.iter().map(|lockfile| lockfile.path.clone()).collect(),
            ecosystem: NPM.to_owned(),
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

    /// Adds the entries of lockfiles in which no package is from a registry.
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

    /// Records that the service gave no answer.
    pub fn failed(&mut self, why: &Unanswered, hint: Option<String>) {
        self.failure = Some(format!("not everything was answered: {why}"));
        self.hint = hint;
    }

    /// Applies the exceptions and sorts the findings. To be called once, at the end.
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

    /// The findings of a level that no exception matches.
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

    /// The exceptions that matched nothing. Empty for a partial or incomplete audit, which cannot show that.
    pub fn unused(&self) -> impl Iterator<Item = &Exception> {
        let is_known = !self.is_diff && self.is_complete();
        let unused = |exception: &&Exception| !exception.is_used && !exception.is_outdated;
        self.policy.exceptions.iter().filter(unused).filter(move |_| is_known)
    }

    /// A sentence about each exception that is outdated or unused.
    pub fn exception_notes(&self) -> impl Iterator<Item = String> {
        let outdated = self.outdated().map(|exception| (exception, "is out of date"));
        let unused = self.unused().map(|exception| (exception, "is not used"));
        let notes = outdated.chain(unused);
        notes
            .map(|(exception, what)| format!("The exception {} {what}.", text::describe(exception)))
    }

    /// The packages that were not requested, by kind.
    #[must_use]
    pub fn not_audited_by_kind(&self) -> BTreeMap<Kind, Vec<&NotAudited>> {
        let mut kinds: BTreeMap<Kind, Vec<&NotAudited>> = BTreeMap::new();
        for entry in &self.not_audited {
            kinds.entry(entry.kind).or_default().push(entry);
        }
        kinds
    }

    /// The result of the run.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if !self.is_complete() {
            Exit::Unanswered
        } else if self.of_level(Level::Error).next().is_some() {
            Exit::Broken
        } else if self.asked == 0
            && (self.files.is_empty() || !self.is_diff || !self.not_audited.is_empty())
        {
            Exit::Nothing
        } else {
            Exit::Clean
        }
    }
}
