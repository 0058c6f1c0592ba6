//! The responses to clients whose requests reach no route: the head is invalid, or the client speaks HTTP/2.

use std::io;

use axum::body::Body;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const JSON: &str = "application/json; charset=utf-8";
/// The start of HTTP/2's connection preface (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// An empty SETTINGS frame, then GOAWAY for the reason HTTP_1_1_REQUIRED (RFC 9113, sections 6.5, 6.8 and 7).
const GO_AWAY: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0d";

/// Reads the first bytes, until they are the start of HTTP/2's preface or differ from it. `None` for an HTTP/2 client, else
/// the bytes. An error if the client has disconnected.
pub(super) async fn first_bytes(stream: &mut TcpStream) -> io::Result<Option<Bytes>> {
    let mut first = [0; HTTP2.len()];
    let mut count = 0;
    while HTTP2.starts_with(&first[..count]) {
        if count == HTTP2.len() {
            return Ok(None);
        }
        match stream.read(&mut first[count..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => count += more,
        }
    }
    Ok(Some(Bytes::copy_from_slice(&first[..count])))
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
        // Also for a long URL: the limit of a head is below hyper's limit of a URL.
        "431" => (
            "HEAD_TOO_LARGE",
            "the URL and headers are longer than 16384 bytes, or there are over 100 headers; send the query by POST",
        ),
        "400" => ("BAD_REQUEST", "the request is not valid HTTP/1.1"),
        _ => return None,
    };
    let body = body(code, message);
    let length = body.len();
    let date = text.split_inclusive("\r\n").find(|line| line.starts_with("date: ")).unwrap_or("");
    Some(Bytes::from(format!(
        "{line}\r\n{date}connection: close\r\ncontent-type: {JSON}\r\n\
         cache-control: no-store\r\ncontent-length: {length}\r\n\r\n{body}"
    )))
}

/// Whether the request breaks RFC 9112, section 3.2: there is one `Host`, with a valid value. HTTP/1.0 needs none.
pub(super) fn is_host_wrong<T>(request: &Request<T>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() == Version::HTTP_11,
        (Some(b""), None) => false,
        (Some(host), None) => host.contains(&b'@') || Authority::try_from(host).is_err(),
        (Some(_), Some(_)) => true,
    }
}

/// The answer to a request whose `Host` is wrong.
pub(super) fn wrong_host() -> Response<Body> {
    let message = "the request must have one header Host, with the name of a host";
    let mut answer = Response::new(Body::from(body("BAD_REQUEST", message)));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    for (name, value) in [
        (header::CONNECTION, "close"),
        (header::CONTENT_TYPE, JSON),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn body(code: &str, message: &str) -> String {
    format!(r#"{{"errors":[{{"message":"{message}","extensions":{{"code":"{code}"}}}}]}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_keeps_the_date_and_names_the_cause() {
        let date = "date: Sat, 28 Nov 2026 13:00:00 GMT\r\n";
        let written = |date: &str| {
            let bare = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n";
            let answer = with_body(format!("{bare}{date}\r\n").as_bytes()).unwrap();
            String::from_utf8(answer.to_vec()).unwrap()
        };
        let answer = written(date);
        assert!(answer.split_once("\r\n\r\n").unwrap().0.contains(date.trim_end()), "{answer}");
        assert!(answer.contains("the request is not valid HTTP/1.1"), "{answer}");
        assert!(!written("").contains("date:"));
    }
}
