//! A minimal HTTP client: one request per connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longer than any answer may take. A server that hangs fails the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header lines in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body. Bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Response {
    /// The value of the first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends `GET path` to `addr` (`host:port`). Returns status and body.
pub fn http_get(addr: impl ToString, path: &str) -> io::Result<(u16, String)> {
    let response = http_request(addr, "GET", path, &[], "")?;
    Ok((response.status, response.body))
}

/// Sends `POST path` with a body to `addr` (`host:port`). Returns status and body.
pub fn http_post(
    addr: impl ToString,
    path: &str,
    content_type: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let response = http_request(addr, "POST", path, &[("content-type", content_type)], body)?;
    Ok((response.status, response.body))
}

/// Sends a request to `addr` (`host:port`) with additional headers. `host` and `content-length` are added.
pub fn http_request(
    addr: impl ToString,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Response> {
    let addr = addr.to_string();
    let mut stream = connect(&addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // With HTTP/1.0 the answer has no chunks and ends with the connection.
    let mut request =
        format!("{method} {path} HTTP/1.0\r\nhost: {addr}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.is_empty() {
        let message = "the connection was closed without an answer";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    parse(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
}

fn connect(addr: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
    let first = addresses
        .first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no address for {addr}")))?;
    TcpStream::connect_timeout(first, PATIENCE)
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Response {
        status,
        headers,
        body: String::from_utf8_lossy(&answer[end + 4..]).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn posts_and_reads_the_answer() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (stream, _) = server.accept().unwrap();
            let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            (&stream).write_all(b"HTTP/1.0 201 Created\r\nX-Kind: test\r\n\r\nthank you").unwrap();
            head
        });
        let response =
            http_request(addr, "POST", "/graphql", &[("content-type", "text/plain")], "?\n")
                .unwrap();
        assert_eq!(
            (response.status, response.body.as_str(), response.header("x-kind")),
            (201, "thank you", Some("test"))
        );
        let head = serving.join().unwrap();
        assert_eq!(head[0], "POST /graphql HTTP/1.0");
        assert!(
            head.contains(&"content-length: 2".to_owned())
                && head.contains(&"content-type: text/plain".to_owned())
        );
    }

    #[test]
    fn refuses_what_is_no_http() {
        assert_eq!(parse(b"220 mail.example ESMTP\r\n"), None);
    }
}
