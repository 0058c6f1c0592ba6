//! A record of the dead-letter topic: its headers, and the selection of letters by an operator.

mod original;
mod read;

use clap::Args;
use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::commands::bound::{BoundArgument, InvalidRange};
use crate::decode::rejection::Code;
use crate::evidence;
use crate::kafka::Bound;
use crate::record::Record;

pub(crate) use original::Originals;
pub(crate) use read::{DeadLetterRanges, ORIGINAL_GONE, find, read};

/// Which dead letters are meant; without any of these, all. Also stored in a job's row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Selection {
    /// Only of this code; may be repeated
    #[arg(long = "code", value_name = "CODE", value_parser = code)]
    codes: Vec<String>,
    /// Only rejected at this time or later: RFC 3339, or a span back from now such as 12h
    // In milliseconds since 1970, as is `until`.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<i64>,
    /// Only rejected at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<i64>,
    /// Only of this partition of the dead-letter topic; may be repeated
    #[arg(long = "partition", value_name = "N")]
    pub(super) partitions: Vec<i32>,
}

fn code(text: &str) -> Result<String, String> {
    let known = Code::ALL.iter().map(|code| code.as_str());
    if known.clone().any(|code| code == text) {
        return Ok(text.to_owned());
    }
    Err(format!("the codes are {}", known.collect::<Vec<_>>().join(", ")))
}

/// Parses a time in milliseconds since 1970.
fn time(text: &str) -> Result<i64, String> {
    match text.parse::<BoundArgument>().map(|argument| argument.bound) {
        Ok(Bound::Time(millis)) => Ok(millis),
        _ => {
            Err("neither a time such as 2026-03-05T10:00:00Z, nor a span back from now such as 2h"
                .into())
        }
    }
}

impl Selection {
    /// Refuses a selection that ends before it begins, or begins in the future.
    pub(crate) fn check_order(&self) -> Result<(), InvalidRange> {
        if self.since.zip(self.until).is_some_and(|(since, until)| since > until) {
            return Err(InvalidRange("--since is later than --until".to_owned()));
        }
        let now = evidence::now().as_micros().div_euclid(1_000);
        if self.since.is_some_and(|since| since > now) {
            return Err(InvalidRange("--since is still to come".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn matches(&self, letter: &DeadLetter<'_>) -> bool {
        let at = letter.at().map(|at| at.as_micros().div_euclid(1_000));
        (self.codes.is_empty() || letter.code().is_some_and(|code| self.codes.contains(&code)))
            && self.since.is_none_or(|since| at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at.is_some_and(|at| at <= until))
    }
}

/// A dead letter, read through its headers.
#[derive(Clone, Copy)]
pub(crate) struct DeadLetter<'a>(pub(crate) &'a Record);

impl DeadLetter<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.0.header(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The code of the rejection.
    pub(crate) fn code(&self) -> Option<String> {
        self.text("publication.error.code")
    }

    /// The message of the rejection, which quotes no value.
    pub(crate) fn message(&self) -> Option<String> {
        self.text("__connect.errors.exception.message")
    }

    /// The time of the rejection.
    pub(crate) fn at(&self) -> Option<Timestamp> {
        Timestamp::parse(&self.text("publication.error.at")?).ok()
    }

    /// How often the record was rejected.
    pub(crate) fn attempts(&self) -> u32 {
        self.text("publication.error.attempts").and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// Topic, partition and offset of the original record.
    pub(crate) fn origin(&self) -> String {
        let part = |name| self.text(name).unwrap_or_else(|| "?".to_owned());
        ["__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset"]
            .map(part)
            .join("/")
    }

    /// The position of the original record.
    fn place(&self) -> Option<(String, i32, i64)> {
        let part = |name: &str| self.text(&format!("__connect.errors.{name}"));
        Some((part("topic")?, part("partition")?.parse().ok()?, part("offset")?.parse().ok()?))
    }

    /// The original record's timestamp in milliseconds, if the letter's own differs.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        self.text("publication.record.timestamp")?.parse().ok()
    }

    /// Whether a part of the record (`value`, `headers`, `key`) was left out because the topic refused the complete letter.
    fn is_without(&self, part: &str) -> bool {
        self.text(&format!("publication.{part}.omitted")).as_deref() == Some("true")
    }
}
