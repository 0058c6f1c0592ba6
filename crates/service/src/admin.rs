//! The admin listener: `/livez`, `/readyz` and `/metrics`, for probes and Prometheus. Not meant for public access.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;

use crate::connection::{self, Bounds};
use crate::lifecycle::within_grace;

/// The limits for a few probes and scrapers with short requests. Other clients must not use all connections or keep them open.
fn bounds() -> Bounds {
    Bounds {
        max_connections: 256,
        max_per_address: 256,
        exempt: Arc::new([]),
        max_long_heads: 16,
        idle_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        min_rate: 32 * 1_024,
    }
}

/// How long a response that is being sent may delay the end of the daemon.
const PARTING: Duration = Duration::from_secs(1);

/// When this process began to serve probes. A daemon starts the admin listener first.
static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

crate::metrics! {
    /// The process metrics of every daemon, under the names that Prometheus' own clients use.
    struct ProcessMetrics "process_" {
        /// Start of the process, in seconds since the Unix epoch.
        start_time_seconds: Gauge,
    }
}

/// The state of a daemon, as `/readyz` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The start is not complete.
    Starting,
    /// The daemon works.
    Ready,
    /// Partitions are being handed over.
    Rebalancing,
    /// The daemon waits for something external: a database, an operator.
    Paused,
    /// The daemon was asked to stop.
    Stopping,
}

impl State {
    /// The state's name in the response.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Rebalancing => "rebalancing",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
        }
    }
}

/// The response of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// The state of the daemon.
    pub state: State,
    /// Whether the daemon should get work: status 200 or 503.
    pub ready: bool,
    /// The reason of the state, if there is one.
    pub reason: Option<String>,
    /// When state or reason last changed.
    pub since: SystemTime,
}

/// The admin listener's questions to a daemon. They are asked often and from any thread, so an implementation must not block.
pub trait Health: Send + Sync + 'static {
    /// Whether the process should continue: `false` asks the supervisor for a restart.
    fn live(&self) -> bool;
    /// Whether the daemon should get work.
    fn ready(&self) -> Readiness;
}

/// A [`Health`] whose answers are set by [`Status::set`].
#[derive(Debug)]
pub struct Status(Mutex<Readiness>);

impl Default for Status {
    fn default() -> Self {
        Self(Mutex::new(Readiness {
            state: State::Starting,
            ready: false,
            reason: None,
            since: SystemTime::now(),
        }))
    }
}

impl Status {
    /// Sets the daemon's state. Only [`State::Ready`] and [`State::Rebalancing`] count as ready, because a daemon that
    /// hands over partitions continues with the others. `since` changes only with the state or the reason, and
    /// [`State::Stopping`] is final.
    pub fn set(&self, state: State, reason: Option<String>) {
        let mut current = self.0.lock();
        let changed = current.state != state || current.reason != reason;
        if changed && current.state != State::Stopping {
            let ready = matches!(state, State::Ready | State::Rebalancing);
            *current = Readiness { state, ready, reason, since: SystemTime::now() };
        }
    }
}

impl Health for Status {
    fn live(&self) -> bool {
        true
    }

    fn ready(&self) -> Readiness {
        self.0.lock().clone()
    }
}

/// The address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {reason}")]
pub struct BindError {
    /// The configuration key of the address.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// The operating system's message.
    pub reason: String,
}

/// Binds a TCP listener; errors name `key`, the configuration key. Port 0 chooses a free port.
///
/// # Errors
/// [`BindError`] if the address is in use, is not this machine's, or needs rights that the process does not have.
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "address already in use".into(),
            io::ErrorKind::PermissionDenied => "permission denied".into(),
            io::ErrorKind::AddrNotAvailable => "not an address of this machine".into(),
            _ => error.to_string(),
        };
        BindError { key, address, reason }
    })
}

/// The number of connections that may wait to be accepted; the operating system may allow fewer. With the usual
/// thousand, some clients would fail to connect for a second while others open thousands of connections.
const BACKLOG: u32 = 4_096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As servers usually do: old connections of an ended process must not block the address for the next process.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The bound admin listener.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminServer {
    /// Binds `admin.listen`. A daemon does this first, so that a second daemon on the same machine fails before it does
    /// any work.
    ///
    /// # Errors
    /// [`BindError`] if the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        const KEY: &str = "admin.listen";
        let listener = bind(KEY, address).await?;
        let address = listener.local_addr().map_err(|error| BindError {
            key: KEY,
            address,
            reason: error.to_string(),
        })?;
        Ok(Self { listener, address })
    }

    /// The bound address, with the actual port if the configured port is 0.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests until `stop` is cancelled, and then ends within a second, even with open connections. Pass a
    /// token that is cancelled last, so that `/readyz` can report `stopping` while the daemon stops.
    pub async fn serve(self, registry: Registry, health: Arc<dyn Health>, stop: CancellationToken) {
        let router = router(registry, health);
        let serving = connection::serve(self.listener, router, bounds(), None, &stop);
        // A client that does not read its response within that time is disconnected.
        let _ = within_grace(serving, &stop, PARTING).await;
    }
}

