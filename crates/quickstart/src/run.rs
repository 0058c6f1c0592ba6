//! The wiring of the quickstart, from the folder to the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use indicatif::HumanCount;
use ingester::IngesterMetrics;
use service::lifecycle;
use service::telemetry::{self, LogSettings};
use store::PublicationReader;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::arguments::Arguments;
use crate::ask;
use crate::broker::{Broker, Feed};
use crate::daemons::{self, Addresses, Daemons, Files, Query};
use crate::exit_lists::ExitLists;
use crate::releases;
use crate::replay::{self, World};
use crate::report::{self, Counts};
use crate::stories;

/// The daemons log only problems. This program prints the rest.
const LOG_FILTER: &str = "warn";

/// Runs until Ctrl-C, or with `--once` until the answer.
///
/// # Errors
/// The service cannot run; with `--once` also an answer other than the expected one.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    lifecycle::run(run(arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    telemetry::init(&LogSettings { filter: LOG_FILTER.into(), ..LogSettings::default() })?;
    let stop = lifecycle::stop_on_signals()?;
    let (files, _temporary) = folder(arguments.dir.as_deref())?;
    // Bind first, because a taken port should be reported before any work.
    let query = Query::bind(&files, arguments.http).await?;
    let reader = query.reader.clone();
    let names = ingester::Settings::default().kafka;
    let broker = Broker::start(&names.topic, &names.dead_letter_topic)?;
    let world = prepare(&files).await?;
    let settings = daemons::ingester_settings(&files, broker.address())?;
    let feed = Feed::open(&broker.address(), &names.topic)?;
    let (mut daemons, addresses, metrics) = Daemons::start(query, settings, &stop).await?;
    let show = Show {
        once: arguments.once,
        broker: broker.address(),
        topic: names.topic,
        addresses,
        lockfile: files.lockfile.clone(),
        metrics,
        reader,
    };
    let result = tokio::select! {
        // Poll in this order, because daemons that end after a stop have not failed.
        biased;
        result = show.run(&world, &feed, &stop) => result,
        () = stop.cancelled() => Ok(()),
        error = daemons.failed() => return Err(error),
    };
    stop.cancel();
    result.and(daemons.ended().await)
}

/// The given folder, or a temporary one, which is removed when the second value is dropped.
fn folder(asked: Option<&Path>) -> anyhow::Result<(Files, Option<TempDir>)> {
    if let Some(folder) = asked {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        return Ok((Files::within(folder), None));
    }
    let temporary = tempfile::Builder::new().prefix("publication-insights-").tempdir()?;
    Ok((Files::within(temporary.path()), Some(temporary)))
}

/// Prints an introduction and writes the exit lists.
async fn prepare(files: &Files) -> anyhow::Result<Arc<World>> {
    let folder = files.exit_lists.clone();
    let make = move || {
        let releases = releases::load()?;
        let of_releases = releases.iter().map(|release| release.created);
        let mut acts: Vec<_> = of_releases.chain(stories::times()).collect();
        acts.sort_unstable();
        let lists = ExitLists::plan(acts);
        lists
            .write(&folder)
            .with_context(|| format!("cannot write exit lists into {}", folder.display()))?;
        anyhow::Ok(World { releases, lists })
    };
    let world = tokio::task::spawn_blocking(make).await??;
    std::fs::write(&files.lockfile, stories::lockfile(daemons::REGISTRY_HOST))
        .with_context(|| format!("cannot write {}", files.lockfile.display()))?;
    println!(
        "Kafka (librdkafka's in-process broker), the ingester, SQLite and the query server, in this one process."
    );
    println!(
        "Real:    package, version and time of {} npm publications.",
        HumanCount(world.releases.len() as u64 - 1)
    );
    println!("         The event of pg 7.12.0 by brianc is the project's example.");
    println!(
        "Made up: by which account, from which address and with which second factor the others were"
    );
    println!("         published; the packages story-*; the other versions of pg;");
    println!(
        "         and the {} exit lists of those days (the addresses in them are of real exits,",
        HumanCount(world.lists.len() as u64)
    );
    println!("         on other days). Nothing here says anything about a real publisher.");
    println!("Files:   {}", files.database.parent().unwrap_or(Path::new(".")).display());
    println!();
    Ok(Arc::new(world))
}

/// The state that the demonstration needs.
struct Show {
    once: bool,
    broker: String,
    topic: String,
    addresses: Addresses,
    lockfile: PathBuf,
    metrics: Arc<IngesterMetrics>,
    reader: Arc<dyn PublicationReader>,
}

impl Show {
    /// Replays, reports and sends the query. Then serves until `stop` is cancelled, or ends with `--once`.
    async fn run(
        &self,
        world: &Arc<World>,
        feed: &Feed,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        println!("Publishing to {}, topic {}:", self.broker, self.topic);
        let begin = Instant::now();
        replay::replay(world, feed, &self.metrics).await?;
        let took = begin.elapsed();
        Counts::of(&*self.reader).await?.print(&self.metrics, took);
        println!();
        println!("The question of the README, and the answer of the query server:");
        println!("  {}", ask::curl(self.addresses.http));
        let answer = ask::ask(self.addresses.http).await?;
        println!("  {answer}");
        println!();
        if self.once {
            anyhow::ensure!(answer == ask::ANSWER, "the answer should be {}", ask::ANSWER);
            return Ok(());
        }
        report::print_places(&self.addresses, &self.broker, &self.topic, &self.lockfile);
        stop.cancelled().await;
        Ok(())
    }
}
