//! HTTP/1.1 connections of a listener: their number, their memory and time limits, and how they end when the daemon
//! stops.

mod refusal;
mod registry;
mod stream;

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::registry::ConnectionRegistry;
pub use self::registry::{Connection, SHORT_HEAD};
use self::stream::Guarded;
use crate::metrics::IntGauge;
use crate::quiet::Quiet;

/// The pause after an accept that failed for lack of descriptors or memory, and before a listener whose connections are
/// all busy is checked again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The maximum length of a request head. URLs contain documents in GET requests; a longer document is sent by POST.
/// This is also the size of a connection's read buffer.
pub const MAX_HEAD: usize = 16 * 1_024;
/// The memory of a connection without a long head, in bytes: its task, its buffers of one read and one write. Measured
/// with 2,000 idle connections, rounded up.
pub const CONNECTION_BYTES: usize = 16 * 1_024;

/// The limits of a listener's clients.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The maximum number of connections. A further connection closes the one that has been idle for the longest, or else one
    /// whose body is not complete.
    pub max_connections: usize,
    /// The maximum number of connections of an address, or of a /64 for IPv6. A further connection closes one of these.
    pub max_per_address: usize,
    /// Networks that are exempt from `max_per_address`: proxies, which forward the requests of many clients.
    pub exempt: Arc<[IpNet]>,
    /// The maximum number of heads over 4 KiB that may be arriving. A further one closes the oldest.
    pub max_long_heads: usize,
    /// A connection that does not send a complete request head within this time is closed.
    pub idle_timeout: Duration,
    /// A client that is this far behind [`Bounds::min_rate`] with its response is disconnected.
    pub write_timeout: Duration,
    /// The rate at which a client must receive a response, in bytes per second.
    pub min_rate: u64,
}

/// The client at the other end of a connection; every request has it as an extension.
pub type Peer = Arc<Connection>;

/// Serves the routes until `stop`, then lets the requests in progress finish: those whose head was read and whose
/// response was not completely sent. Every other connection is closed at once. Dropping the future closes the
/// connections that are still open. `open` shows the number of connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    open: Option<&IntGauge>,
    stop: &CancellationToken,
) {
    let registry = Arc::new(ConnectionRegistry::new(bounds));
    let mut connections = JoinSet::new();
    let quiet = Quiet::default();
    loop {
        show(open, connections.len());
        let is_full = registry.is_full();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            // While all connections are busy, further connections wait in the operating system's queue.
            accepted = listener.accept(), if !is_full => {
                if let Some((stream, peer)) = accept(accepted, &quiet).await
                    && let Some(connection) = registry.admit(peer)
                {
                    let served = Served { registry: registry.clone(), connection };
                    connections.spawn(served.converse(stream, router.clone(), stop.clone()));
                }
            }
            () = tokio::time::sleep(ACCEPT_PAUSE), if is_full => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {
        show(open, connections.len());
    }
}

fn show(open: Option<&IntGauge>, count: usize) {
    if let Some(open) = open {
        open.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

async fn accept(
    accepted: io::Result<(TcpStream, SocketAddr)>,
    quiet: &Quiet,
) -> Option<(TcpStream, IpAddr)> {
    match accepted {
        Ok((stream, peer)) => {
            // Responses are written whole; waiting for more data would only delay them.
            let _ = stream.set_nodelay(true);
            Some((stream, peer.ip().to_canonical()))
        }
        Err(error) => {
            let of_the_client = matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionRefused
            );
            if !of_the_client {
                if let Some(left_out) = quiet.next() {
                    warn!(%error, left_out, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// A connection while it is served; dropping it removes the connection from the registry.
struct Served {
    registry: Arc<ConnectionRegistry>,
    connection: Arc<Connection>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.registry.remove(&self.connection);
    }
}

impl Served {
    /// Serves the connection until either side closes it, or the registry does.
    async fn converse(self, mut stream: TcpStream, router: Router, stop: CancellationToken) {
        let idle = self.registry.bounds.idle_timeout;
        tokio::select! {
            biased;
            () = self.connection.closed() => {}
            () = stop.cancelled() => {}
            // Before the first byte, no buffer is allocated.
            begun = tokio::time::timeout(idle, refusal::first_bytes(&mut stream)) => match begun {
                Ok(Ok(Some(first))) => self.answer(stream, first, router, stop.clone()).await,
                Ok(Ok(None)) => refusal::refuse_http2(&mut stream).await,
                Ok(Err(_)) | Err(_) => {}
            },
        }
    }

    async fn answer(
        &self,
        stream: TcpStream,
        first: Bytes,
        router: Router,
        stop: CancellationToken,
    ) {
        let routes = TowerToHyperService::new(router);
        let service = service_fn(|mut request: Request<Incoming>| {
            let peer = self.connection.clone();
            self.registry.head_ended(&peer);
            peer.request_read();
            request.extensions_mut().insert(peer.clone());
            let answer = (!refusal::is_host_wrong(&request)).then(|| routes.call(request));
            async move {
                let mut answer = match answer {
                    Some(answer) => answer.await,
                    None => Ok(refusal::wrong_host()),
                };
                peer.response_ready();
                // RFC 9110, section 8.6: the length would be that of the client's copy, but axum sets it to 0.
                if let Ok(answer) = &mut answer
                    && answer.status() == StatusCode::NOT_MODIFIED
                {
                    answer.headers_mut().remove(header::CONTENT_LENGTH);
                }
                answer
            }
        });
        let stream = Guarded::new(stream, first, self.registry.clone(), self.connection.clone());
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.registry.bounds.idle_timeout)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.connection.closed() => Ok(()),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                // hyper alone would wait for the rest of a head. A response is written in one piece, so a rest of it
                // after a poll waits for the client.
                poll_fn(|context| match connection.as_mut().poll(context) {
                    Poll::Pending if self.connection.is_idle() => Poll::Ready(Ok(())),
                    polled => polled,
                })
                .await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    }
}

#[cfg(test)]
mod tests;
