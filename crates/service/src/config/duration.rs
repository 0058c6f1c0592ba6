//! Durations in settings, such as `15s`.

use std::time::Duration;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serializer};

/// The longest: a century. With more, sums of times would overflow.
const MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Reads a duration in words, for `#[serde(with = "…")]`.
///
/// # Errors
/// If it is not a duration, or longer than a century.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let expected = "a time with its unit, such as \"90s\", at most 100 years";
    let wrong = || D::Error::invalid_value(Unexpected::Other("something else"), &expected);
    let text = String::deserialize(deserializer).map_err(|_| wrong())?;
    let duration = humantime::parse_duration(&text).ok().filter(|duration| *duration <= MAX);
    duration.ok_or_else(wrong)
}

/// Writes a duration in words.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}
