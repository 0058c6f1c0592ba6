//! Reading a body within its limit.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use hyper::body::Body as _;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    TooLong,
    /// The client went away, or sent what is no HTTP.
    Broken,
}

/// How much, and for how long, is thrown away of a body that is refused. A client that is still sending would else see
/// its connection reset before it reads why; one that takes longer has itself to blame.
const COURTESY: (usize, Duration) = (64 << 20, Duration::from_secs(1));

/// The length that the head announces, where it does.
pub(super) fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads up to `maximum` bytes, of which there will probably be `capacity`.
pub(super) async fn read(
    mut body: Body,
    capacity: usize,
    maximum: usize,
) -> Result<Vec<u8>, Unread> {
    let mut read = Vec::with_capacity(capacity);
    while let Some(data) = next(&mut body).await {
        let data = data?;
        if read.len() + data.len() > maximum {
            drop(read);
            let_by(body).await;
            return Err(Unread::TooLong);
        }
        read.extend_from_slice(&data);
    }
    Ok(read)
}

/// Lets the body of a request that is refused by its head go by.
pub(super) async fn discard(body: Body, headers: &HeaderMap) {
    // Where the client waits for leave nothing was sent yet.
    if !headers.contains_key(header::EXPECT) {
        let_by(body).await;
    }
}

async fn let_by(mut body: Body) {
    let (most, patience) = COURTESY;
    let going_by = async {
        let mut gone = 0;
        while let Some(Ok(data)) = next(&mut body).await
            && gone <= most
        {
            gone += data.len();
        }
    };
    let _ = tokio::time::timeout(patience, going_by).await;
}

/// The next piece of a body; trailers are empty ones, for they say nothing here.
async fn next(body: &mut Body) -> Option<Result<Bytes, Unread>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map_err(|_| Unread::Broken).map(|frame| frame.into_data().unwrap_or_default()))
}
