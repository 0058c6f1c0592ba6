//! Logs: one subscriber for the process, to standard error, so that standard output stays free for what commands print.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event, for collectors.
    Json,
}

/// The table `log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `text` or `json`.
    pub format: LogFormat,
    /// What is logged: a level, or `target=level` pairs, as `tracing_subscriber::EnvFilter` reads them.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Installs the subscriber. The first call decides; later ones only check their settings, so that a process with two
/// daemons in it has one log.
///
/// # Errors
/// [`ConfigError::Invalid`] for `log.filter` when it is no filter.
pub fn init(settings: &LogSettings) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| ConfigError::invalid("log.filter", error.to_string()))?;
    let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !*installed {
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A subscriber that somebody else has set stays: a test harness may have its own.
        let _ = match settings.format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        *installed = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_names_its_key() {
        let settings = LogSettings { filter: "info,=".into(), ..LogSettings::default() };
        let error = init(&settings).unwrap_err().to_string();
        assert!(error.contains("log.filter"), "{error}");
    }

    #[test]
    fn a_second_call_is_no_error() {
        let settings = LogSettings { filter: "off".into(), format: LogFormat::Json };
        init(&settings).unwrap();
        init(&LogSettings { format: LogFormat::Text, ..settings }).unwrap();
    }
}
