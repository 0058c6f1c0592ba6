//! The daemon: listeners, readiness of the store, stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use service::admin::{self, AdminServer, BindError, Health, State, Status};
use service::config::{ConfigError, Settings};
use service::connection::{self, Bounds};
use service::lifecycle::{GraceExceeded, within_grace};
use service::metrics::{IntGauge, Registry, RegistryError};
use service::quiet::Quiet;
use store::PublicationReader;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::Access;
use crate::admission::{self, Admission};
use crate::cache::Cache;
use crate::config::{MAX_LONG_HEADS, QuerySettings};
use crate::document;
use crate::execute::Executor;
use crate::http::{self, App, PersistedQueries};
use crate::metrics::QueryMetrics;
use crate::schema::{ApiSchema, InvalidSchema};

/// How often the store is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the log repeats why the daemon is not ready.
const REMIND: Duration = Duration::from_secs(60);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is invalid. The error itself is the source, because the exit code depends on it.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The schema of this build is invalid.
    #[error(transparent)]
    Schema(#[from] InvalidSchema),
    /// A metric's name is invalid or taken.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] RegistryError),
    /// The operating system does not return the bound address.
    #[error("cannot read the bound address: {0}")]
    Address(#[from] std::io::Error),
}

/// The daemon, bound to its addresses and ready to serve.
pub struct Server {
    pub(crate) app: Arc<App>,
    registry: Registry,
    status: Arc<Status>,
    admin: AdminServer,
    listener: TcpListener,
    http_addr: SocketAddr,
}

/// Checks all settings. The tokens are read on the way.
fn access(settings: &QuerySettings) -> Result<Access, ConfigError> {
    settings.check()?;
    admission::check(settings)?;
    Access::new(settings)
}

impl Server {
    /// Checks the settings as [`Server::bind`] does, without binding or opening anything.
    ///
    /// # Errors
    /// [`ConfigError`] with the key.
    pub fn check(settings: &QuerySettings) -> Result<(), ConfigError> {
        access(settings).map(drop)
    }

    /// Binds both listeners and opens the configured store, which need not answer yet.
    ///
    /// # Errors
    /// [`StartError`]: the message says what is wrong and names the key.
    pub async fn bind(settings: QuerySettings) -> Result<Self, StartError> {
        settings.check()?;
        let reader = store::open_reader(&settings.store)?;
        Self::bind_with_reader(settings, reader).await
    }

    /// As [`Server::bind`], with a store that is already open.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_with_reader(
        settings: QuerySettings,
        reader: Arc<dyn PublicationReader>,
    ) -> Result<Self, StartError> {
        let access = access(&settings)?;
        let admin = AdminServer::bind(settings.admin.listen).await?;
        let listener = admin::bind("http.listen", settings.http.listen).await?;
        let http_addr = listener.local_addr()?;
        let registry = Registry::new();
        let metrics = QueryMetrics::register(&registry)?;
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let (documents, persisted) =
            (metrics.document_cache_bytes.clone(), metrics.persisted_query_bytes.clone());
        let executor = Executor {
            schema: ApiSchema::new(&settings.limits, &settings.http.notice)?,
            limits: settings.limits.clone(),
            registry: settings.registry.clone(),
            reader,
            metrics,
            quiet: Quiet::default(),
        };
        let app = App {
            access,
            admission: Admission::new(&settings, executor.metrics.answers_bytes.clone()),
            documents: Cache::new(document::cache_size(&settings), documents),
            persisted: PersistedQueries::new(settings.cache.persisted_queries, persisted),
            executor,
            settings,
        };
        let status = Arc::new(Status::default());
        Ok(Self { app: Arc::new(app), registry, status, admin, listener, http_addr })
    }

    /// The address of the public listener, with the real port in place of 0.
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The address of the admin listener, with the real port in place of 0.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// The state of the probes, for a supervisor.
    #[must_use]
    pub fn health(&self) -> Arc<dyn Health> {
        self.status.clone()
    }

    /// Serves until `stop` is cancelled, then waits up to `shutdown.grace` for requests in progress.
    ///
    /// # Errors
    /// [`GraceExceeded`] when requests were still in progress after the grace period; they are cut off. The process
    /// then still exits with success, because it was asked to stop and a restart would not help.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), GraceExceeded> {
        let Self { app, registry, status, admin, listener, http_addr } = self;
        let admin_addr = admin.local_addr();
        let ended = CancellationToken::new();
        let _end_with_this = ended.clone().drop_guard();
        tokio::spawn(admin.serve(registry, status.clone(), ended.clone()));
        let ready = app.executor.metrics.ready.clone();
        let patience = app.settings.store.connect_timeout;
        let probe =
            Probe { reader: app.executor.reader.clone(), status: status.clone(), ready, patience };
        tokio::spawn(ended.clone().run_until_cancelled_owned(probe.run()));
        let tokens = app.clone();
        let follow = async move { tokens.access.follow_tokens().await };
        tokio::spawn(ended.run_until_cancelled_owned(follow));
        let settings = &app.settings.http;
        let bounds = Bounds {
            max_connections: settings.max_connections,
            max_per_address: settings.max_connections_per_address,
            exempt: app.access.proxies.trusted.clone(),
            max_long_heads: MAX_LONG_HEADS,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.write_timeout,
            min_rate: settings.min_rate.as_u64(),
        };
        info!(http = %http_addr, admin = %admin_addr, "serving");
        let stopping = stop.clone();
        tokio::spawn(async move {
            stopping.cancelled().await;
            status.set(State::Stopping, None);
        });
        let open = Some(&app.executor.metrics.connections);
        let router = http::router(app.clone());
        let serving = connection::serve(listener, router, bounds, open, &stop);
        within_grace(serving, &stop, app.settings.shutdown.grace).await
    }
}

