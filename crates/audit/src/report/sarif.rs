//! SARIF 2.1.0, the format of code scanning.

use model::Purl;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::{Report, escape};
use crate::finding::Finding;
use crate::rule::{Level, Rule};

/// The characters that need no encoding in the path of a relative reference.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// Formats the report.
#[must_use]
pub fn write(report: &Report) -> String {
    let rules: Vec<_> = Rule::ALL.iter().map(|&rule| descriptor(rule, report)).collect();
    let failure = report.failure.iter().map(|failure| notification("error", failure));
    let exceptions = report.exception_notes().map(|note| notification("warning", &note));
    let value = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "publication-audit",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": report.is_complete(),
                "exitCode": report.exit().code(),
                "toolExecutionNotifications": failure.chain(exceptions).collect::<Vec<_>>(),
            }],
            "results": report.findings.iter().map(|one| result(one, &report.ecosystem)).collect::<Vec<_>>(),
        }],
    });
    escape::json(&format!("{value:#}\n"))
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::Off => "none",
        Level::Warn => "warning",
        Level::Error => "error",
    }
}

fn descriptor(rule: Rule, report: &Report) -> Value {
    let of_policy = report.policy.level(rule);
    json!({
        "id": rule.name(),
        "shortDescription": { "text": rule.text() },
        "fullDescription": { "text": rule.text() },
        "help": { "text": rule.advice() },
        "defaultConfiguration": { "enabled": of_policy != Level::Off, "level": level(of_policy) },
        "properties": { "tags": ["security", "supply-chain"] },
    })
}

fn notification(level: &str, text: &str) -> Value {
    json!({ "level": level, "message": { "text": escape::sarif(text) } })
}

fn result(finding: &Finding, ecosystem: &str) -> Value {
    let purl = Purl::canonical(ecosystem, &finding.id);
    let text = format!("{} {}: {}", finding.id.name, finding.id.version, finding.message);
    let mut result = json!({
        "ruleId": finding.rule.name(),
        "ruleIndex": Rule::ALL.iter().position(|rule| *rule == finding.rule),
        "level": level(finding.level),
        "message": { "text": escape::sarif(&text) },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&finding.file) },
            "region": { "startLine": finding.line.max(1) },
        }}],
        "partialFingerprints": { "publication/v1": fingerprint(&purl, finding.rule) },
        "properties": { "purl": purl },
    });
    if let Some(reason) = &finding.excepted {
        result["suppressions"] = json!([{
            "kind": "external",
            "status": "accepted",
            "justification": reason,
        }]);
    }
    result
}

/// A stable fingerprint of a package and rule, which does not change with the line.
fn fingerprint(purl: &str, rule: Rule) -> String {
    let digest = Sha256::digest(format!("{purl}\n{rule}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The URI of a file. A relative path stays relative, so that code scanning finds the file in the repository.
fn uri(file: &str) -> String {
    let path = std::path::Path::new(file);
    if path.is_absolute()
        && let Ok(url) = Url::from_file_path(path)
    {
        return url.into();
    }
    let file = file.strip_prefix("./").unwrap_or(file);
    utf8_percent_encode(file, PATH).to_string()
}
