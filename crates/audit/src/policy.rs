//! The policy: how serious each rule is, and which packages are excepted.

use model::{PublicationId, Timestamp};
use nodejs_semver::{Range, Version};
use serde::Deserialize;

use crate::finding::Finding;
use crate::rule::{Level, Rule};

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, an unknown key, a wrong type.
    #[error("line {line}: {message}")]
    Toml {
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key of a rule that does not have it, or a value out of its bounds.
    #[error("rules.{rule}: {message}")]
    Rule {
        /// The rule.
        rule: Rule,
        /// What is wrong.
        message: &'static str,
    },
    /// A value of an exception that is not what it should be.
    #[error("exception {number}: {message}")]
    Exception {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        message: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rules: std::collections::BTreeMap<Rule, Setting>,
    #[serde(default)]
    exception: Vec<RawException>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
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

/// A package and a rule that are accepted, with the reason.
#[derive(Debug, Clone)]
pub struct Exception {
    /// The package's exact name.
    pub package: String,
    /// The versions, as they are written; all where there is none.
    pub versions: Option<String>,
    range: Option<Range>,
    /// The rule.
    pub rule: Rule,
    /// Why it is accepted.
    pub reason: String,
    /// The last day (UTC) on which it counts, `YYYY-MM-DD`.
    pub until: Option<String>,
    /// Whether that day is over.
    pub is_outdated: bool,
    /// Whether it covered a finding.
    pub is_used: bool,
}

impl Exception {
    fn covers(&self, rule: Rule, id: &PublicationId) -> bool {
        let version = id.version.as_str();
        let is_version = match (&self.range, &self.versions) {
            (Some(range), Some(text)) => {
                // A version that is not SemVer is in no range, but may stand there itself.
                text.split("||").any(|part| part.trim().trim_start_matches('=') == version)
                    || Version::parse(version).is_ok_and(|version| range.satisfies(&version))
            }
            _ => true,
        };
        self.rule == rule && self.package == id.name.as_str() && is_version
    }
}

/// The levels and the exceptions.
#[derive(Debug, Clone)]
pub struct Policy {
    levels: Vec<(Rule, Level)>,
    /// After how many days an account is said to return.
    pub returning_days: i64,
    /// Below how many minutes a version is too young.
    pub young_minutes: i64,
    /// The exceptions in the order of the file.
    pub exceptions: Vec<Exception>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            levels: Rule::ALL.iter().map(|&rule| (rule, rule.default_level())).collect(),
            returning_days: 365,
            // A day: what package managers wait by default where they wait at all.
            young_minutes: 1_440,
            exceptions: Vec::new(),
        }
    }
}

impl Policy {
    /// Reads a policy. `now` decides which exceptions are out of date.
    ///
    /// # Errors
    /// [`PolicyError`] for anything that does not have a meaning: a policy that is read wrong protects nobody.
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
        if let Some(level) = table.level {
            let slot = self.levels.iter_mut().find(|(known, _)| *known == rule);
            slot.map(|slot| slot.1 = level).unwrap_or_default();
        }
        Ok(())
    }

    /// How serious a rule is.
    #[must_use]
    pub fn level(&self, rule: Rule) -> Level {
        let level = self.levels.iter().find(|(known, _)| *known == rule);
        level.map_or(rule.default_level(), |(_, level)| *level)
    }

    /// Marks the findings that exceptions cover, and the exceptions that are used.
    pub fn except(&mut self, findings: &mut [Finding]) {
        for finding in findings {
            for exception in &mut self.exceptions {
                if !exception.is_outdated && exception.covers(finding.rule, &finding.id) {
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
    let range = raw.versions.as_deref().map(Range::parse).transpose();
    let range = range.map_err(|_| "`versions` is not an npm range".to_owned())?;
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

/// The last microsecond of a day in UTC.
fn last_moment(day: &str) -> Result<Timestamp, String> {
    let is_day = day.len() == 10;
    let end = Timestamp::parse(&format!("{day}T23:59:59.999999Z"));
    end.ok().filter(|_| is_day).ok_or_else(|| "`until` is not a day, YYYY-MM-DD".to_owned())
}
