//! The replay: events are produced only as fast as the ingester finishes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingester::IngesterMetrics;

use crate::broker::Feed;
use crate::events::{self, Record};
use crate::exit_lists::ExitLists;
use crate::progress::Progress;
use crate::releases::Release;
use crate::stories;

/// Maximum number of records produced but not finished. The broker drops the oldest records of a partition beyond 5
/// MiB. Events are smaller than 1 KiB, so even in a single partition none is lost.
const MOST_AHEAD: u64 = 4_000;
/// Records produced together.
const CHUNK: usize = 500;
/// How often the metrics are read.
const LOOK: Duration = Duration::from_millis(10);
/// The replay fails after this time without progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// The data of the replay.
pub(crate) struct World {
    /// The releases, sorted by time.
    pub(crate) releases: Vec<Release>,
    /// The exit lists for their days.
    pub(crate) lists: ExitLists,
}

/// Produces all events and waits until the ingester has finished them.
///
/// # Errors
/// The broker does not accept a record, or the ingester makes no progress.
pub(crate) async fn replay(
    world: &Arc<World>,
    feed: &Feed,
    metrics: &IngesterMetrics,
) -> anyhow::Result<()> {
    let mut progress = Progress::new(world.releases.len() as u64);
    progress.waiting_for("the new consumer group gathers (3 s)");
    let mut produced = 0;
    for first in (0..world.releases.len()).step_by(CHUNK) {
        let records = records(world.clone(), first).await?;
        produced += records.len() as u64;
        until_done(produced.saturating_sub(MOST_AHEAD), metrics, &mut progress).await?;
        feed.send(&records).await?;
    }
    let stories = stories::records()?;
    produced += stories.len() as u64;
    feed.send(&stories).await?;
    until_done(produced, metrics, &mut progress).await
}

/// Generates records on a blocking thread, because the daemons share this runtime.
async fn records(world: Arc<World>, first: usize) -> anyhow::Result<Vec<Record>> {
    let make = move || {
        let chunk = world.releases.iter().enumerate().skip(first).take(CHUNK);
        chunk.map(|(number, release)| events::record(number, release, &world.lists)).collect()
    };
    Ok(tokio::task::spawn_blocking(make).await?)
}

/// Waits until the ingester has finished this many records.
async fn until_done(
    wanted: u64,
    metrics: &IngesterMetrics,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (mut last, mut since) = (done(metrics), Instant::now());
    progress.show(last);
    while last < wanted {
        tokio::time::sleep(LOOK).await;
        let now = done(metrics);
        if now != last {
            (last, since) = (now, Instant::now());
            progress.show(now);
        }
        anyhow::ensure!(
            since.elapsed() < PATIENCE,
            "the ingester is done with {last} of {wanted} records and has not come on for {PATIENCE:?}"
        );
    }
    Ok(())
}

fn done(metrics: &IngesterMetrics) -> u64 {
    let outcomes = ["inserted", "updated", "unchanged", "dead_lettered", "skipped"];
    outcomes.iter().map(|outcome| metrics.records_total.with_label_values(&[outcome]).get()).sum()
}
