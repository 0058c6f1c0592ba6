//! Connects all parts for `run`, from the settings to the last commit.

pub(crate) mod health;
pub(crate) mod lag;
pub(crate) mod metrics;
pub(crate) mod observer;
mod outcome_log;
pub(crate) mod partition_state;
pub(crate) mod rejection_limit;
mod reminder;
pub(crate) mod replays;

use std::sync::Arc;
use std::time::Duration;

use service::admin::AdminServer;
use service::metrics::Registry;
use store::{Error, Positions, PublicationTable, Retrying};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::daemon::health::{Health, PauseCause};
use crate::daemon::lag::Lag;
use crate::daemon::metrics::IngesterMetrics;
use crate::daemon::observer::{GroupWatch, LiveObserver, Waits};
use crate::daemon::rejection_limit::RejectionLimit;
use crate::daemon::replays::Replays;
use crate::evidence::fetch::ListPoller;
use crate::evidence::settle::{LiveEvidence, SettledPartitions, Settling};
use crate::evidence::{EvidenceLoader, watched};
use crate::kafka::{self, DeadLetters, Observers, PollControl, PollThread};
use crate::pipeline::evaluate::{Evaluator, check_generation};
use crate::pipeline::write::{Delivery, Writer};
use crate::pipeline::{BatchLimits, Ingest, Running};
use crate::settings::Settings;

/// The delay before an unreachable broker is asked again about the dead-letter topic.
const BROKER_WAIT: Duration = Duration::from_secs(10);
/// The interval of the checks whether the database answers.
const DATABASE_WATCH: Duration = Duration::from_secs(5);

/// An ingester whose admin listener is bound.
pub struct Ingester {
    admin: AdminServer,
    registry: Registry,
    work: Work,
}

impl Ingester {
    /// Binds the admin listener, which answers probes from now on.
    ///
    /// # Errors
    /// When the address is in use.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let metrics = Arc::new(IngesterMetrics::create(&registry, &kafka::version())?);
        metrics.show_sources(crate::evidence::configured(&settings));
        let health = Arc::new(Health::new(settings.kafka.revoke_timeout, metrics.paused.clone()));
        let admin = AdminServer::bind(settings.admin.listen).await?;
        Ok(Self { admin, registry, work: Work { settings, metrics, health } })
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin_addr(&self) -> std::net::SocketAddr {
        self.admin.local_addr()
    }

    /// The state that the probes report, for notifications to a supervisor.
    #[must_use]
    pub fn health(&self) -> Arc<dyn service::admin::Health> {
        self.work.health.clone()
    }

    /// The metrics, for a process that embeds the ingester.
    #[must_use]
    pub fn metrics(&self) -> Arc<IngesterMetrics> {
        self.work.metrics.clone()
    }

    /// Ingests until `stop` is cancelled, then writes and commits the records that were read and leaves the group, within
    /// `shutdown.grace`. Records for which the time is too short are read again after a restart or by the next owner.
    ///
    /// # Errors
    /// An error that needs a restart or an operator: a fatal error of the store or of the Kafka client, an invalid
    /// setting, a generation lower than the table's.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (serving, health) = (CancellationToken::new(), self.work.health.clone());
        let admin =
            tokio::spawn(self.admin.serve(self.registry.clone(), health.clone(), serving.clone()));
        let grace = self.work.settings.shutdown.grace;
        let over = async {
            stop.cancelled().await;
            health.stopping();
            tracing::info!("stopping");
            tokio::time::sleep(grace).await;
        };
        let result = tokio::select! {
            result = self.work.run(stop.clone()) => result,
            () = over => {
                tracing::warn!("not everything was written in time; the rest is read again after the committed offsets");
                Ok(())
            }
        };
        serving.cancel();
        admin.await?;
        result
    }
}

struct Work {
    settings: Settings,
    metrics: Arc<IngesterMetrics>,
    health: Arc<Health>,
}

impl Work {
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (settings, metrics) = (self.settings.clone(), self.metrics.clone());
        // Years of lists take a while to read, and probes must be answered meanwhile.
        let loading = tokio::task::spawn_blocking(move || {
            EvidenceLoader::load_what_is_there(&settings, metrics)
        });
        let Some(exits) = stop.run_until_cancelled(watched(loading, || {})).await else {
            return Ok(());
        };
        let exits = exits??;
        let waits = Arc::new(Waits { health: self.health.clone(), metrics: self.metrics.clone() });
        let opened = store::open(&self.settings.store)?;
        let store = Arc::new(Retrying::new(opened.table, waits.clone()).outlasting_refusals());
        let mut tasks = JoinSet::new();
        tasks.spawn(reminder::remind(self.health.clone(), stop.clone()));
        tasks.spawn(reminder::watch_poll_thread(self.health.clone(), stop.clone()));
        let Some(()) = stop.run_until_cancelled(self.prepare(&*store)).await.transpose()? else {
            return Ok(());
        };
        let (shown, history) = watch::channel(exits.history());
        let lag = Arc::new(Lag::default());
        let settled = Arc::new(SettledPartitions::new(history.clone()));
        let replays = Arc::new(Replays::default());
        let positions = Retrying::new(opened.positions, waits.clone()).outlasting_refusals();
        let group = Arc::new(self.watch(&lag, &replays));
        let positions: Option<Arc<dyn Positions>> = Some(Arc::new(positions));
        let observers = Observers { group, settled: settled.clone(), positions };
        let (poll, records) = kafka::start(&self.settings, observers).map_err(kafka::refused)?;
        let evidence = LiveEvidence { history, settled: settled.clone() };
        let topic = DeadLetters::open(&self.settings).map_err(kafka::refused)?;
        let delivery = Delivery { topic: Box::new(topic), observer: waits.clone() };
        let writer = Writer { rows: store.clone(), dead_letters: Some(delivery) };
        let ingest = self.ingest(writer, evidence, lag, poll.control());
        let settling = Settling {
            settings: self.settings.clone(),
            settled: settled.clone(),
            evaluator: ingest.evaluator.clone(),
            limits: ingest.limits.background(),
            store: store.clone(),
            rows: Arc::new(Retrying::new(store::open_reader(&self.settings.store)?, waits.clone())),
        };

