//! Annotations of a GitHub workflow: one command per line. Untrusted text cannot start another command.

use std::fmt::Write as _;

use super::Report;
use super::escape::{github_message, github_property};
use crate::rule::Level;

/// Formats the report.
#[must_use]
pub fn write(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let command = match (finding.level, &finding.excepted) {
            (_, Some(_)) => "notice",
            (Level::Error, None) => "error",
            _ => "warning",
        };
        let title = format!("{}: {} {}", finding.rule, finding.id.name, finding.id.version);
        let accepted = finding.excepted.as_ref();
        let accepted = accepted.map(|reason| format!(" Accepted: {reason}")).unwrap_or_default();
        let advice = if finding.excepted.is_none() { finding.rule.advice() } else { "" };
        let message = format!("{} {advice}{accepted}", finding.message);
        let _ = writeln!(
            out,
            "::{command} file={},line={},title={}::{}",
            github_property(&finding.file),
            finding.line,
            github_property(&title),
            github_message(message.trim()),
        );
    }
    for note in report.exception_notes() {
        let _ = writeln!(out, "::warning title=publication-audit::{}", github_message(&note));
    }
    if let Some(failure) = &report.failure {
        let hint = report.hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default();
        let message = github_message(&format!("{failure}{hint}"));
        let _ = writeln!(out, "::error title=publication-audit::{message}");
    } else if let Some(hint) = &report.hint {
        let _ = writeln!(out, "::warning title=publication-audit::{}", github_message(hint));
    }
    let (errors, warnings) =
        (report.of_level(Level::Error).count(), report.of_level(Level::Warn).count());
    let _ = writeln!(
        out,
        "{} packages asked about, {} not audited, {errors} errors, {warnings} warnings.",
        report.asked,
        report.not_audited.len(),
    );
    out
}
