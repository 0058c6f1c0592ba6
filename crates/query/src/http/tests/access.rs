//! Tokens, rate limits and other origins, over HTTP.

use super::{JSON, NEW, Running, SEED, send, start};

/// `printf %s secret | sha256sum`
const OWNER: &str = "ci 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

async fn options(running: &Running, headers: &str) -> (u16, String) {
    send(running.http, &format!("OPTIONS /graphql HTTP/1.1\r\n{headers}"), "").await
}

#[tokio::test]
async fn where_there_are_tokens_one_is_needed() {
    let running = start(|settings| settings.access.tokens = vec![OWNER.into()]).await;
    for (header, challenge) in [
        ("x: y", "www-authenticate: Bearer realm=\"publications\"\r\n"),
        ("authorization: Bearer wrong", "error=\"invalid_token\""),
    ] {
        let (status, answer) = running.post(&[JSON, header], SEED).await;
        assert!(status == 401 && answer.contains(challenge), "{answer}");
        assert!(answer.contains(r#""code":"UNAUTHENTICATED""#) && !answer.contains("wrong"));
    }
    let (status, answer) = running.post(&[JSON, "authorization: Bearer secret"], SEED).await;
    assert!(
        status == 200 && answer.contains("vary: accept, accept-encoding, authorization"),
        "{answer}"
    );
    assert_eq!(running.get("/schema.graphql", "x: y").await.0, 200, "holds nothing");
    assert_eq!(running.get("/", "x: y").await.0, 200);
}

#[tokio::test]
async fn a_client_is_told_its_account_and_when_to_come_again() {
    let running = start(|settings| {
        settings.limits.max_refs = 10;
        settings.access.rate_limit = 10;
        settings.access.trusted_proxies = vec!["127.0.0.0/8".into()];
    })
    .await;
    let post = async |address: &str, count: usize| {
        let refs = vec![r#"{"name":"pg","version":"1"}"#; count].join(",");
        let body = format!(
            r#"{{"query":"query($r: [PackageRef!]!) {{ packages(refs: $r) {{ name }} }}","variables":{{"r":[{refs}]}}}}"#
        );
        running.post(&[JSON, &format!("x-forwarded-for: {address}")], &body).await
    };
    let (status, answer) = post("192.0.2.1", 4).await;
    assert!(status == 200 && answer.contains("ratelimit: \"publications\";r=6;t="), "{answer}");
    assert!(answer.contains("ratelimit-policy: \"publications\";q=10;w=3600"), "{answer}");
    // Seven exceed the rate limit; the refusal costs what any request costs.
    let (status, answer) = post("192.0.2.1", 7).await;
    assert!(status == 429 && answer.contains(r#""code":"RATE_LIMITED""#), "{answer}");
    let seconds = answer.split("retry-after: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert!((1..=720).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
    assert!(answer.contains(&format!("\"retryAfter\":{seconds}")), "{answer}");
    assert_eq!(post("192.0.2.1", 5).await.0, 200);
    let (status, answer) = running.get("/graphql?query=%7B", "x-forwarded-for: 192.0.2.1").await;
    assert!(status == 429 && answer.contains("ratelimit: \"publications\";r=0;"), "{answer}");
    // The answer arrives also when the request is long and its body is not read.
    let (status, answer) = post("192.0.2.1", 20_000).await;
    assert!(status == 429 && answer.contains("retry-after: "), "{answer}");
    assert_eq!(post("192.0.2.2", 10).await.0, 200, "another client");
    assert_eq!(post("198.51.100.9, 192.0.2.2", 1).await.0, 429, "what a client says of itself");
    let (_, metrics) = send(running.admin, "GET /metrics HTTP/1.1", "").await;
    for line in [
        "publication_query_requests_total{outcome=\"rate_limited\",status=\"4xx\"} 4",
        "publication_query_rate_limit_clients 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn without_trusted_proxies_nobody_is_believed() {
    let running = start(|settings| {
        settings.limits.max_refs = 1;
        settings.access.rate_limit = 1;
    })
    .await;
    assert_eq!(running.post(&[JSON, "x-forwarded-for: 192.0.2.1"], SEED).await.0, 200);
    assert_eq!(running.post(&[JSON, "x-forwarded-for: 192.0.2.2"], SEED).await.0, 429);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_ask() {
    const OURS: &str = "origin: https://a.example";
    let running =
        start(|settings| settings.access.cors_origins = vec!["https://a.example".into()]).await;
    let asks = "access-control-request-method: POST";
    let (status, answer) = options(&running, &format!("{OURS}\r\n{asks}")).await;
    assert_eq!(status, 200, "{answer}");
    for line in [
        "access-control-allow-origin: https://a.example",
        "access-control-allow-methods: GET,POST",
        "content-type",
        "vary: origin",
    ] {
        assert!(answer.contains(line), "{line} is not in\n{answer}");
    }
    let (_, answer) = options(&running, &format!("origin: https://b.example\r\n{asks}")).await;
    assert!(!answer.contains("access-control-allow-origin"), "{answer}");

    let cross = "sec-fetch-site: cross-site";
    let (status, answer) = running.post(&[JSON, OURS, cross], SEED).await;
    assert!(status == 200 && answer.contains("access-control-allow-origin: https://a.example"));
    assert!(answer.contains("vary: accept, accept-encoding\r\n"), "{answer}");
    let (status, answer) = running.post(&[JSON, "origin: https://b.example", cross], SEED).await;
    assert!(status == 403 && !answer.contains("access-control-allow-origin"), "{answer}");
    // A request that a page may send without a preflight is refused, whatever its origin.
    for simple in ["content-type: text/plain", "content-type: multipart/form-data", "x: y"] {
        assert_eq!(running.post(&[simple, OURS], SEED).await.0, 415, "{simple}");
    }
}

#[tokio::test]
async fn an_id_goes_with_the_request() {
    let running = start(|_| ()).await;
    let (_, answer) = running.post(&[JSON, NEW, "x-request-id: abc-1"], SEED).await;
    assert!(answer.contains("x-request-id: abc-1\r\n"), "{answer}");
    let (_, answer) = running.post(&["x-request-id: a b"], SEED).await;
    assert!(answer.contains("x-request-id: ") && !answer.contains("a b"), "{answer}");
}
