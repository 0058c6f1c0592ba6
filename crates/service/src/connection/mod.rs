//! HTTP/1.1 connections of a listener: how many, how much each may hold and for how long, and how they end when the
//! daemon does.

mod crowd;
mod refusal;
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

use self::crowd::{Connection, Crowd};
use self::stream::Guarded;
use crate::metrics::IntGauge;
use crate::quiet::Quiet;

/// How long to wait after an accept that failed for want of descriptors or memory, and before a listener that is full of
/// busy connections is looked at again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest head of a request. URLs carry documents in GET requests; a longer document is sent by POST. It is also
/// the size of a connection's read buffer.
pub const MAX_HEAD: usize = 16 * 1_024;
/// What a connection takes besides a long head, in bytes: its task, its buffers of one read and one write. Measured with
/// 2,000 idle connections, rounded up.
pub const CONNECTION_BYTES: usize = 16 * 1_024;

/// What the clients of a listener may take up.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections at the same time. One more ends the one that has been idle for the longest.
    pub max_connections: usize,
    /// Connections of one address, of IPv6 of one /64. One more ends that address's own.
    pub max_per_address: usize,
    /// Networks that `max_per_address` is not for: proxies, which carry the requests of many.
    pub exempt: Arc<[IpNet]>,
    /// Heads of more than 4 KiB that may be arriving at the same time. One more ends the oldest.
    pub max_long_heads: usize,
    /// A connection that sends no whole request head for so long is closed.
    pub idle_timeout: Duration,
    /// A client that is so far behind [`Bounds::min_rate`] with its answer is cut off.
    pub write_timeout: Duration,
    /// How fast an answer has to be taken, in bytes for each second.
    pub min_rate: u64,
}

/// Who is at the other end of a request's connection; every request has it as an extension.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Connection>);

impl Peer {
    /// The client's address, or its proxy's.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// How far the client is behind the slowest rate allowed with the answer that is being sent: the time that it would
    /// take at that rate to make up for it. Zero while nothing waits for the client.
    #[must_use]
    pub fn behind(&self) -> Duration {
        self.0.behind()
    }

    /// Ends the connection at once.
    pub fn cut(&self) {
        self.0.cut();
    }
}

/// Answers by the routes until `stop`, then lets the requests in progress end: those whose head has been read and whose
/// answer has not been sent. Every other connection is closed at once. What is still open when this is dropped is cut
/// off. `open` shows the number of connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    open: Option<&IntGauge>,
    stop: &CancellationToken,
) {
    let crowd = Arc::new(Crowd::new(bounds));
    let mut connections = JoinSet::new();
    let quiet = Quiet::default();
    loop {
        show(open, connections.len());
        let is_full = crowd.is_full();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            // One too many waits in the operating system's queue while all others are busy.
            accepted = listener.accept(), if !is_full => {
                if let Some((stream, peer)) = accept(accepted, &quiet).await
                    && let Some(connection) = crowd.admit(peer)
                {
                    let served = Served { crowd: crowd.clone(), connection };
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
            // Answers are written whole; waiting for more to send would only delay them.
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

/// A connection while it is served; it leaves the crowd when this is dropped.
struct Served {
    crowd: Arc<Crowd>,
    connection: Arc<Connection>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.crowd.leave(&self.connection);
    }
}

impl Served {
    /// Serves the connection until either side ends it, or the crowd does.
    async fn converse(self, mut stream: TcpStream, router: Router, stop: CancellationToken) {
        let idle = self.crowd.bounds.idle_timeout;
        tokio::select! {
            biased;
            () = self.connection.is_cut() => {}
            () = stop.cancelled() => {}
            // Before the first byte there is no buffer to hold.
            begun = tokio::time::timeout(idle, refusal::begins_as_http2(&stream)) => match begun {
                Ok(Ok(false)) => self.answer(stream, router, stop.clone()).await,
                Ok(Ok(true)) => refusal::refuse_http2(&mut stream).await,
                Ok(Err(_)) | Err(_) => {}
            },
        }
    }

    async fn answer(&self, stream: TcpStream, router: Router, stop: CancellationToken) {
        let routes = TowerToHyperService::new(router);
        let service = service_fn(|mut request: Request<Incoming>| {
            let peer = Peer(self.connection.clone());
            self.crowd.head_ended(&peer.0);
            peer.0.asked();
            request.extensions_mut().insert(peer.clone());
            let answer = routes.call(request);
            async move {
                let mut answer = answer.await;
                peer.0.answered();
                // RFC 9110, section 8.6: it would be the length of what the client has, and axum says that of nothing.
                if let Ok(answer) = &mut answer
                    && answer.status() == StatusCode::NOT_MODIFIED
                {
                    answer.headers_mut().remove(header::CONTENT_LENGTH);
                }
                answer
            }
        });
        let stream = Guarded::new(stream, self.crowd.clone(), self.connection.clone());
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.crowd.bounds.idle_timeout)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.connection.is_cut() => Ok(()),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                // Left to itself hyper waits for the rest of a head. Answers come in one piece, so that whatever is left
                // of one after a poll waits for the client.
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
