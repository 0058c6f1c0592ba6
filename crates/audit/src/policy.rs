//! The policy: the levels of the rules, and the exceptions.

use std::collections::BTreeMap;

use model::Timestamp;
use nodejs_semver::{Range, Version};
use serde::Deserialize;

use crate::finding::Finding;
use crate::rule::{Level, Rule};

/// Why a policy is invalid.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Invalid TOML, an unknown key, or a wrong type.
    #[error("line {line}: {message}")]
    Toml {
        /// The line, from 1.
        line: usize,
        /// The error.
        message: String,
    },
    /// A key that the rule does not have, or a value out of range.
    #[error("rules.{rule}: {message}")]
    Rule {
        /// The rule.
        rule: Rule,
        /// The error.
        message: &'static str,
    },
    /// An invalid value in an exception.
    #[error("exception {number}: {message}")]
    Exception {
        /// The number of the exception, from 1.
        number: usize,
        /// The error.
        message: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rules: BTreeMap<Rule, Setting>,
    #[serde(default)]
    exception: Vec<RawException>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a rule is `error`, `warn` or `off`, or a table of `level`, `days` and `minutes`"
)]
enum Setting {
    Level(Level),
    Table(Table),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    level: Option<Level>,
    days: Option<i64>,
    minutes: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawException {
    package: String,
    versions: Option<String>,
    rule: Rule,
    reason: String,
    until: Option<Until>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Until {
    Date(toml::value::Datetime),
    Text(String),
}

/// An accepted finding: package, rule and reason.
#[derive(Debug, Clone)]
pub struct Exception {
    /// The exact name of the package.
    pub package: String,
    /// The version range as written; `None` = all versions.
    pub versions: Option<String>,
    range: Option<Range>,
    /// The rule.
    pub rule: Rule,
    /// Why the finding is accepted.
    pub reason: String,
    /// The last day (UTC) on which the exception is valid, `YYYY-MM-DD`.
    pub until: Option<String>,
    /// Whether the last day has passed.
    pub is_outdated: bool,
    /// Whether it matched a finding.
    pub is_used: bool,
}

impl Exception {
    fn covers(&self, finding: &Finding) -> bool {
        let (name, version) = finding.accepted_as();
        let is_version = match (&self.range, &self.versions) {
            (Some(range), Some(text)) => {
                // A version that is not SemVer is in no range, but can be listed itself.
                text.split("||").any(|part| part.trim().trim_start_matches('=') == version)
                    || Version::parse(version).is_ok_and(|version| range.satisfies(&version))
            }
            _ => true,
        };
        self.rule == finding.rule && self.package == name && is_version
    }
}

/// The policy: levels and exceptions.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The levels that are not the default.
    levels: BTreeMap<Rule, Level>,
    /// An account is "returning" after this many days.
    pub returning_days: i64,
    /// A version is "too young" for this many minutes.
    pub young_minutes: i64,
    /// The exceptions in the order of the file.
    pub exceptions: Vec<Exception>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            levels: BTreeMap::new(),
            returning_days: 365,
            // A day, the usual default of package managers that support a delay.
            young_minutes: 1_440,
            exceptions: Vec::new(),
        }
    }
}

impl Policy {
    /// Parses a policy. `now` decides which exceptions are outdated.
    ///
    /// # Errors
    /// [`PolicyError`] for unknown keys and invalid values, because a misread policy protects nobody.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, PolicyError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
            PolicyError::Toml { line, message: error.message().to_owned() }
        })?;
        let mut policy = Self::default();
        for (rule, setting) in file.rules {
            policy.set(rule, setting)?;
        }
        for (index, raw) in file.exception.into_iter().enumerate() {
            let exception = exception(raw, now)
                .map_err(|message| PolicyError::Exception { number: index + 1, message })?;
            policy.exceptions.push(exception);
        }
        Ok(policy)
    }

    fn set(&mut self, rule: Rule, setting: Setting) -> Result<(), PolicyError> {
        let table = match setting {
            Setting::Level(level) => Table { level: Some(level), days: None, minutes: None },
            Setting::Table(table) => table,
        };
        let fails = |message| Err(PolicyError::Rule { rule, message });
        if let Some(days) = table.days {
            if rule != Rule::ReturningPublisher || days < 0 {
                return fails("`days` is a number from 0, of returning-publisher alone");
            }
            self.returning_days = days;
        }
        if let Some(minutes) = table.minutes {
            if rule != Rule::TooYoung || minutes < 0 {
                return fails("`minutes` is a number from 0, of too-young alone");
            }
            self.young_minutes = minutes;
        }
        self.levels.extend(table.level.map(|level| (rule, level)));
        Ok(())
    }

    /// The level of a rule.
    #[must_use]
    pub fn level(&self, rule: Rule) -> Level {
        self.levels.get(&rule).copied().unwrap_or(rule.default_level())
    }

    /// Marks the findings that exceptions match, and the exceptions that are used.
    pub fn except(&mut self, findings: &mut [Finding]) {
        for finding in findings {
            for exception in &mut self.exceptions {
                if !exception.is_outdated && exception.covers(finding) {
                    exception.is_used = true;
                    finding.excepted.get_or_insert_with(|| exception.reason.clone());
                }
            }
        }
    }
}

