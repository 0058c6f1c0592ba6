//! The responses to clients whose requests reach no route: the head is invalid, or the client speaks HTTP/2.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// The start of HTTP/2's connection preface (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// An empty SETTINGS frame, then GOAWAY for the reason HTTP_1_1_REQUIRED (RFC 9113, sections 6.5, 6.8 and 7).
const GO_AWAY: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0d";

/// Waits for the first bytes and returns whether they are an HTTP/2 client's; they stay unread. An error if the client
/// has disconnected.
pub(super) async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2.len()];
    stream.ready(Interest::READABLE).await?;
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(&first[..count] == HTTP2),
    }
}

/// Tells an HTTP/2 client, in HTTP/2 frames, that this server supports only HTTP/1.1.
pub(super) async fn refuse_http2(stream: &mut TcpStream) {
    // A client that has disconnected needs no answer.
    let _ = stream.write_all(GO_AWAY).await;
    let _ = stream.shutdown().await;
}

/// Replaces an empty 4xx response that hyper wrote itself by one with a body. `None` for any other bytes.
pub(super) fn with_body(written: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(written).ok()?;
    let is_bare = text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.0 4");
    if !is_bare || !text.ends_with("\r\n\r\n") || !text.contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    let line = text.lines().next()?;
    let (code, message) = match text.get(9..12)? {
        "414" => ("URI_TOO_LONG", "the URL is too long; send the query by POST"),
        "431" => (
            "HEAD_TOO_LARGE",
            "the URL and headers are longer than 16384 bytes, or there are over 100 headers; send the query by POST",
        ),
        "400" => ("BAD_REQUEST", "the request is not HTTP/1.1"),
        _ => return None,
    };
    let body =
        format!(r#"{{"errors":[{{"message":"{message}","extensions":{{"code":"{code}"}}}}]}}"#);
    let length = body.len();
    Some(Bytes::from(format!(
        "{line}\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n\
         cache-control: no-store\r\ncontent-length: {length}\r\n\r\n{body}"
    )))
}
