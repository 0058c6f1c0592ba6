use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use model::Publication;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::testing::{Memory, client, rows};
use crate::{DEFAULT_SCHEMA, QuerySettings, Server};
use std::sync::Arc;

mod access;
mod caching;
mod pages;

const SEED: &str = r#"{"query":"query { package(name: \"pg\", version: \"7.12.0\") { publicationInfo { username tor tfa } } }"}"#;
const ANSWER: &str =
    r#"{"data":{"package":{"publicationInfo":{"username":"brianc","tor":false,"tfa":true}}}}"#;
const JSON: &str = "content-type: application/json";
const NEW: &str = "accept: application/graphql-response+json";

struct Running {
    http: SocketAddr,
    admin: SocketAddr,
    memory: Arc<Memory>,
    app: Arc<super::App>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), service::lifecycle::GraceExceeded>>,
}

async fn start(change: impl FnOnce(&mut QuerySettings)) -> Running {
    start_on(rows(), change).await
}

async fn start_on(rows: Vec<Publication>, change: impl FnOnce(&mut QuerySettings)) -> Running {
    let mut settings = QuerySettings::default();
    settings.http.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    settings.admin.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    change(&mut settings);
    let memory = Arc::new(Memory { rows, ..Memory::default() });
    let server = Server::bind_with_reader(settings, memory.clone()).await.unwrap();
    let (http, admin, app) = (server.http_addr(), server.admin_addr(), server.app.clone());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(stop.clone()));
    Running { http, admin, memory, app, stop, serving }
}

