//! Reading a body within its limit.

use std::future::poll_fn;
use std::pin::Pin;

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

/// How many bodies' worth of bytes are thrown away behind one that is too long. A client that is still sending would
/// else see its connection reset before it reads why.
const DISCARDED: usize = 32;

/// The length that the head announces, where it does.
pub(super) fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads up to `maximum` bytes.
pub(super) async fn read(
    mut body: Body,
    headers: &HeaderMap,
    maximum: usize,
) -> Result<Vec<u8>, Unread> {
    let announced = announced(headers);
    let mut too_long = announced.is_some_and(|length| length > maximum);
    if too_long && headers.contains_key(header::EXPECT) {
        // Nothing was sent yet: the client waits for leave.
        return Err(Unread::TooLong);
    }
    let mut read = Vec::with_capacity(if too_long { 0 } else { announced.unwrap_or_default() });
    let mut discarded = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let data: Bytes = match frame.map_err(|_| Unread::Broken)?.into_data() {
            Ok(data) => data,
            // Trailers say nothing here.
            Err(_) => continue,
        };
        too_long |= read.len() + data.len() > maximum;
        if !too_long {
            read.extend_from_slice(&data);
            continue;
        }
        read = Vec::new();
        discarded += data.len();
        if discarded > DISCARDED * maximum {
            break;
        }
    }
    if too_long { Err(Unread::TooLong) } else { Ok(read) }
}

/// Reads a body up to `maximum` bytes, or as far as it comes, and keeps nothing of it.
pub(super) async fn discard(mut body: Body, headers: &HeaderMap, maximum: usize) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > maximum {
            break;
        }
    }
}
