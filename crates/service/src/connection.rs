//! HTTP connections of a listener: how many, for how long one may stand still, and how they end when the daemon does.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::IntGauge;

/// How long to wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a request's head may have: URLs carry documents in GET requests. Also the buffer of a connection, so that it
/// bounds what an idle client costs.
const MAX_HEAD: usize = 64 * 1_024;

/// Who is at the other end of a request's connection; every request has it as an extension.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// What the clients of a listener may take up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at the same time; more wait to be accepted.
    pub max_connections: usize,
    /// A connection that sends no whole request head for so long is closed.
    pub idle_timeout: Duration,
    /// A client that takes no byte of its answer for so long is cut off.
    pub write_timeout: Duration,
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
    let mut connections = JoinSet::new();
    loop {
        let count = connections.len();
        show(open, count);
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            // One too many waits in the operating system's queue.
            accepted = listener.accept(), if count < bounds.max_connections => {
                if let Some((stream, peer)) = connected(accepted).await {
                    connections.spawn(converse(stream, peer, router.clone(), bounds, stop.clone()));
                }
            }
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

/// What a connection is in the middle of.
#[derive(Debug, Default)]
struct Activity {
    /// A request was read and its answer is not there yet.
    answering: AtomicBool,
    /// The client has not taken yet what there is of its answer.
    sending: AtomicBool,
}

impl Activity {
    fn is_idle(&self) -> bool {
        !self.answering.load(Ordering::Relaxed) && !self.sending.load(Ordering::Relaxed)
    }
}

/// Serves one connection until either side ends it.
async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let stream = Impatient::new(stream, bounds.write_timeout, activity.clone());
    let routes = TowerToHyperService::new(router);
    let answering = activity.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        let answer = routes.call(request);
        let activity = answering.clone();
        async move {
            activity.answering.store(true, Ordering::Relaxed);
            let mut answer = answer.await;
            activity.answering.store(false, Ordering::Relaxed);
            // RFC 9110, section 8.6: it would be the length of what the client has, and axum says that of nothing.
            if let Ok(answer) = &mut answer
                && answer.status() == StatusCode::NOT_MODIFIED
            {
                answer.headers_mut().remove(header::CONTENT_LENGTH);
            }
            answer
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.idle_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Left to itself hyper waits for the rest of a head. Answers come in one piece, so that whatever is left of
            // one after a poll waits for the client.
            poll_fn(|context| match connection.as_mut().poll(context) {
                Poll::Pending if activity.is_idle() => Poll::Ready(Ok(())),
                polled => polled,
            })
            .await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

async fn connected(
    accepted: io::Result<(TcpStream, SocketAddr)>,
) -> Option<(TcpStream, SocketAddr)> {
    match accepted {
        Ok((stream, peer)) => {
            // Answers are written whole; waiting for more to send would only delay them.
            let _ = stream.set_nodelay(true);
            Some((stream, peer))
        }
        Err(error) => {
            let of_the_client = matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionRefused
            );
            if !of_the_client {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// A stream whose writes fail when the client takes nothing for too long.
struct Impatient {
    stream: TcpStream,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
    activity: Arc<Activity>,
}

impl Impatient {
    fn new(stream: TcpStream, patience: Duration, activity: Arc<Activity>) -> Self {
        Self { stream, patience, deadline: Box::pin(tokio::time::sleep(patience)), activity }
    }

    /// Passes on what the stream said; while it says that it must wait, time runs.
    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let waited = self.activity.sending.swap(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            return written;
        }
        if !waited {
            self.deadline.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.timed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const BOUNDS: Bounds = Bounds {
        max_connections: 10,
        idle_timeout: Duration::from_secs(3_600),
        write_timeout: Duration::from_secs(3_600),
    };

    async fn connect(address: SocketAddr, sent: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream
    }

    async fn rest(mut stream: TcpStream) -> usize {
        let mut rest = Vec::new();
        // A connection may also end by a reset, where something that it sent was not read.
        let _ = stream.read_to_end(&mut rest).await;
        rest.len()
    }

    #[tokio::test]
    async fn only_requests_in_progress_are_let_finish() {
        // More than the buffers of both ends of a connection take.
        const LENGTH: usize = 32 << 20;
        let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (asked, answer) = (asked.clone(), answer.clone());
            async move || {
                asked.notify_one();
                answer.notified().await;
                "x".repeat(LENGTH)
            }
        };
        let router = Router::new().route("/", get(async || "short")).route("/long", get(handler));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { serve(listener, router, BOUNDS, None, &stop).await }
        });
        let nothing = connect(address, b"").await;
        let half = connect(address, b"GET /met").await;
        let mut second_half = connect(address, HEAD).await;
        second_half.read_exact(&mut [0; 64]).await.unwrap();
        second_half.write_all(b"GET").await.unwrap();
        let mut sending = connect(address, b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await;
        asked.notified().await;
        answer.notify_one();
        sending.read_exact(&mut [0; 64]).await.unwrap();
        let waiting = connect(address, b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").await;
        asked.notified().await;
        stop.cancel();
        for idle in [nothing, half, second_half] {
            assert!(rest(idle).await < 200);
        }
        answer.notify_one();
        assert!(rest(sending).await > LENGTH);
        assert!(rest(waiting).await > LENGTH);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn one_connection_too_many_waits() {
        let router = Router::new().route("/", get(async || "answer"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let bounds = Bounds { max_connections: 1, ..BOUNDS };
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { serve(listener, router, bounds, None, &stop).await }
        });
        let mut first = connect(address, HEAD).await;
        first.read_exact(&mut [0; 64]).await.unwrap();
        let mut second = connect(address, HEAD).await;
        first.write_all(HEAD).await.unwrap();
        first.read_exact(&mut [0; 128]).await.unwrap();
        let error = second.try_read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "others are answered meanwhile");
        drop(first);
        assert_eq!(second.read(&mut [0]).await.unwrap(), 1);
        stop.cancel();
        serving.await.unwrap();
    }
}
