//! The replay: events go in no faster than rows come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingester::IngesterMetrics;

use crate::broker::Feed;
use crate::events::{self, Record};
use crate::exit_lists::ExitLists;
use crate::progress::Progress;
use crate::releases::Release;
use crate::stories;

/// Records produced and not yet done with. The broker drops the oldest of a partition beyond 5 MiB, and an event has
/// less than 1 KiB: even with all of them in one partition nothing is lost.
const MOST_AHEAD: u64 = 4_000;
/// Records produced together.
const CHUNK: usize = 500;
/// How often the metrics are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Without any progress for so long, something is wrong that waiting does not mend.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is replayed.
pub(crate) struct World {
    /// In the order of time.
    pub(crate) releases: Vec<Release>,
    /// The lists for their days.
    pub(crate) lists: ExitLists,
}

/// Produces all events and waits until the ingester is done with them.
///
/// # Errors
/// When the broker does not take one, or the ingester does not come on.
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

/// Made on a thread for it: the daemons share this runtime.
async fn records(world: Arc<World>, first: usize) -> anyhow::Result<Vec<Record>> {
    let make = move || {
        let chunk = world.releases.iter().enumerate().skip(first).take(CHUNK);
        chunk.map(|(number, release)| events::record(number, release, &world.lists)).collect()
    };
    Ok(tokio::task::spawn_blocking(make).await?)
}

/// Waits until the ingester has read and is done with so many records.
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
