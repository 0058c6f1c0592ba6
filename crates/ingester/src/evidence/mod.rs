//! The evidence about Tor: loaded at the start, and refreshed from the directories during ingest.

pub(crate) mod fetch;
pub(crate) mod settle;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use enrich::{Change, ExitHistory, Library, Refusal, Refused, Source, SourcePaths};
use model::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::evidence::settle::SettledPartitions;
pub(crate) use crate::pipeline::now;
use crate::settings::Settings;

/// How often the ages of the lists are told while a refresh runs.
const TELL_AGES: Duration = Duration::from_secs(10);
/// How often an error of the refreshes is repeated in the log while it lasts.
const REMIND: Duration = Duration::from_secs(60);
/// A refresh that takes longer is probably stuck in a file system, such as a mount whose server is away. Six years of lists
/// take a quarter of a minute.
const LONG: Duration = Duration::from_secs(60);

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
    /// The error of the last refresh, and when it was logged.
    trouble: Option<(String, Instant)>,
}

impl EvidenceLoader {
    /// Reads all lists; refused files are counted and logged. Blocks.
    ///
    /// # Errors
    /// When a configured directory or file is missing, or it or one below it cannot be read.
    pub(crate) fn load(
        settings: &Settings,
        observer: Arc<dyn EvidenceObserver>,
    ) -> anyhow::Result<Self> {
        let mut loader = Self::new(settings, observer)?;
        let change = loader.library.refresh(now()).context("loading exit lists")?;
        loader.report(&change);
        // A command has no later refresh, and verdicts without these lists could replace better ones.
        let unreadable = change.refused.iter().find(|one| one.reason == Refusal::Unreadable);
        if let Some(Refused { path, .. }) = unreadable {
            anyhow::bail!("loading exit lists: {} cannot be read", path.display());
        }
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
        let mut loader = Self::new(settings, observer)?;
        loader.refresh();
        Ok(loader)
    }

    fn new(settings: &Settings, observer: Arc<dyn EvidenceObserver>) -> anyhow::Result<Self> {
        let library = Library::new(source_paths(settings), settings.tor_rules()?);
        Ok(Self { library, observer, settings: settings.clone(), trouble: None })
    }

    /// The present evidence.
    pub(crate) fn history(&self) -> Arc<ExitHistory> {
        Arc::new(self.library.history().clone())
    }

    /// Refreshes the lists until `stop` is cancelled. Changed evidence replaces the old as a whole, then settling is
    /// notified. A source that cannot be read keeps its lists.
    ///
    /// # Errors
    /// When a refresh panicked.
    pub(crate) async fn run(
        mut self,
        shown: watch::Sender<Arc<ExitHistory>>,
        settled: Arc<SettledPartitions>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let refresh_every = self.settings.tor.refresh_every;
        while stop.run_until_cancelled(tokio::time::sleep(refresh_every)).await.is_some() {
            let known = self.library.history().evidence_until();
            let change;
            let newest = self.newest();
            let observer = self.observer.clone();
            // Reading files blocks, and years of lists take a while.
            let refresh = tokio::task::spawn_blocking(move || {
                let change = self.refresh();
                (self, change)
            });
            (self, change) = watched(refresh, || tell_ages(&*observer, newest)).await?;
            if change.changed {
                shown.send_replace(self.history());
                let settle_after = self.settings.tor.settle_after;
                let since = change.oldest_within(known).map(|oldest| oldest.before(settle_after));
                settled.evidence_changed(since);
            }
        }
        Ok(())
    }

    /// Refreshes the lists of all sources that can be read. An error is logged when it begins, once a minute while it lasts,
    /// and when it ends.
    fn refresh(&mut self) -> Change {
        let (change, unreadable) = self.library.refresh_readable(now());
        let reason = unreadable.map(|error| format!("{:#}", anyhow::Error::from(error)));
        let last = self.trouble.take();
        self.trouble = match (reason, last) {
            (Some(reason), Some((said, at))) if said == reason && at.elapsed() < REMIND => {
                Some((said, at))
            }
            (Some(reason), _) => {
                tracing::error!(
                    reason,
                    "exit lists cannot be read: verdicts lack them until they can be read"
                );
                Some((reason, Instant::now()))
            }
            (None, Some(_)) => {
                tracing::info!("exit lists can be read again");
                None
            }
            (None, None) => None,
        };
        self.report(&change);
        change
    }

    /// Reports refused files, and the age of each source's newest list, which grows also while the source cannot be read.
    fn report(&self, change: &Change) {
        for refused in &change.refused {
            let source = refused.source.as_str();
            self.observer.refused(refused.source);
            tracing::warn!(source, path = %refused.path.display(), reason = %refused.reason, "exit list refused");
        }
        tell_ages(&*self.observer, self.newest());
        for (source, newest) in self.newest().into_iter().filter(|_| change.changed) {
            let valid = self.library.history().valid(source);
            match newest {
                Some(newest) => {
                    tracing::info!(source = source.as_str(), valid, %newest, "exit lists");
                }
                None if configured(&self.settings).any(|own| own == source) => {
                    tracing::warn!(source = source.as_str(), "no valid exit list is left");
                }
                None => {}
            }
        }
    }

    /// The time of each source's newest list.
    fn newest(&self) -> [(Source, Option<Timestamp>); 3] {
        Source::ALL.map(|source| (source, self.library.history().newest(source)))
    }
}

fn tell_ages(observer: &dyn EvidenceObserver, newest: [(Source, Option<Timestamp>); 3]) {
    for (source, newest) in newest {
        // A list may be of a time up to an hour in the future.
        let age = |newest| now().micros_since(newest).max(0) as f64 / 1e6;
        observer.newest(source, newest.map(age));
    }
}

/// Waits for a refresh. Meanwhile the lists age, and the log says once that the refresh takes long.
pub(crate) async fn watched<T>(refresh: impl Future<Output = T>, mut tell_ages: impl FnMut()) -> T {
    let began = tokio::time::Instant::now();
    let mut is_said = false;
    tokio::pin!(refresh);
    loop {
        match tokio::time::timeout(TELL_AGES, &mut refresh).await {
            Ok(refreshed) => return refreshed,
            Err(_) => tell_ages(),
        }
        if began.elapsed() >= LONG && !std::mem::replace(&mut is_said, true) {
            tracing::warn!(
                "reading the exit lists has taken more than a minute: their folder may not answer; verdicts lack newer lists until it does"
            );
        }
    }
}

/// The configured paths of the sources.
pub(crate) fn source_paths(settings: &Settings) -> SourcePaths {
    let configured = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    SourcePaths {
        exit_lists: configured(&settings.tor.exit_lists),
        snapshots: configured(&settings.tor.snapshots),
        anonymous_ip: configured(&settings.tor.anonymous_ip),
    }
}

/// The sources that are configured.
pub(crate) fn configured(settings: &Settings) -> impl Iterator<Item = Source> {
    let paths = source_paths(settings);
    Source::ALL.into_iter().filter(move |source| paths.of(*source).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lists_age_while_their_folder_does_not_answer() {
        let mut told = 0;
        let refresh = tokio::time::sleep(Duration::from_secs(3_605));
        watched(refresh, || told += 1).await;
        assert_eq!(told, 360);
    }
}
