//! A client that sends a request byte for byte and reads one answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use testkit::wait_until;

/// Longer than any timeout of the daemon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A well-formed HTTP request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Http {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body is sent in chunks, without a length.
    pub(crate) chunked: bool,
}

/// A response, decompressed.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

impl Http {
    /// The request as bytes.
    pub(crate) fn bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut body = Vec::new();
        if self.chunked {
            head.push_str("transfer-encoding: chunked\r\n");
            for chunk in self.body.chunks(7_000) {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
        } else if self.method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
            body.clone_from(&self.body);
        }
        [head.as_bytes(), b"\r\n", &body].concat()
    }

    /// Sends the request and reads the answer. `pause` splits it into two parts with a pause between them.
    pub(crate) fn send(&self, host: &str, pause: Option<(usize, Duration)>) -> io::Result<Answer> {
        let bytes = self.bytes(host);
        let mut stream = connect(host)?;
        let (cut, time) = pause.unwrap_or_default();
        let cut = cut.min(bytes.len());
        // A server may answer and close before it has read the whole request.
        let mut sent = stream.write_all(&bytes[..cut]);
        if !time.is_zero() {
            // A client that is slow on purpose.
            let until = Instant::now() + time;
            wait_until("the pause to pass", PATIENCE, || Instant::now() >= until);
        }
        sent = sent.and_then(|()| stream.write_all(&bytes[cut..]));
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        parse(&answer).ok_or_else(|| match (sent, read) {
            (Err(error), _) | (_, Err(error)) => error,
            _ => {
                io::Error::other(format!("no whole answer: {:?}", String::from_utf8_lossy(&answer)))
            }
        })
    }
}

pub(crate) fn connect(host: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Parses a response. `None` unless it is complete.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let mut answer = Answer { status, headers: headers.collect(), body: String::new() };
    let mut body = bytes[end + 4..].to_vec();
    let length: Option<usize> = answer.header("content-length").and_then(|own| own.parse().ok());
    if status != 304 && body.len() != length? {
        return None;
    }
    if answer.header("content-encoding") == Some("gzip") {
        let mut plain = Vec::new();
        GzDecoder::new(&body[..]).read_to_end(&mut plain).ok()?;
        body = plain;
    }
    answer.body = String::from_utf8(body).ok()?;
    Some(answer)
}
