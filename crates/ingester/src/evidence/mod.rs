//! The evidence about Tor: loaded at the start, and refreshed from the directories during ingest.

pub(crate) mod fetch;
pub(crate) mod settle;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use enrich::{Change, ExitHistory, Library, LoadError, Places, Source};
use model::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::evidence::settle::SettledPartitions;
use crate::settings::Settings;

/// The observer of the state of the lists.
pub(crate) trait EvidenceObserver: Send + Sync {
    /// A list of the source was refused.
    fn refused(&self, source: Source);

    /// The age in seconds of the newest valid list of the source; `None` without a valid list.
    fn newest(&self, source: Source, age: Option<f64>);
}

/// Ignores all calls.
impl EvidenceObserver for () {
    fn refused(&self, _: Source) {}

    fn newest(&self, _: Source, _: Option<f64>) {}
}

/// The library of all sources, and the observer of its changes.
pub(crate) struct EvidenceLoader {
    library: Library,
    observer: Arc<dyn EvidenceObserver>,
    settings: Settings,
    /// The last error of a refresh, so that it is logged once.
    trouble: Option<String>,
}

impl EvidenceLoader {
    /// Reads all lists; refused files are counted and logged. Blocks.
    ///
    /// # Errors
    /// When a configured directory or file is missing or cannot be read.
    pub(crate) fn load(
        settings: &Settings,
        observer: Arc<dyn EvidenceObserver>,
    ) -> anyhow::Result<Self> {
        let mut loader = Self::with_places(settings, places(settings), observer)?;
        loader.refresh().context("loading exit lists")?;
        Ok(loader)
    }

    /// Like [`Self::load`], for a daemon: an unreadable directory or file is logged and left out, and each refresh tries
    /// it again. Verdicts lack its lists until then; settling corrects them later. Blocks.
    ///
    /// # Errors
    /// When the rules of `tor` are invalid.
    pub(crate) fn load_what_is_there(
        settings: &Settings,
        observer: Arc<dyn EvidenceObserver>,
    ) -> anyhow::Result<Self> {
        let mut loader = Self::with_places(settings, places(settings), observer)?;
        while let Err(error) = loader.refresh() {
            let Some(key) = loader.unreadable(&error) else { return Err(error) };
            loader.library =
                Library::new(without(loader.library.places(), key), settings.tor_rules()?);
        }
        Ok(loader)
    }

    fn with_places(
        settings: &Settings,
        places: Places,
        observer: Arc<dyn EvidenceObserver>,
    ) -> anyhow::Result<Self> {
        let library = Library::new(places, settings.tor_rules()?);
        Ok(Self { library, observer, settings: settings.clone(), trouble: None })
    }

    /// The present evidence.
    pub(crate) fn history(&self) -> Arc<ExitHistory> {
        Arc::new(self.library.history().clone())
    }

    /// Refreshes the lists until `stop` is cancelled. Changed evidence replaces the old as a whole, then settling is
    /// notified. If a directory cannot be read, nothing changes.
    ///
    /// # Errors
    /// When a refresh panicked.
    pub(crate) async fn keep_up(
        mut self,
        shown: watch::Sender<Arc<ExitHistory>>,
        settled: Arc<SettledPartitions>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let refresh_every = self.settings.tor.refresh_every;
        while stop.run_until_cancelled(tokio::time::sleep(refresh_every)).await.is_some() {
            let known = self.library.history().evidence_until();
            let change;
            // Reading files blocks, and years of lists take a while.
            (self, change) = tokio::task::spawn_blocking(move || {
                let change = self.look_again();
                (self, change)
            })
            .await?;
            if let Some(change) = change.filter(|change| change.changed) {
                shown.send_replace(self.history());
                // Only a list older than the known evidence concerns publications that are already settled.
                let older = change
                    .oldest_newly_valid
                    .filter(|&oldest| known.is_none_or(|known| oldest < known));
                settled
                    .evidence_changed(older.map(|oldest| oldest.before(self.settings.tor.window)));
            }
        }
        Ok(())
    }

    /// Refreshes the lists. An error is logged when it begins and when it ends.
    fn look_again(&mut self) -> Option<Change> {
        let all = places(&self.settings);
        let change = if *self.library.places() == all {
            self.refresh()
        } else {
            // Some places were unreadable at the start. The library is replaced when all of them can be read.
            Self::with_places(&self.settings, all, self.observer.clone()).and_then(|mut whole| {
                let change = whole.refresh()?;
                self.library = whole.library;
                Ok(change)
            })
        };
        match change {
            Ok(change) => {
                if self.trouble.take().is_some() {
                    tracing::info!("exit lists can be looked through again");
                }
                Some(change)
            }
            Err(error) => {
                self.unreadable(&error);
                None
            }
        }
    }

    /// Logs a new error of a refresh. Returns the configuration key of the unreadable place.
    fn unreadable(&mut self, error: &anyhow::Error) -> Option<&'static str> {
        let reason = format!("{error:#}");
        if self.trouble.as_ref() != Some(&reason) {
            tracing::error!(
                reason,
                "exit lists cannot be looked through: verdicts lack them until they can"
            );
            self.trouble = Some(reason);
        }
        error.downcast_ref::<LoadError>().map(|error| error.key)
    }

    fn refresh(&mut self) -> anyhow::Result<Change> {
        let change = self.library.refresh(now())?;
        for refused in &change.refused {
            let source = refused.source.as_str();
            self.observer.refused(refused.source);
            tracing::warn!(source, path = %refused.path.display(), reason = %refused.reason, "exit list refused");
        }
        let history = self.library.history();
        for source in Source::ALL {
            let newest = history.newest(source);
            self.observer
                .newest(source, newest.map(|newest| now().micros_since(newest) as f64 / 1e6));
            if let Some(newest) = newest.filter(|_| change.changed) {
                tracing::info!(source = source.as_str(), valid = history.valid(source), %newest, "exit lists");
            }
        }
        Ok(change)
    }
}

/// The places without that of this configuration key.
fn without(places: &Places, key: &str) -> Places {
    let mut places = places.clone();
    match key {
        "tor.exit_lists" => places.exit_lists = None,
        "tor.snapshots" => places.snapshots = None,
        _ => places.anonymous_ip = None,
    }
    places
}

/// The configured places of the sources.
pub(crate) fn places(settings: &Settings) -> Places {
    let configured = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    Places {
        exit_lists: configured(&settings.tor.exit_lists),
        snapshots: configured(&settings.tor.snapshots),
        anonymous_ip: configured(&settings.tor.anonymous_ip),
    }
}

/// The clock for lists; it is never used for records.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(0)
        .after(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
