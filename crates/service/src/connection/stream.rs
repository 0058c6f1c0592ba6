//! A TCP stream that closes when its client is too slow, counts the bytes of heads as they arrive, and discards the
//! client's remaining data before it closes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::refusal;
use super::registry::{Connection, ConnectionRegistry};

/// How many bytes to discard of a client's data when its connection ends, and for how long. Otherwise a client that is
/// still sending would see a connection reset before it reads the response.
const LINGER: (usize, Duration) = (64 << 20, Duration::from_secs(1));

pub(super) struct Guarded {
    stream: TcpStream,
    /// Bytes of the client's that were read before.
    first: Bytes,
    registry: Arc<ConnectionRegistry>,
    connection: Arc<Connection>,
    deadline: Pin<Box<Sleep>>,
    /// The rest of the response that replaces hyper's own.
    replacement: Option<Bytes>,
    /// Bytes discarded since the sending side was closed.
    lingered: Option<usize>,
}

impl Guarded {
    pub(super) fn new(
        stream: TcpStream,
        first: Bytes,
        registry: Arc<ConnectionRegistry>,
        connection: Arc<Connection>,
    ) -> Self {
        let deadline = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { stream, first, registry, connection, deadline, replacement: None, lingered: None }
    }

    /// Writes with `write`; while the client receives no data, its time limit runs.
    fn timed(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(Ok(bytes)) => {
                self.connection.sent(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let left = self.connection.most_behind().saturating_sub(self.connection.stalled());
                if !left.is_zero() {
                    self.deadline.as_mut().reset(Instant::now() + left);
                    ready!(self.deadline.as_mut().poll(context));
                }
                let slow = io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly");
                Poll::Ready(Err(slow))
            }
        }
    }

    /// Writes a response with a body instead of one that hyper made itself, which has no body. Returns the length of
    /// the replaced response when that is done; `None` if `bytes` are to be written unchanged.
    fn replaced(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        let mut rest = match self.replacement.take() {
            Some(rest) => rest,
            None => refusal::with_body(bytes)?,
        };
        while rest.has_remaining() {
            let written = self.timed(context, |stream, context| stream.poll_write(context, &rest));
            match written {
                Poll::Ready(Ok(count)) => rest.advance(count),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => {
                    self.replacement = Some(rest);
                    return Some(Poll::Pending);
                }
            }
        }
        Some(Poll::Ready(Ok(bytes.len())))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let known = self.first.len().min(buffer.remaining());
        if known > 0 {
            buffer.put_slice(&self.first.split_to(known));
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        }
        self.registry.head_grew(&self.connection, buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.replaced(context, bytes) {
            Some(written) => written,
            None => self.timed(context, |stream, context| stream.poll_write(context, bytes)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [single] = slices
            && let Some(written) = self.replaced(context, single)
        {
            return written;
        }
        self.timed(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Closes the sending side, then reads and discards the client's data until the client closes its side.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (most, timeout) = LINGER;
        if self.lingered.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.lingered = Some(0);
            self.deadline.as_mut().reset(Instant::now() + timeout);
        }
        let mut discarded = [0; 8 * 1_024];
        while self.lingered.is_some_and(|gone| gone <= most) {
            if self.deadline.as_mut().poll(context).is_ready() {
                break;
            }
            let mut buffer = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
            self.lingered = self.lingered.map(|gone| gone + buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}
