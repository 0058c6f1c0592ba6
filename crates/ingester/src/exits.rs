//! The evidence about Tor: loaded at start from where the operator keeps it.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;
use enrich::{ExitHistory, Library, Places, Source};
use model::Timestamp;

use crate::metrics::IngesterMetrics;
use crate::settings::Settings;

/// The library of all sources, and what is told about it.
#[derive(Debug)]
pub(crate) struct Exits {
    library: Library,
}

impl Exits {
    /// Reads everything there is; refused files are counted and named.
    ///
    /// # Errors
    /// When a configured directory or file is missing or cannot be looked through.
    pub(crate) fn load(settings: &Settings, metrics: &IngesterMetrics) -> anyhow::Result<Self> {
        let configured = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let places = Places {
            exit_lists: configured(&settings.tor.exit_lists),
            snapshots: configured(&settings.tor.snapshots),
            anonymous_ip: configured(&settings.tor.anonymous_ip),
        };
        let mut library = Library::new(places, settings.tor_rules()?);
        let change = library.refresh(now()).context("loading exit lists")?;
        for refused in &change.refused {
            let source = refused.source.as_str();
            metrics.exit_lists_refused_total.with_label_values(&[source]).inc();
            tracing::warn!(source, path = %refused.path.display(), reason = %refused.reason, "exit list refused");
        }
        let exits = Self { library };
        for source in Source::ALL {
            let (source_name, valid) = (source.as_str(), exits.history().valid(source));
            if valid > 0 {
                tracing::info!(source = source_name, valid, newest = ?exits.history().newest(source), "exit lists loaded");
            }
        }
        exits.show_age(metrics);
        Ok(exits)
    }

    /// The evidence as it stands.
    pub(crate) fn history(&self) -> &ExitHistory {
        self.library.history()
    }

    /// Shows how old the newest list of each source is.
    pub(crate) fn show_age(&self, metrics: &IngesterMetrics) {
        let now = now();
        for source in Source::ALL {
            if let Some(newest) = self.history().newest(source) {
                let age = now.micros_since(newest) as f64 / 1e6;
                metrics.exit_list_age_seconds.with_label_values(&[source.as_str()]).set(age);
            }
        }
    }
}

/// The clock, for what is about lists and not about records.
fn now() -> Timestamp {
    Timestamp::from_micros(0)
        .after(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