fn exception(raw: RawException, now: Timestamp) -> Result<Exception, String> {
    if raw.package.trim().is_empty() {
        return Err("`package` is empty".to_owned());
    }
    if raw.reason.trim().is_empty() {
        return Err("`reason` is empty: the next reader must know why".to_owned());
    }
    let range = raw.versions.as_deref().map(range).transpose()?;
    let until = match raw.until {
        None => None,
        Some(Until::Text(text)) => Some(text),
        Some(Until::Date(date)) => Some(date.to_string()),
    };
    let last = until.as_deref().map(last_moment).transpose()?;
    Ok(Exception {
        package: raw.package,
        versions: raw.versions,
        range,
        rule: raw.rule,
        reason: raw.reason,
        is_outdated: last.is_some_and(|last| now > last),
        until,
        is_used: false,
    })
}

/// Parses an npm range. Because the parser skips what it does not understand, each version is parsed alone too. The
/// comparators of one alternative must have a version in common: the parser takes them for alternatives if they have none.
fn range(text: &str) -> Result<Range, String> {
    let is_valid = |alternative: &str| {
        let comparators = comparators(alternative)?.into_iter();
        comparators
            .map(|text| Range::parse(text).ok())
            .try_fold(Range::any(), |all, next| all.intersect(&next?))
    };
    let range = Range::parse(text).ok();
    let range = range.filter(|_| text.split("||").all(|part| is_valid(part).is_some()));
    range
        .ok_or_else(|| "`versions` is not an npm range, or has a part without a version".to_owned())
}

/// Splits `>=1.2 < 2` into comparators. An operator belongs to the version behind it, and `1.2 - 2` is one comparator.
fn comparators(alternative: &str) -> Option<Vec<String>> {
    let tokens: Vec<&str> = alternative.split_whitespace().collect();
    if let [low, "-", high] = *tokens {
        return (is_version(low) && is_version(high)).then(|| vec![alternative.to_owned()]);
    }
    let mut comparators: Vec<String> = Vec::new();
    let mut is_open = false;
    for token in tokens {
        let is_operator = token.chars().all(|letter| "<>=~^".contains(letter));
        match comparators.last_mut() {
            _ if is_operator && is_open => return None,
            Some(last) if is_open => last.push_str(token),
            _ => comparators.push(token.to_owned()),
        }
        is_open = is_operator;
    }
    (!is_open && comparators.iter().all(|text| is_comparator(text))).then_some(comparators)
}

/// An operator and a version, or a version alone. With an operator before `*`, npm has no version.
fn is_comparator(text: &str) -> bool {
    let operators = ["~>", ">=", "<=", "~", "^", ">", "<", "="];
    let version = operators.iter().find_map(|operator| text.strip_prefix(operator));
    version.map_or_else(
        || is_version(text),
        |version| is_version(version) && !version.starts_with(['*', 'x', 'X']),
    )
}

/// Whether npm reads the text as a version, of which parts may be missing or be `x`. Behind an `x` are no numbers, and numbers
/// have no leading zero.
fn is_version(text: &str) -> bool {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (core, suffix) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number =
        |part: &str| !part.is_empty() && is_digits(part) && (part == "0" || !part.starts_with('0'));
    let parts: Vec<&str> = core.split('.').collect();
    let numbers = parts.iter().take_while(|part| is_number(part)).count();
    let are_parts = parts.iter().skip(numbers).all(|part| matches!(*part, "x" | "X" | "*"));
    let prerelease = suffix.split('+').next().unwrap_or_default();
    let has_zero = |part: &str| part.len() > 1 && part.starts_with('0') && is_digits(part);
    parts.len() <= 3
        && are_parts
        && (suffix.is_empty() || numbers == 3)
        && !prerelease.trim_start_matches('-').split('.').any(has_zero)
}

/// The last microsecond of a day in UTC.
fn last_moment(day: &str) -> Result<Timestamp, String> {
    let is_day = day.len() == 10;
    let end = Timestamp::parse(&format!("{day}T23:59:59.999999Z"));
    end.ok().filter(|_| is_day).ok_or_else(|| "`until` is not a day, YYYY-MM-DD".to_owned())
}
