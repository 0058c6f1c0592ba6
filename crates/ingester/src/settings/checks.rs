//! The values that `[events]`, `[enrich]`, `[tor]` and `[tfa]` accept.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use service::config::ConfigError;
use ureq::http::Uri;

use super::{Events, Tfa, Tor};

pub(super) const GREATEST_GENERATION: &str = "must be at most 2147483647";

/// A number that is too large for the type gets the same message as one that is too large for the database.
pub(super) fn generation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    u64::deserialize(deserializer)?.try_into().map_err(|_| D::Error::custom(GREATEST_GENERATION))
}

impl Events {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        // Every record would be skipped.
        let kind = &self.kind;
        if kind.is_empty() || kind.trim() != kind || kind.contains(char::is_control) {
            let message =
                "must not be empty, and have no control characters and no blanks at its ends";
            return Err(ConfigError::invalid("events.type", message));
        }
        Ok(())
    }
}

impl Tor {
    /// Settling reaches back for days, and more would call addresses exits that have long had other owners.
    const LONGEST_WINDOW: Duration = Duration::from_secs(30 * 24 * 3_600);

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.poll_url.is_empty() && self.exit_lists.as_os_str().is_empty() {
            let message = "needs tor.exit_lists to file what it fetches";
            return Err(ConfigError::invalid("tor.poll_url", message));
        }
        if !self.poll_url.is_empty() && !is_web_address(&self.poll_url) {
            return Err(ConfigError::invalid("tor.poll_url", "must be an http or https URL"));
        }
        for (key, span) in [
            ("tor.poll_every", self.poll_every),
            ("tor.poll_timeout", self.poll_timeout),
            ("tor.refresh_every", self.refresh_every),
        ] {
            if span < Duration::from_secs(1) {
                return Err(ConfigError::invalid(key, "must be at least 1s"));
            }
        }
        if self.window > Self::LONGEST_WINDOW {
            return Err(ConfigError::invalid("tor.window", "must be at most 30days"));
        }
        // A list at the end of the coverage must still count for the addresses that it has. The window's end is not part of it.
        if self.coverage >= self.window {
            let message = "must be less than tor.window: else an address of a list could count as missing from it";
            return Err(ConfigError::invalid("tor.coverage", message));
        }
        Ok(())
    }
}

impl Tfa {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.acr_true.iter().any(|level| self.acr_false.contains(level)) {
            let message = "has a level of tfa.acr_true: a level can mean one of the two";
            return Err(ConfigError::invalid("tfa.acr_false", message));
        }
        Ok(())
    }
}

fn is_web_address(text: &str) -> bool {
    text.parse::<Uri>()
        .is_ok_and(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")))
}