/// The three routes, for a daemon that serves them itself.
pub fn router(registry: Registry, health: Arc<dyn Health>) -> Router {
    show_start(&registry);
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(health)
        .route("/metrics", get(move || std::future::ready(metrics(&registry))))
        .layer(CompressionLayer::new())
}

/// Sets the start time. Alerts on restarts count the changes of this metric.
fn show_start(registry: &Registry) {
    match ProcessMetrics::register(registry) {
        Ok(metrics) => {
            let since_epoch = STARTED.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            metrics.start_time_seconds.set(since_epoch.as_secs_f64());
        }
        Err(error) => tracing::warn!(%error, "the start time of the process is not shown"),
    }
}

async fn livez(Shared(health): Shared<Arc<dyn Health>>) -> Response {
    if health.live() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not live\n").into_response()
    }
}

async fn readyz(Shared(health): Shared<Arc<dyn Health>>) -> Response {
    let readiness = health.ready();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let since = humantime::format_rfc3339_millis(readiness.since).to_string();
    let body = serde_json::json!({
        "state": readiness.state.as_str(),
        "reason": readiness.reason,
        "since": since,
    });
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

fn metrics(registry: &Registry) -> Response {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut body) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const FREE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_the_three_paths_and_stops() {
        let server = AdminServer::bind(FREE).await.unwrap();
        let address = server.local_addr();
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("sample_total", "A sample").unwrap();
        registry.register(Box::new(counter)).unwrap();
        let status = Arc::new(Status::default());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(registry, status.clone(), stop.clone()));

        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(r#""state":"starting""#), "{answer}");
        status.set(State::Paused, Some("database away".into()));
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(r#""reason":"database away""#), "{answer}");
        status.set(State::Ready, None);
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains(r#""reason":null"#) && answer.contains(r#""since":"2"#),
            "{answer}"
        );

        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200 "));
        let answer = ask(address, "/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("sample_total 0"), "{answer}");
        assert!(answer.contains("\nprocess_start_time_seconds 1"), "{answer}");
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404 "));

        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /met").await.unwrap();
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn metrics_are_compressed_for_those_who_take_it() {
        let server = AdminServer::bind(FREE).await.unwrap();
        let address = server.local_addr();
        let health = Arc::new(Status::default());
        tokio::spawn(server.serve(Registry::new(), health, CancellationToken::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("content-encoding: gzip\r\n"), "{answer}");
        assert!(!answer.contains("process_start_time_seconds"), "{answer}");
    }

    /// A daemon that hangs.
    struct Hanging(Status);

    impl Health for Hanging {
        fn live(&self) -> bool {
            false
        }

        fn ready(&self) -> Readiness {
            self.0.ready()
        }
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_fails_its_liveness_probe() {
        let server = AdminServer::bind(FREE).await.unwrap();
        let address = server.local_addr();
        let health = Arc::new(Hanging(Status::default()));
        tokio::spawn(server.serve(Registry::new(), health, CancellationToken::new()));
        let answer = ask(address, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("not live\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_is_not_waited_for() {
        let server = AdminServer::bind(FREE).await.unwrap();
        let address = server.local_addr();
        let serving =
            server.serve(Registry::new(), Arc::new(Status::default()), CancellationToken::new());
        tokio::spawn(serving);
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /met").await.unwrap();
        assert_eq!(half.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_its_key() {
        let first = AdminServer::bind(FREE).await.unwrap();
        let address = first.local_addr();
        let error = AdminServer::bind(address).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {address} (admin.listen): address already in use")
        );
    }

    #[test]
    fn since_moves_only_with_a_change_and_stopping_is_last() {
        let status = Status::default();
        status.set(State::Ready, None);
        let since = status.ready().since;
        status.set(State::Ready, None);
        assert_eq!(status.ready().since, since);
        status.set(State::Stopping, None);
        status.set(State::Ready, None);
        assert_eq!(status.ready().state, State::Stopping);
        assert!(!status.ready().ready);
        assert!(status.live());
    }
}