/// Whether two reasons are equal except for their digits. The error of an expired certificate contains the time of the
/// attempt, so each attempt would be logged as a change.
fn differ_in_digits_alone(one: &str, other: &str) -> bool {
    let words = |reason: &str| reason.replace(|letter: char| letter.is_ascii_digit(), "");
    words(one) == words(other)
}

/// Sets the readiness from the store's answers.
struct Probe {
    reader: Arc<dyn PublicationReader>,
    status: Arc<Status>,
    ready: IntGauge,
    /// How long the store may take, because a dead connection never answers.
    patience: Duration,
}

impl Probe {
    /// Probes the store for ever. Logs when the answer changes, and once a minute while it is an error.
    async fn run(self) {
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut logged: Option<(String, Instant)> = None;
        loop {
            interval.tick().await;
            let reason = self.ask().await;
            let state = if reason.is_none() { State::Ready } else { State::Paused };
            self.status.set(state, reason.clone());
            self.ready.set(self.status.ready().ready.into());
            match (reason, &logged) {
                (None, Some(_)) => {
                    info!("the database answers again");
                    logged = None;
                }
                (None, None) => {}
                (Some(reason), Some((before, at)))
                    if differ_in_digits_alone(&reason, before) && at.elapsed() < REMIND => {}
                (Some(reason), _) => {
                    warn!(reason, "not ready; it is asked again until it answers");
                    logged = Some((reason, Instant::now()));
                }
            }
        }
    }

    /// Why requests would fail now; `None` when they would not.
    async fn ask(&self) -> Option<String> {
        match tokio::time::timeout(self.patience, self.reader.ready()).await {
            Ok(answer) => answer.err().map(|error| error.to_string()),
            Err(_) => Some(format!("the database did not answer within {:?}", self.patience)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_differs_in_its_digits_alone_is_no_change() {
        let expired = |time| format!("certificate expired: verification time {time} (UNIX)");
        assert!(differ_in_digits_alone(&expired(1_795_749_995), &expired(995)));
        assert!(!differ_in_digits_alone(&expired(1), "connection refused"));
    }
}
