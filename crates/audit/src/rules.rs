//! Evaluates the rules on a publication, its history and its lockfile entries.

use model::{PublicationId, Timestamp};

use crate::answer::{Info, Package};
use crate::finding::Finding;
use crate::integrity;
use crate::policy::Policy;
use crate::rule::{Level, Rule};
use crate::select::{Disagreement, Occurrence};

const DAY: i64 = 86_400 * 1_000_000;
const MINUTE: i64 = 60 * 1_000_000;

/// The findings for one publication. `package` is its answer; `None` when there is no record.
#[must_use]
pub fn evaluate(
    id: &PublicationId,
    occurrences: &[Occurrence],
    package: Option<&Package>,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Finding> {
    let mut broken: Vec<(Rule, String, &Occurrence)> = Vec::new();
    let Some(first) = occurrences.first() else { return Vec::new() };
    let info = package.and_then(|package| package.publication_info.as_ref());
    for occurrence in occurrences {
        if let Some(disagreement) = &occurrence.disagreement {
            broken.push((Rule::Location, location(disagreement, id), occurrence));
        }
        let row = info.and_then(|info| info.integrity.as_ref());
        if let (Some(listed), Some(row)) = (&occurrence.integrity, row)
            && integrity::contradict(listed, row)
        {
            let message =
                "The digest in the lockfile is not that of the published artifact.".to_owned();
            broken.push((Rule::Integrity, message, occurrence));
        }
    }
    match (package, info) {
        (Some(package), Some(info)) => {
            let facts = Facts { package, info, policy, now };
            broken.extend(facts.broken().into_iter().map(|(rule, text)| (rule, text, first)));
        }
        _ => broken.push((Rule::Unknown, "No publication is on record.".to_owned(), first)),
    }
    let findings = broken.into_iter().map(|(rule, message, at)| Finding {
        rule,
        level: policy.level(rule),
        id: id.clone(),
        entry: at
            .disagreement
            .as_ref()
            .filter(|_| rule == Rule::Location)
            .and_then(|it| it.entry(id)),
        file: at.file.clone(),
        line: at.line,
        message,
        excepted: None,
    });
    findings.filter(|finding| finding.level != Level::Off).collect()
}

fn location(disagreement: &Disagreement, id: &PublicationId) -> String {
    match disagreement {
        Disagreement::Other { name, version } => {
            let version = version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
            format!(
                "The lockfile lists it as {name}{version}, but the location is the tarball of {} {}.",
                id.name, id.version
            )
        }
        Disagreement::Unreadable => "The location does not say which package it is.".to_owned(),
        Disagreement::Shrinkwrap => {
            "Its own npm-shrinkwrap.json decides which packages are installed below it.".to_owned()
        }
    }
}

struct Facts<'a> {
    package: &'a Package,
    info: &'a Info,
    policy: &'a Policy,
    now: Timestamp,
}

impl Facts<'_> {
    fn broken(&self) -> Vec<(Rule, String)> {
        let Info { tor, tfa, disputed, .. } = *self.info;
        let history = &self.package.history;
        let mut broken = Vec::new();
        if tor == Some(true) {
            broken.push((Rule::Tor, format!("Published over Tor{}.", self.when_and_who())));
        }
        if history.weaker == Some(true) {
            broken.push((Rule::Weaker, self.weaker()));
        }
        if history.new_publisher == Some(true) {
            let text = format!("The first publication of this package by {}", self.who());
            broken.push((Rule::NewPublisher, format!("{text}{}.", self.when())));
        }
        broken.extend(self.returning().map(|text| (Rule::ReturningPublisher, text)));
        if disputed {
            let text = "The registry sent records that contradict each other.".to_owned();
            broken.push((Rule::Disputed, text));
        }
        if tor.is_none() || tfa.is_none() {
            broken.push((Rule::Unknown, self.unknown()));
        }
        if tfa == Some(false) {
            let text = format!("Published without a second factor{}.", self.when_and_who());
            broken.push((Rule::NoSecondFactor, text));
        }
        broken.extend(self.too_young().map(|text| (Rule::TooYoung, text)));
        broken
    }

    fn created(&self) -> Option<Timestamp> {
        Timestamp::parse(self.info.created.as_deref()?).ok()
    }

    fn when(&self) -> String {
        self.info.created.as_deref().map(|time| format!(" on {}", day(time))).unwrap_or_default()
    }

    fn who(&self) -> &str {
        self.info.username.as_deref().unwrap_or("an account that is not known")
    }

    fn when_and_who(&self) -> String {
        format!("{} by {}", self.when(), self.who())
    }

    fn weaker(&self) -> String {
        let mut text = format!("Published with a single factor{}", self.when_and_who());
        if let Some(strongest) = &self.package.history.strongest {
            let method = match strongest.publication_info.method.as_deref() {
                Some("TRUSTED_PUBLISHER") => "by trusted publishing",
                Some("SECOND_FACTOR") => "with a second factor",
                _ => "by another method",
            };
            let before = strongest.publication_info.created.as_deref();
            let age = before
                .and_then(|time| Timestamp::parse(time).ok())
                .zip(self.created())
                .map(|(earlier, created)| format!(", {} before", span(earlier, created)))
                .unwrap_or_default();
            text.push_str(&format!("; {} was published {method}{age}", strongest.version));
        }
        text.push('.');
        text
    }

    fn returning(&self) -> Option<String> {
        let last = self.package.history.publisher_last.as_deref()?;
        let (last, created) = (Timestamp::parse(last).ok()?, self.created()?);
        let gap = created.as_micros() - last.as_micros();
        (gap > self.policy.returning_days.saturating_mul(DAY)).then(|| {
            let who = self.who();
            format!("{who} published this package again after {}.", span(last, created))
        })
    }

    fn unknown(&self) -> String {
        let what = match (self.info.tor, self.info.tfa) {
            (None, None) => "over Tor or with a second factor",
            (None, Some(_)) => "over Tor",
            _ => "with a second factor",
        };
        format!("It is not known whether it was published {what}.")
    }

    fn too_young(&self) -> Option<String> {
        let age = self.now.as_micros() - self.created()?.as_micros();
        (age < self.policy.young_minutes.saturating_mul(MINUTE)).then(|| {
            let minutes = age.max(0) / MINUTE;
            format!("Published {minutes} minutes ago{}.", self.when())
        })
    }
}

/// The day of an RFC 3339 time.
fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

/// A duration in words.
fn span(from: Timestamp, to: Timestamp) -> String {
    let days = (to.as_micros() - from.as_micros()) / DAY;
    let (count, unit) = match days {
        0 => return "less than a day".to_owned(),
        1..=13 => (days, "day"),
        14..=89 => (days / 7, "week"),
        90..=729 => (days / 30, "month"),
        _ => (days / 365, "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
