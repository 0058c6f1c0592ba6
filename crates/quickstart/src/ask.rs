//! The example query to the query server, over HTTP like any client's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const QUESTION: &str =
    r#"query { package(name: "pg", version: "7.12.0") { publicationInfo { username tor tfa } } }"#;
/// The answer in the README.
pub(crate) const ANSWER: &str =
    r#"{"data":{"package":{"publicationInfo":{"username":"brianc","tor":false,"tfa":true}}}}"#;
/// Longer than the server's own request timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends the query. Returns the body of the answer.
///
/// # Errors
/// The server does not answer, or its status is not 200.
pub(crate) async fn ask(server: SocketAddr) -> anyhow::Result<String> {
    let answer = tokio::time::timeout(PATIENCE, exchange(reachable(server), &body())).await;
    let answer = answer.map_err(anyhow::Error::from).flatten();
    let answer = answer.with_context(|| format!("asking the query server at {server}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.starts_with("HTTP/1.1 200 "), "{status}: {body}");
    Ok(body.to_owned())
}

/// The query as a `curl` command.
pub(crate) fn curl(server: SocketAddr) -> String {
    // The body has no single quote, so the shell passes it unchanged.
    format!("curl {}graphql -H 'content-type: application/json' -d '{}'", url(server), body())
}

/// The URL of a listener, for a browser on this machine.
pub(crate) fn url(listener: SocketAddr) -> String {
    format!("http://{}/", reachable(listener))
}

/// Replaces the unspecified address of a listener by the loopback address.
const fn reachable(listener: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listener.port())
    } else {
        listener
    }
}

fn body() -> String {
    json!({ "query": QUESTION }).to_string()
}

/// Sends a request on a new connection, so that the answer ends with the connection.
async fn exchange(server: SocketAddr, body: &str) -> anyhow::Result<String> {
    let mut connection = TcpStream::connect(server).await?;
    let request = format!(
        "POST /graphql HTTP/1.1\r\nhost: {server}\r\naccept: */*\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_what_one_would_type() {
        let server = SocketAddr::from(([0, 0, 0, 0], 8080));
        assert_eq!(
            curl(server),
            r#"curl http://127.0.0.1:8080/graphql -H 'content-type: application/json' -d '{"query":"query { package(name: \"pg\", version: \"7.12.0\") { publicationInfo { username tor tfa } } }"}'"#
        );
        assert_eq!(url(SocketAddr::from(([10, 0, 0, 1], 80))), "http://10.0.0.1:80/");
    }
}
