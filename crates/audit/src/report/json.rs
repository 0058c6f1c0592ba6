//! The JSON report; `report.schema.json` in this crate's folder describes it.

use model::Purl;
use serde_json::{Value, json};

use super::{Report, escape};
use crate::finding::Finding;
use crate::policy::Exception;
use crate::rule::Level;

/// Formats the report.
#[must_use]
pub fn write(report: &Report) -> String {
    let exceptions = |exceptions: Vec<&Exception>| -> Vec<Value> {
        exceptions
            .into_iter()
            .map(|exception| {
                json!({
                    "package": exception.package,
                    "versions": exception.versions,
                    "rule": exception.rule,
                    "reason": exception.reason,
                    "until": exception.until,
                })
            })
            .collect()
    };
    let value = json!({
        "tool": { "name": "publication-audit", "version": env!("CARGO_PKG_VERSION") },
        "files": report.files,
        "onlyNew": report.is_diff,
        "complete": report.is_complete(),
        "failure": report.failure,
        "exitCode": report.exit().code(),
        "counts": {
            "asked": report.asked,
            "unanswered": report.unanswered.len(),
            "errors": report.of_level(Level::Error).count(),
            "warnings": report.of_level(Level::Warn).count(),
            "excepted": report.findings.iter().filter(|found| found.excepted.is_some()).count(),
            "notAudited": report.not_audited_by_kind().iter()
                .map(|(kind, entries)| (kind_name(*kind), json!(entries.len())))
                .collect::<serde_json::Map<_, _>>(),
        },
        "findings": report.findings.iter().map(|one| finding(one, &report.ecosystem)).collect::<Vec<_>>(),
        "unanswered": report.unanswered.iter().map(|(id, why)| json!({
            "package": id.name.as_str(),
            "version": id.version.as_str(),
            "reason": why.to_string(),
        })).collect::<Vec<_>>(),
        "notAudited": report.not_audited.iter().map(|entry| json!({
            "kind": entry.kind,
            "name": entry.name,
            "version": entry.version,
            "file": &*entry.file,
            "line": entry.line,
        })).collect::<Vec<_>>(),
        "exceptions": {
            "outdated": exceptions(report.outdated().collect()),
            "unused": exceptions(report.unused().collect()),
        },
    });
    escape::json(&format!("{value:#}\n"))
}

fn kind_name(kind: crate::location::Kind) -> String {
    json!(kind).as_str().unwrap_or_default().to_owned()
}

fn finding(finding: &Finding, ecosystem: &str) -> Value {
    json!({
        "rule": finding.rule,
        "level": finding.level,
        "package": finding.id.name.as_str(),
        "version": finding.id.version.as_str(),
        "purl": Purl::canonical(ecosystem, &finding.id),
        "file": &*finding.file,
        "line": finding.line,
        "message": finding.message,
        "advice": finding.rule.advice(),
        "exception": finding.excepted,
    })
}
