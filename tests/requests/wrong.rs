//! Invalid requests: each is refused for its error, whatever the state of the database.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::http::Http;
use crate::random::Random;
use crate::request::{Request, Want, headers, send};
use crate::settings::{Settings, TOKEN};
use crate::{index, one_in, pick};

/// Documents and variables with their error codes.
const DOCUMENTS: [(&str, &str, &[&str]); 13] = [
    ("{ package(", "{}", &["GRAPHQL_PARSE_FAILED"]),
    ("{ nothing }", "{}", &["GRAPHQL_VALIDATION_FAILED"]),
    ("{ publications(first: 1) { edges } }", "{}", &["GRAPHQL_VALIDATION_FAILED"]),
    ("query($a: String) { __typename }", "{}", &["GRAPHQL_VALIDATION_FAILED"]),
    (FIRST, r#"{"a": "1"}"#, &["BAD_USER_INPUT"]),
    (FIRST, "{}", &["BAD_USER_INPUT"]),
    (FIRST, r#"{"a": 0}"#, &["BAD_USER_INPUT"]),
    (FIRST, r#"{"a": 101}"#, &["BAD_USER_INPUT"]),
    ("{ publications(first: 1, after: \"x\") { __typename } }", "{}", &["BAD_USER_INPUT"]),
    (
        "{ publications(first: 1, filter: {createdAfter: \"2020\"}) { __typename } }",
        "{}",
        &["BAD_USER_INPUT"],
    ),
    ("{ search(prefix: \"\", first: 1) }", "{}", &["BAD_USER_INPUT"]),
    ("{ __typename search(prefix: \"x\", first: -1) }", "{}", &["BAD_USER_INPUT"]),
    ("query A { __typename } query B { __typename }", "{}", &["OPERATION_RESOLUTION_FAILURE"]),
];
const FIRST: &str = "query($a: Int!) { publications(first: $a) { __typename } }";
/// Content types and bodies with their error codes and statuses.
const BODIES: [(&str, &[u8], &[&str], u16); 6] = [
    ("application/json", b"[{\"query\":\"{__typename}\"}]", &["BAD_REQUEST"], 400),
    ("application/json", b"{\"query\":\"{__typename}\"", &["BAD_REQUEST"], 400),
    ("application/json", b"{\"query\":\"\xff\"}", &["BAD_REQUEST"], 400),
    ("application/json", b"{\"variables\":{}}", &["BAD_REQUEST"], 400),
    ("text/plain", PLAIN, &["UNSUPPORTED_MEDIA_TYPE"], 415),
    ("application/json; charset=latin1", PLAIN, &["UNSUPPORTED_MEDIA_TYPE"], 415),
];
const PLAIN: &[u8] = b"{\"query\":\"{__typename}\"}";

fn refused(codes: &'static [&'static str], status: Option<u16>) -> Want {
    Want::Refusal { codes, status, limit: None }
}

fn get(path: String) -> Http {
    Http { method: "GET", path, ..Http::default() }
}

fn post(content: &str, body: &[u8]) -> Http {
    let headers = vec![("content-type", content.to_owned())];
    Http { method: "POST", path: "/graphql".to_owned(), headers, body: body.into(), chunked: false }
}

/// A random invalid request.
pub(crate) fn wrong(random: &mut Random, settings: &Settings) -> Request {
    match random.below(3) {
        0 => {
            let (query, variables, codes) = pick(random, &DOCUMENTS);
            let mut given = Map::from_iter([("query".to_owned(), json!(query))]);
            given.insert(
                "variables".to_owned(),
                serde_json::from_str(variables).unwrap_or(Value::Null),
            );
            send(random, settings, given, refused(codes, None))
        }
        1 => {
            let (content, body, codes, status) = pick(random, &BODIES);
            with_headers(random, settings, post(content, body), codes, Some(status))
        }
        _ => by_http(random, settings),
    }
}

/// The request with additional random headers, except those that it already has.
fn with_headers(
    random: &mut Random,
    settings: &Settings,
    mut http: Http,
    codes: &'static [&'static str],
    status: Option<u16>,
) -> Request {
    let (more, newer) = headers(random, settings);
    for (name, value) in more {
        if http.headers.iter().all(|(own, _)| *own != name) {
            http.headers.push((name, value));
        }
    }
    http.headers.retain(|(_, value)| !value.is_empty());
    Request { http, want: refused(codes, status), newer, pause: None }
}

/// A request that is refused because of its head.
fn by_http(random: &mut Random, settings: &Settings) -> Request {
    let mut http = post("application/json", PLAIN);
    let mut header = |name, value: &str| http.headers.push((name, value.to_owned()));
    let (codes, status): (&[&str], u16) = match index(random, 9) {
        0 => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(PLAIN).expect("memory takes it");
            header("content-encoding", "gzip");
            http.body = encoder.finish().expect("memory takes it");
            (&["UNSUPPORTED_MEDIA_TYPE"], 415)
        }
        1 => {
            header("accept", "text/css");
            (&["NOT_ACCEPTABLE"], 406)
        }
        2 => {
            http.method = "DELETE";
            http.body.clear();
            (&["METHOD_NOT_ALLOWED"], 405)
        }
        3 => {
            http = get("/nothing".to_owned());
            (&["NOT_FOUND"], 404)
        }
        4 => {
            let hash = "0".repeat(64);
            let persisted = json!({"persistedQuery": {"version": 1, "sha256Hash": hash}});
            http.body =
                json!({"query": "{ __typename }", "extensions": persisted}).to_string().into();
            (&["PERSISTED_QUERY_HASH_MISMATCH"], 400)
        }
        5 => {
            header("origin", "https://evil.example");
            (&["CROSS_SITE_REFUSED"], 403)
        }
        6 if settings.tokens => {
            // An empty value removes the header.
            let other = format!("Bearer {}", &TOKEN[1..]);
            header("authorization", if one_in(random, 2) { "" } else { &other });
            (&["UNAUTHENTICATED"], 401)
        }
        7 => {
            let long = "x".repeat(17_000);
            if one_in(random, 2) {
                http = get(format!("/graphql?query={long}"));
                let request = with_headers(random, settings, http, &["HEAD_TOO_LARGE"], None);
                return request;
            }
            header("x-long", &long);
            (&["HEAD_TOO_LARGE"], 431)
        }
        _ => {
            http = get("/graphql?query=mutation%20%7B%20a%20%7D".to_owned());
            (&["METHOD_NOT_ALLOWED"], 405)
        }
    };
    with_headers(random, settings, http, codes, Some(status))
}
