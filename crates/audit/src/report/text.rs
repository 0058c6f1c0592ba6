//! The report as short text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use model::Timestamp;

use super::Report;
use super::escape::{line, text, toml};
use crate::exit::Exit;
use crate::finding::Finding;
use crate::policy::Exception;
use crate::rule::{Level, Rule};

/// Maximum number of listed findings per rule of level warn. The other formats list all.
const LISTED: usize = 10;
/// The validity of a suggested exception.
const SUGGESTED: Duration = Duration::from_secs(90 * 86_400);

/// Formats the report. `now` is for the last day of suggested exceptions.
#[must_use]
pub fn write(report: &Report, now: Timestamp) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = sections(&mut out, report, now);
    out
}

fn sections(out: &mut String, report: &Report, now: Timestamp) -> std::fmt::Result {
    let until = now.after(SUGGESTED).to_rfc3339_millis();
    let until = until.get(..10).unwrap_or_default();
    for finding in report.of_level(Level::Error) {
        self::finding(out, finding)?;
        writeln!(out, "    To do: {}", finding.rule.advice())?;
        writeln!(out, "    To accept it, give a reason and add to the policy:")?;
        writeln!(out, "      [[exception]]")?;
        let (package, version) = finding.accepted_as();
        writeln!(out, "      package = {}", toml(package))?;
        writeln!(out, "      versions = {}", toml(version))?;
        writeln!(out, "      rule = \"{}\"", finding.rule)?;
        writeln!(out, "      reason = \"\"")?;
        writeln!(out, "      until = \"{until}\"\n")?;
    }
    warnings(out, report)?;
    for finding in report.findings.iter().filter(|finding| finding.excepted.is_some()) {
        let reason = finding.excepted.as_deref().unwrap_or_default();
        let (name, version) = names(finding);
        writeln!(out, "accepted  {name} {version}: {} ({})", finding.rule, line(reason))?;
    }
    for note in report.exception_notes() {
        writeln!(out, "{note}")?;
    }
    summary(out, report)
}

/// Describes an exception in words.
pub(super) fn describe(exception: &Exception) -> String {
    let versions = exception.versions.as_deref().unwrap_or("(all versions)");
    let until = exception.until.as_ref().map(|day| format!(" until {}", line(day)));
    let (package, rule) = (line(&exception.package), exception.rule);
    format!("for {package} {}, {rule}{},", line(versions), until.unwrap_or_default())
        .trim_end_matches(',')
        .to_owned()
}

fn names(finding: &Finding) -> (String, String) {
    (line(finding.id.name.as_str()), line(finding.id.version.as_str()))
}

fn finding(out: &mut String, finding: &Finding) -> std::fmt::Result {
    let (name, version) = names(finding);
    writeln!(out, "{:<5} {name} {version}: {}", finding.level.to_string(), finding.rule)?;
    // Text from outside must not begin a line: a workflow would take `::` there for a command.
    writeln!(out, "  - {}", line(&finding.message))?;
    writeln!(out, "  - {}:{}", line(&finding.file), finding.line)
}

fn warnings(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut by_rule: BTreeMap<Rule, Vec<&Finding>> = BTreeMap::new();
    for finding in report.of_level(Level::Warn) {
        by_rule.entry(finding.rule).or_default().push(finding);
    }
    for (rule, findings) in by_rule {
        writeln!(out, "warn  {rule}: {} {}", rule.text(), rule.advice())?;
        for finding in findings.iter().take(LISTED) {
            let (name, version) = names(finding);
            let message = line(&finding.message);
            writeln!(
                out,
                "  - {name} {version} ({}:{}): {message}",
                line(&finding.file),
                finding.line
            )?;
        }
        if findings.len() > LISTED {
            writeln!(out, "    and {} more; --format json lists all", findings.len() - LISTED)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn summary(out: &mut String, report: &Report) -> std::fmt::Result {
    let count = |level| report.of_level(level).count();
    let excepted = report.findings.iter().filter(|finding| finding.excepted.is_some()).count();
    let new = if report.is_diff { "new " } else { "" };
    let some =
        |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    writeln!(
        out,
        "{} asked about, {}, {}, {excepted} accepted.",
        some(report.asked, &format!("{new}package")),
        some(count(Level::Error), "error"),
        some(count(Level::Warn), "warning"),
    )?;
    let kinds = report.not_audited_by_kind();
    if !kinds.is_empty() {
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(kind, entries)| {
                let mut names: Vec<_> = entries.iter().map(|entry| line(&entry.name)).collect();
                names.dedup();
                let more = if names.len() > 3 { ", …" } else { "" };
                names.truncate(3);
                format!("{} {kind} ({}{more})", entries.len(), names.join(", "))
            })
            .collect();
        writeln!(out, "Not audited, and not sent: {}.", kinds.join("; "))?;
    }
    if let Some(failure) = &report.failure {
        writeln!(out, "NOT COMPLETE: {}", line(failure))?;
    }
    if let Some(hint) = &report.hint {
        writeln!(out, "{}", text(hint))?;
    }
    let result = match report.exit() {
        Exit::Clean if report.asked == 0 => "nothing new",
        Exit::Clean => "no rule with the level error is broken",
        Exit::Broken => "a rule with the level error is broken",
        Exit::Nothing if report.files.is_empty() => "there is no lockfile here",
        Exit::Nothing => "nothing to audit",
        Exit::Unanswered | Exit::Usage => "not everything was answered",
    };
    writeln!(out, "Result: {result} (exit code {}).", report.exit().code())
}