/// Sends a request. Returns the status and the whole response.
async fn send(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    // A request with an unacceptable head may be answered before its body is read.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

/// The value of a header of a response.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.split("\r\n\r\n").next()?.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

impl Running {
    async fn post(&self, headers: &[&str], body: &str) -> (u16, String) {
        send(self.http, &format!("POST /graphql HTTP/1.1\r\n{}", headers.join("\r\n")), body).await
    }

    async fn get(&self, path: &str, header: &str) -> (u16, String) {
        send(self.http, &format!("GET {path} HTTP/1.1\r\n{header}"), "").await
    }
}

#[tokio::test]
async fn answers_the_seed_by_post_and_get_and_stops() {
    let running = start(|_| ()).await;
    let (status, answer) = running.post(&[JSON], SEED).await;
    assert_eq!(status, 200);
    assert!(
        answer.ends_with(ANSWER)
            && answer.contains("content-type: application/json; charset=utf-8"),
        "{answer}"
    );
    let (status, answer) = running.post(&[JSON, NEW], SEED).await;
    assert_eq!(status, 200);
    assert!(
        answer.contains("content-type: application/graphql-response+json; charset=utf-8"),
        "{answer}"
    );
    let query = "query%20a(%24n%3AString!)%7Bpackage(name%3A%24n%2Cversion%3A%227.12.0%22)%7Bname%7D%7Dquery%20b%7B__typename%7D";
    let path = format!(
        "/graphql?query={query}&operationName=a&variables=%7B%22n%22%3A%22pg%22%7D&extensions="
    );
    let (status, answer) = running.get(&path, NEW).await;
    assert!(status == 200 && answer.ends_with(r#"{"data":{"package":{"name":"pg"}}}"#), "{answer}");
    running.stop.cancel();
    running.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn slow_listings_leave_the_look_ups_of_others_alone() {
    let running = start(|_| ()).await;
    running.memory.listings_hang.store(true, Ordering::Relaxed);
    let pages: String = (0..10)
        .map(|at| format!("p{at}: publications(first: 100, filter: {{username: \\\"x\\\"}}) {{ edges {{ cursor }} }} "))
        .collect();
    let body = format!(r#"{{"query":"{{ {pages} }}"}}"#);
    let length = body.len();
    let head =
        format!("POST /graphql HTTP/1.1\r\nhost: x\r\n{JSON}\r\ncontent-length: {length}\r\n\r\n");
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(running.http).await.unwrap();
        stream.write_all((head.clone() + &body).as_bytes()).await.unwrap();
        slow.push(stream);
    }
    while running.memory.lists.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let answer =
        tokio::time::timeout(std::time::Duration::from_secs(5), running.post(&[JSON], SEED));
    let (status, answer) = answer.await.expect("an answer in time");
    assert!(status == 200 && answer.ends_with(ANSWER), "{answer}");
}

#[tokio::test]
async fn statuses_follow_the_media_type() {
    let running = start(|_| ()).await;
    for (body, code) in [
        (r#"{"query":"{"}"#, "GRAPHQL_PARSE_FAILED"),
        (r#"{"query":"{ x }"}"#, "GRAPHQL_VALIDATION_FAILED"),
        (
            r#"{"query":"query ($n: Int!) { publications(first: $n) { edges { cursor } } }"}"#,
            "BAD_USER_INPUT",
        ),
        (r#"{"query":"{ publications(first: 101) { edges { cursor } } }"}"#, "BAD_USER_INPUT"),
        (r#"{"query":"{ __typename }","operationName":"x"}"#, "OPERATION_RESOLUTION_FAILURE"),
    ] {
        let (old, answer) = running.post(&[JSON], body).await;
        assert!(
            answer.contains(&format!("\"code\":\"{code}\"")) && !answer.contains("\"data\""),
            "{answer}"
        );
        let (new, _) = running.post(&[JSON, NEW], body).await;
        assert_eq!((old, new), (200, 400), "{body}");
    }
    for body in ["", "{", "[]", "[{}]", "1", r#"{"query":1}"#, r#"{"variables":{}}"#] {
        assert_eq!(running.post(&[JSON], body).await.0, 400, "{body}");
        assert_eq!(running.post(&[JSON, NEW], body).await.0, 400, "{body}");
    }
}

#[tokio::test]
async fn what_is_no_graphql_request_is_refused() {
    let running = start(|settings| settings.limits.max_body = bytesize::ByteSize::kib(1)).await;
    assert_eq!(running.post(&["x: y"], SEED).await.0, 415);
    assert_eq!(running.post(&["content-type: text/plain"], SEED).await.0, 415);
    assert_eq!(
        running.post(&["content-type: application/json; charset=latin1"], SEED).await.0,
        415
    );
    assert_eq!(running.post(&[JSON, "accept: text/html"], SEED).await.0, 406);
    let (status, answer) = running.post(&[JSON], &" ".repeat(2_000)).await;
    assert!(status == 413 && answer.contains("limits.max_body"), "{answer}");
    let (status, answer) = running.post(&[JSON, "sec-fetch-site: cross-site"], SEED).await;
    assert!(status == 403 && answer.contains("CROSS_SITE_REFUSED"), "{answer}");
    assert_eq!(running.post(&[JSON, "sec-fetch-site: same-origin"], SEED).await.0, 200);
    assert_eq!(running.post(&[JSON, "origin: https://evil.example"], SEED).await.0, 403);
    let path = "/graphql?query=%7B__typename%7D";
    assert_eq!(running.get(path, "origin: https://evil.example").await.0, 403);
    assert_eq!(running.get(path, "origin: http://x").await.0, 200);
    let (status, answer) = running.get("/graphql?query=mutation%7B__typename%7D", NEW).await;
    assert!(status == 405 && answer.contains("allow: POST"), "{answer}");
    assert_eq!(running.get("/graphql", NEW).await.0, 400);
    assert_eq!(running.get("/graphql?query=%7B__typename%7D&variables=x", NEW).await.0, 400);
    assert_eq!(send(running.http, "PUT /graphql HTTP/1.1\r\nx: y", "").await.0, 405);
    let (status, answer) = send(running.http, "GET / HTTP/1.1\r\na b: c", "").await;
    assert!(status == 400 && answer.contains("is not valid HTTP/1.1"), "{answer}");
    assert!(answer.contains("\r\ndate: "), "{answer}");
}

#[tokio::test]
async fn while_the_store_is_away_the_answer_is_503_and_readyz_says_so() {
    let running = start(|_| ()).await;
    running.memory.away.store(true, Ordering::Relaxed);
    for headers in [&[JSON][..], &[JSON, NEW]] {
        let (status, answer) = running.post(headers, SEED).await;
        assert!(status == 503 && answer.contains(r#""code":"STORE_UNAVAILABLE""#), "{answer}");
    }
    assert_eq!(running.post(&[JSON], r#"{"query":"{ __typename }"}"#).await.0, 200);
    loop {
        let (status, answer) = send(running.admin, "GET /readyz HTTP/1.1", "").await;
        if answer.contains(r#""state":"paused""#) {
            assert!(status == 503 && answer.contains("not available"), "{answer}");
            break;
        }
        tokio::task::yield_now().await;
    }
    running.memory.away.store(false, Ordering::Relaxed);
    assert_eq!(running.post(&[JSON], SEED).await.0, 200);
}

#[tokio::test]
async fn a_panic_is_answered_and_counted() {
    let running = start(|_| ()).await;
    running.memory.panics.store(true, Ordering::Relaxed);
    let (status, answer) = running.post(&[JSON], SEED).await;
    assert!(status == 500 && answer.contains(r#""code":"INTERNAL_SERVER_ERROR""#), "{answer}");
    assert!(answer.contains("cache-control: no-store"), "{answer}");
    assert!(!answer.contains("as the test wants"), "{answer}");
    let (_, answer) = send(running.admin, "GET /metrics HTTP/1.1", "").await;
    let line = "publication_query_requests_total{outcome=\"internal\",status=\"5xx\"} 1";
    assert!(answer.contains(line), "{answer}");
    running.memory.panics.store(false, Ordering::Relaxed);
    assert_eq!(running.post(&[JSON], SEED).await.0, 200);
}

#[tokio::test]
async fn an_answer_without_room_is_refused_and_not_cached() {
    let running = start(|_| ()).await;
    let full = |bytes| vec![b' '; usize::try_from(bytes).unwrap()].into();
    let limits = QuerySettings::default().limits;
    // Four clients fill the buffer of answers, two more what may wait for it.
    let quarter = limits.max_answers.as_u64() / 4;
    let mut sent = Vec::new();
    for number in 1..=4 {
        sent.push(running.app.admission.answer(full(quarter), client(number), None).await.unwrap());
    }
    let quarter = limits.max_answer.as_u64() / 4;
    let wait = |number| running.app.admission.answer(full(quarter), client(number), None);
    let mut waiting = std::pin::pin!(futures_util::future::join(wait(5), wait(6)));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let path = "/graphql?query=%7B__typename%7D";
    let (status, answer) = running.get(path, JSON).await;
    assert!(status == 503 && answer.contains(r#""code":"BUSY""#), "{answer}");
    assert!(answer.contains("retry-after: ") && answer.contains("cache-control: no-store"));
    assert!(!answer.contains("etag: "), "{answer}");
    let (_, metrics) = send(running.admin, "GET /metrics HTTP/1.1", "").await;
    let line = "publication_query_requests_total{outcome=\"busy\",status=\"5xx\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    drop(sent);
    let (fifth, sixth) = waiting.await;
    assert!(fifth.is_some() && sixth.is_some());
    let (status, answer) = running.get(path, JSON).await;
    assert!(status == 200 && answer.contains("etag: "), "{answer}");
}

#[tokio::test]
async fn serves_its_schema_its_page_and_its_metrics() {
    let running = start(|_| ()).await;
    let (status, answer) = running.get("/schema.graphql", "x: y").await;
    assert!(status == 200 && answer.ends_with(DEFAULT_SCHEMA), "{answer}");
    let (status, answer) = running.get("/graphiql", "sec-fetch-site: cross-site").await;
    assert!(
        status == 200 && answer.contains("content-security-policy: default-src 'none'"),
        "{answer}"
    );
    let (status, answer) = running.get("/graphiql/graphiql.min.js", "accept-encoding: gzip").await;
    assert!(status == 200 && answer.contains("content-encoding: gzip"));
    for none in ["/graphiql/../Cargo.toml", "/graphiql/%ff"] {
        let (status, answer) = running.get(none, "x: y").await;
        assert!(status == 404 && answer.contains("\"NOT_FOUND\""), "{answer}");
    }
    running.post(&[JSON], SEED).await;
    running.post(&[JSON], SEED).await;
    let (_, answer) = send(running.admin, "GET /metrics HTTP/1.1", "").await;
    for line in [
        "publication_query_requests_total{outcome=\"ok\",status=\"2xx\"} 2",
        "publication_query_requests_total{outcome=\"store_unavailable\",status=\"5xx\"} 0",
        "publication_query_document_cache_lookups_total{result=\"hit\"} 1",
        "publication_query_keys_sum 2",
        "publication_query_build_info{version=",
    ] {
        assert!(answer.contains(line), "{line} is not in\n{answer}");
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_cut_off() {
    let running =
        start(|settings| settings.http.idle_timeout = std::time::Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    stream.write_all(b"POST /graphql HTTP/1.1\r\nhost:").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let running =
        start(|settings| settings.http.request_timeout = std::time::Duration::from_millis(50))
            .await;
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{JSON}\r\ncontent-length: 9\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"TIMEOUT\""), "{answer}");
}

#[tokio::test]
async fn a_body_that_had_to_wait_for_room_is_told_to_come_again() {
    let running = start(|settings| {
        settings.http.request_timeout = std::time::Duration::from_secs(1);
        settings.limits.max_body = bytesize::ByteSize::kib(1);
        settings.limits.max_bodies = bytesize::ByteSize::kib(1);
        settings.access.trusted_proxies = vec!["127.0.0.0/8".into()];
    })
    .await;
    let mut streams = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2"] {
        let mut stream = TcpStream::connect(running.http).await.unwrap();
        let part = format!(
            "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{JSON}\r\nx-forwarded-for: {client}\r\n\
             content-length: 1000\r\n\r\n{:600}",
            ""
        );
        stream.write_all(part.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"BUSY\""), "{answer}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
}

#[tokio::test]
async fn who_announces_too_much_is_not_waited_for() {
    let running =
        start(|settings| settings.http.request_timeout = std::time::Duration::from_secs(3_600))
            .await;
    for length in [format!("{JSON}\r\ncontent-length: 3000000"), "content-length: 9".into()] {
        let mut stream = TcpStream::connect(running.http).await.unwrap();
        let head = format!("POST /graphql HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n{{");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // The answer closes the connection, because the rest of the body is not a request.
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 41"), "{answer}");
    }
}

/// A list that is used again asks for more publications than the text shows.
#[tokio::test]
async fn a_request_that_was_estimated_too_low_waits_for_more_permits() {
    let running = start(|settings| settings.limits.max_refs_in_progress = 5_000).await;
    let fields: String = (0..5).map(|n| format!("a{n}:packages(refs:$r){{name}}")).collect();
    let query = format!("query($r:[PackageRef!]!){{{fields}}}");
    let refs = vec![serde_json::json!({"name": "pg", "version": "7.12.0"}); 380];
    let body = serde_json::json!({"query": query, "variables": {"r": refs}});
    let others = running.app.admission.of(client(1)).work(4_000, false).await;
    let body = body.to_string();
    let mut asking = std::pin::pin!(running.post(&[JSON], &body));
    let wait = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(wait, &mut asking).await.is_err(), "1,000 permits are left");
    assert_eq!(running.memory.finds.load(Ordering::Relaxed), 0);
    drop(others);
    let (status, answer) = asking.await;
    assert_eq!((status, answer.matches("\"pg\"").count()), (200, 1_900));
}

#[tokio::test]
async fn a_document_that_is_too_long_waits_for_nothing() {
    let running =
        start(|settings| settings.http.request_timeout = std::time::Duration::from_secs(2)).await;
    let _permit = running.app.admission.of(client(1)).validation(70_000).await;
    let body = format!(r#"{{"query":"{}"}}"#, " ".repeat(70_000));
    let (_, answer) = running.post(&[JSON], &body).await;
    assert!(answer.contains("\"limits.max_document\"") && answer.contains("70000"), "{answer}");
    // A short one that nobody has sent before waits for no long one.
    let (_, answer) = running.post(&[JSON], r#"{"query":"{ n: __typename }"}"#).await;
    assert!(answer.contains(r#"{"data":{"n":"Query"}}"#), "{answer}");
}

#[tokio::test]
async fn a_refusal_is_short_whatever_it_refuses() {
    let running = start(|_| ()).await;
    let name = "x".repeat(1_000_000);
    let body = format!(r#"{{"query":"{{ __typename }}","operationName":"{name}"}}"#);
    let (_, answer) = running.post(&[JSON], &body).await;
    assert!(answer.contains("\"OPERATION_RESOLUTION_FAILURE\""));
    assert!(answer.len() < 1_000, "{} bytes", answer.len());
}

#[tokio::test]
async fn a_body_holds_no_more_memory_than_is_counted() {
    let running = start(|_| ()).await;
    let (mut head, ()) = axum::http::Request::new(()).into_parts();
    head.headers.insert("content-type", "application/json".parse().unwrap());
    let context = super::context::Context::open(&head, &running.app, super::context::Media::Json);
    let part = || Ok::<_, std::convert::Infallible>(vec![b' '; 1_024]);
    let parts = futures_util::stream::iter(std::iter::repeat_with(part).take(1_100));
    let body = axum::body::Body::from_stream(parts);
    let read = super::request::body(&running.app, &context.unwrap(), &head.headers, body).await;
    let (read, _place) = read.unwrap();
    assert!(read.capacity() <= read.len() / 4 * 5, "{} of {}", read.len(), read.capacity());
}