        tasks.spawn(make_dead_letter_topic(self.settings.clone()));
        tasks.spawn(settling.run(stop.clone()));
        tasks.spawn(watch_database(store.clone(), self.health.clone(), stop.clone()));
        tasks.spawn(replays.watch(opened.jobs, stop.clone()));
        tasks.spawn(exits.run(shown, settled, stop.clone()));
        if let Some(poller) = ListPoller::new(&self.settings, self.metrics.clone()) {
            tasks.spawn(poller.run(stop.clone()));
        }
        let result = tokio::select! {
            result = until_stopped(ingest.start(records)?, &poll, &stop) => result,
            Some(error) = first_failure(&mut tasks) => Err(error),
        };
        // Closing a consumer can hang in librdkafka; the group then removes the member after the session timeout.
        if tokio::time::timeout(self.settings.shutdown.grace, poll.close()).await.is_err() {
            tracing::warn!("the kafka consumer did not close in time");
        }
        tasks.shutdown().await;
        result
    }

    fn watch(&self, lag: &Arc<Lag>, replays: &Arc<Replays>) -> GroupWatch {
        GroupWatch {
            topic: self.settings.kafka.topic.clone(),
            health: self.health.clone(),
            lag: lag.clone(),
            metrics: self.metrics.clone(),
            replays: replays.clone(),
        }
    }

    fn ingest(
        &self,
        writer: Writer,
        evidence: LiveEvidence,
        lag: Arc<Lag>,
        source: Arc<PollControl>,
    ) -> Ingest {
        let history = evidence.history.borrow().clone();
        let limit = RejectionLimit::new(
            self.settings.reject.max_consecutive,
            self.health.clone(),
            source.clone(),
        );
        let observer = LiveObserver::new(self.metrics.clone(), lag, source, limit);
        Ingest {
            evaluator: Evaluator::new(&self.settings, history),
            evidence: Box::new(evidence),
            writer: Arc::new(writer),
            observer: Box::new(observer),
            limits: BatchLimits::from(&self.settings),
        }
    }

    /// Migrates the schema, and refuses to overwrite verdicts of a newer generation. Waits for an unreachable database.
    async fn prepare(&self, store: &dyn PublicationTable) -> anyhow::Result<()> {
        self.health.starting("waiting for the database and its migrations");
        store.migrate().await?;
        check_generation(&self.settings, store.generation().await?)?;
        self.health.starting("joining the consumer group");
        Ok(())
    }
}

/// Retries until the broker has answered, whatever the answer. A missing answer is logged once.
async fn make_dead_letter_topic(settings: Settings) -> anyhow::Result<()> {
    let mut is_said = false;
    while let Err(error) = kafka::create_topic(&settings).await {
        if !std::mem::replace(&mut is_said, true) {
            let topic = settings.kafka.dead_letter_topic.as_str();
            tracing::warn!(topic, %error, "the broker has not answered about the dead-letter topic; the ingester asks again until it does");
        }
        tokio::time::sleep(BROKER_WAIT).await;
    }
    Ok(())
}

/// Sets the readiness by whether the database answers, so that an outage is known before there are rows to write.
async fn watch_database(
    store: Arc<dyn PublicationTable>,
    health: Arc<Health>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while stop.run_until_cancelled(tokio::time::sleep(DATABASE_WATCH)).await.is_some() {
        match stop.run_until_cancelled(store.answers()).await {
            // Other errors show when rows are written.
            Some(Err(error @ (Error::Transient(_) | Error::TimedOut(_)))) => {
                if health.pause(PauseCause::DatabaseSilent, error.to_string()) {
                    tracing::warn!(%error, "the database does not answer");
                }
            }
            Some(_) => {
                if health.resume(PauseCause::DatabaseSilent) {
                    tracing::info!("the database answers again");
                }
            }
            None => break,
        }
    }
    Ok(())
}

/// The loop's result. After `stop` it comes when everything read was written.
async fn until_stopped(
    mut ingesting: Running,
    poll: &PollThread,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        result = &mut ingesting => return Ok(result?),
        () = stop.cancelled() => poll.stop_reading(),
    }
    Ok(ingesting.await?)
}

/// The first failure among the background tasks; `None` when all of them ended without an error.
async fn first_failure(tasks: &mut JoinSet<anyhow::Result<()>>) -> Option<anyhow::Error> {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(error),
            Err(panic) => return Some(panic.into()),
        }
    }
    None
}
