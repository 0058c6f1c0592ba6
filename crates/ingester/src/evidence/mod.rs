//! The evidence about Tor: loaded at start, and kept up with what lies in the directories while records flow.

pub(crate) mod fetch;
pub(crate) mod settle;
pub(crate) mod settled;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use enrich::{Change, ExitHistory, Library, Places, Source};
use model::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::daemon::metrics::IngesterMetrics;
use crate::evidence::settle::Trigger;
use crate::settings::Settings;

/// The library of all sources, and who is told of its changes.
pub(crate) struct EvidenceLoader {
    library: Library,
    metrics: Arc<IngesterMetrics>,
    refresh_every: Duration,
    /// How far an act may lie behind a sighting and still be true by it.
    reach: Duration,
}

impl EvidenceLoader {
    /// Reads everything there is; refused files are counted and named. Blocks.
    ///
    /// # Errors
    /// When a configured directory or file is missing or cannot be looked through.
    pub(crate) fn load(settings: &Settings, metrics: Arc<IngesterMetrics>) -> anyhow::Result<Self> {
        let rules = settings.tor_rules()?;
        let reach = rules.window;
        let library = Library::new(places(settings), rules);
        let mut exits = Self { library, metrics, refresh_every: settings.tor.refresh_every, reach };
        exits.refresh().context("loading exit lists")?;
        Ok(exits)
    }

    /// The evidence as it stands.
    pub(crate) fn history(&self) -> Arc<ExitHistory> {
        Arc::new(self.library.history().clone())
    }

    /// Looks for new, changed and vanished lists until `stop` is cancelled. A change is swapped in whole, then settling
    /// is told; a directory that cannot be read leaves everything as it is.
    pub(crate) async fn keep_up(
        mut self,
        shown: watch::Sender<Arc<ExitHistory>>,
        settling: Arc<Trigger>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        while stop.run_until_cancelled(tokio::time::sleep(self.refresh_every)).await.is_some() {
            let known = self.library.history().evidence_until();
            let change;
            // Reading files blocks, and years of them take a while.
            (self, change) = tokio::task::spawn_blocking(move || {
                let change = self.refresh();
                (self, change)
            })
            .await?;
            match change {
                Ok(change) if change.changed => {
                    shown.send_replace(self.history());
                    // A list older than what was known concerns acts that are settled already.
                    let older = change
                        .oldest_newly_valid
                        .filter(|&oldest| known.is_none_or(|known| oldest < known));
                    settling.evidence_changed(older.map(|oldest| oldest.before(self.reach)));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "exit lists cannot be looked through"
                ),
            }
        }
        Ok(())
    }

    fn refresh(&mut self) -> anyhow::Result<Change> {
        let change = self.library.refresh(now())?;
        for refused in &change.refused {
            let source = refused.source.as_str();
            self.metrics.exit_lists_refused_total.with_label_values(&[source]).inc();
            tracing::warn!(source, path = %refused.path.display(), reason = %refused.reason, "exit list refused");
        }
        for source in Source::ALL {
            let history = self.library.history();
            let Some(newest) = history.newest(source) else {
                // An error only says that there is no such series.
                let _ = self.metrics.exit_list_age_seconds.remove_label_values(&[source.as_str()]);
                continue;
            };
            let age = now().micros_since(newest) as f64 / 1e6;
            self.metrics.exit_list_age_seconds.with_label_values(&[source.as_str()]).set(age);
            if change.changed {
                tracing::info!(source = source.as_str(), valid = history.valid(source), %newest, "exit lists");
            }
        }
        Ok(change)
    }
}

/// Where the sources lie by the configuration.
pub(crate) fn places(settings: &Settings) -> Places {
    let configured = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    Places {
        exit_lists: configured(&settings.tor.exit_lists),
        snapshots: configured(&settings.tor.snapshots),
        anonymous_ip: configured(&settings.tor.anonymous_ip),
    }
}

/// The clock, for what is about lists and never about records.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(0)
        .after(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
