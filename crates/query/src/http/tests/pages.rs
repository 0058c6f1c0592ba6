//! The HTML pages, over HTTP.

use std::sync::atomic::Ordering;

use model::{
    Actor, Credential, Integrity, Publication, PublicationId, PublicationInfo, TfaReason,
    Timestamp, TorReason, Username,
};

use super::{Running, header, send, start, start_on};
use crate::testing::{pg, unknown};

/// The headers of a browser when a person types an address or follows a link.
const BROWSER: &str = "accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nsec-fetch-site: cross-site\r\n\
                       sec-fetch-mode: navigate\r\nsec-fetch-dest: document";
/// `printf %s secret | sha256sum`
const OWNER: &str = "ci 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// Fails unless the page has every part, in this order.
fn has(page: &str, parts: &[&str]) {
    let mut rest = page;
    for part in parts {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("{part} is not in\n{rest}")).1;
    }
}

fn publication(
    version: &str,
    created: &str,
    username: &str,
    change: impl FnOnce(&mut PublicationInfo),
) -> Publication {
    let mut info = PublicationInfo {
        created: Timestamp::parse(created).unwrap(),
        username: Some(Username::new(username).unwrap()),
        ..pg().info
    };
    change(&mut info);
    Publication { id: PublicationId::new("story", version).unwrap(), info, ..pg() }
}

/// One by a second factor, one by a trusted publisher, one by a token; one of them disputed and over Tor.
fn story() -> Vec<Publication> {
    vec![
        publication("1.13.0", "2022-01-10T09:00:00Z", "ana", |_| ()),
        publication("1.14.0", "2022-02-07T09:30:00Z", "robot", |info| {
            info.tfa = Some(false);
            info.tfa_reason = TfaReason::NoHumanFactor;
            info.credential = Credential::Oidc;
            info.actor = Actor::Workflow;
        }),
        publication("1.14.1", "2022-02-28T00:21:00Z", "ana", |info| {
            info.tfa = Some(false);
            info.tfa_reason = TfaReason::NoSecondFactor;
            info.credential = Credential::GranularToken;
            info.integrity = Some(Integrity::new("sha512-AAAA").unwrap());
        }),
        publication("1.14.2", "2022-03-01T00:00:00Z", "ben", |info| {
            info.tor = Some(true);
            info.tor_reason = TorReason::Edge;
            info.disputed = true;
            info.tor_settled = false;
        }),
    ]
}

#[tokio::test]
async fn a_package_tells_its_history_newest_first_with_reasons() {
    let running = start_on(story(), |_| ()).await;
    let (status, page) = running.get("/package/story", BROWSER).await;
    assert_eq!(status, 200);
    has(
        &page,
        &[
            "content-type: text/html; charset=utf-8",
            "<title>story · Publication insights</title>",
            "aria-label=\"Timeline of the publications in the table below, 4 in all. With a second factor: 2. \
             By a trusted publisher: 1. By a single factor: 1. Weaker than before: 1. New publisher: 2. Tor: 1. \
             Disputed: 1.\"",
            "<table",
            "<code>1.14.2</code>",
            "</svg> New publisher",
            "no earlier publication of this package by this account is known here.",
            "</svg> Tor</strong>: The registry's edge said that the publisher came over Tor.",
            "</svg> Disputed",
            "<code>1.14.1</code>",
            "datetime=\"2022-02-28T00:21:00.000Z\">2022-02-28 00:21<",
            "By a single factor",
            "</svg> Weaker than before</strong>: published by a single factor, while <code>1.14.0</code> \
             (2022-02-07) was published by a trusted publisher.",
            "The registry says that no second factor was presented.",
            "lists of that time do not have the address",
            "published this package before, last on 2022-01-10.",
            "<code>sha512-AAAA</code>",
            "<code>1.14.0</code>",
            "an automated workflow",
            "the credential is one for machines, or is exempt",
            "<code>1.13.0</code>",
            "The registry verified a second factor on this act.",
            "The same as JSON",
        ],
    );
    assert!(!page.contains("A later list can still change this."), "what is Tor stays so");
    assert!(!page.contains("Older publications"), "all of them are here");
    let json = page.split("\"/graphql?").nth(1).unwrap().split('"').next().unwrap();
    let (status, answer) =
        running.get(&format!("/graphql?{}", json.replace("&amp;", "&")), BROWSER).await;
    assert_eq!(status, 200, "{answer}");
    has(&answer, &["application/json", "\"version\":\"1.14.2\"", "\"weaker\":true"]);
    let graphiql = page.split("\"/graphiql?").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(graphiql, json);
}

#[tokio::test]
async fn what_is_not_known_is_never_told_as_no() {
    let running = start_on(vec![unknown("silent", "1.0.0", 1)], |_| ()).await;
    let (_, page) = running.get("/package/silent", BROWSER).await;
    has(
        &page,
        &[
            "By",
            "not known",
            "Not known how",
            "</svg> Disputed",
            "Whether there was a second factor is not known",
            "is not known: no list of that time covers it. A later list can still change this.",
            "With what the publisher authenticated is not known.",
        ],
    );
    let table = page.split("<table").nth(1).unwrap();
    for claim in ["No second factor", "Not a Tor exit", "New publisher", "Weaker"] {
        assert!(!table.contains(claim), "{claim}: {table}");
    }
}

#[tokio::test]
async fn names_are_escaped_everywhere_and_decoded_once() {
    let evil = "<script>alert(\"1\")</script>";
    let mut rows = vec![
        unknown(evil, "1.0.0\"><img src=x>", 1),
        unknown("100%25", "1", 2),
        unknown("@scope/x", "1", 3),
        unknown("turned", "1\u{202e}", 4),
    ];
    rows[3].info.username = Some(Username::new("\u{202e}nairb").unwrap());
    rows[0].info.username = Some(Username::new("</code><script>").unwrap());
    rows[0].info.integrity = Some(Integrity::new("sha512-'\"<b>").unwrap());
    let running = start_on(rows, |_| ()).await;
    let path = "/package/%3Cscript%3Ealert(%221%22)%3C%2Fscript%3E";
    let (status, page) = running.get(path, BROWSER).await;
    assert_eq!(status, 200);
    for tag in ["<script", "<img", "<b>"] {
        assert!(!page.contains(tag), "{page}");
    }
    has(
        &page,
        &["<title>&lt;script&gt;", "<h1><code class=\"name\">&lt;script&gt;", "&lt;img src=x&gt;"],
    );
    let (_, page) = running.get("/package/turned", BROWSER).await;
    assert!(!page.contains('\u{202e}'), "{page}");
    has(&page, &["<title>1\\u{202e}, ", "<code>1\\u{202e}</code>", "<code>\\u{202e}nairb</code>"]);
    assert_eq!(running.get("/package/100%2525", BROWSER).await.0, 200);
    assert_eq!(running.get("/package/100%25", BROWSER).await.0, 404, "decoded once");
    assert_eq!(running.get("/package/@scope/x", BROWSER).await.0, 200);
    assert_eq!(running.get("/package/%40scope%2Fx", BROWSER).await.0, 200);
    assert_eq!(running.get("/package/%ff", BROWSER).await.0, 400);
    let (status, page) = running.get("/?prefix=%3Cscript", BROWSER).await;
    assert!(status == 200 && !page.contains("<script"), "{page}");
    has(
        &page,
        &[
            "value=\"&lt;script\"",
            "href=\"/package/%3Cscript%3Ealert%28%221%22%29%3C%2Fscript%3E\"",
        ],
    );
    let (_, page) = running.get("/?prefix=%22%3E%3Cscript%3E", BROWSER).await;
    assert!(page.contains("There is none.") || page.contains("There is none"), "{page}");
    assert!(!page.contains("<script"), "{page}");
}

#[tokio::test]
async fn long_histories_and_searches_have_pages() {
    let rows = (0..120).map(|n| unknown("long", &format!("1.0.{n}"), n));
    let names = (0..30).map(|n| unknown(&format!("name-{n:02}"), "1", n));
    let running = start_on(rows.chain(names).collect(), |_| ()).await;
    let mut path = "/package/long".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, page) = running.get(&path, BROWSER).await;
        assert_eq!(status, 200, "{page}");
        let versions = page.split("rowheader").skip(1);
        let versions = versions.map(|part| part.split("<code>").nth(1).unwrap().split('<').next());
        seen.extend(versions.map(|version| version.unwrap().to_owned()));
        assert_eq!(page.contains("Newest publications"), path != "/package/long");
        let Some(next) = page.split("rel=\"next\" href=\"").nth(1) else { break };
        path = next.split('"').next().unwrap().to_owned();
    }
    let expected: Vec<String> = (0..120).rev().map(|n| format!("1.0.{n}")).collect();
    assert_eq!(seen, expected);
    let (status, page) = running.get("/package/long?after=x", BROWSER).await;
    assert!(status == 400 && page.contains("not a cursor of this service"), "{page}");
    let (_, page) = running.get("/?prefix=name-", BROWSER).await;
    has(&page, &["name-00", "name-19", "href=\"/?prefix=name-&amp;after=name-19\"", "More names"]);
    let (_, page) = running.get("/?prefix=name-&after=name-19", BROWSER).await;
    has(&page, &["name-20", "name-29"]);
    assert!(!page.contains("More names"), "{page}");
}

#[tokio::test]
async fn pages_are_cached_counted_and_kept_within_their_policy() {
    let running = start_on(story(), |settings| settings.access.rate_limit = 5_000).await;
    for path in ["/", "/?prefix=st", "/package/story"] {
        let (status, page) = running.get(path, BROWSER).await;
        assert_eq!(status, 200, "{page}");
        let tag = header(&page, "etag").unwrap();
        assert_eq!(header(&page, "cache-control"), Some("public, max-age=30"));
        assert_eq!(header(&page, "referrer-policy"), Some("no-referrer"));
        assert_eq!(header(&page, "x-content-type-options"), Some("nosniff"));
        assert!(header(&page, "ratelimit").is_some(), "{page}");
        let policy = header(&page, "content-security-policy").unwrap();
        has(policy, &["default-src 'none'; style-src 'sha256-", "form-action 'self'"]);
        assert!(!policy.contains("script"), "{policy}");
        let known = format!("{BROWSER}\r\nif-none-match: {tag}");
        assert_eq!(running.get(path, &known).await.0, 304);
    }
    let (status, packed) = running.get("/package/story", "accept-encoding: gzip").await;
    assert!(status == 200 && header(&packed, "content-encoding") == Some("gzip"), "{packed}");
    let (status, page) = running.get("/package/nobody", BROWSER).await;
    assert_eq!((status, header(&page, "cache-control")), (404, Some("no-store")));
    has(&page, &["content-security-policy", "Not found", "<form role=\"search\""]);
    running.memory.away.store(true, Ordering::Relaxed);
    let (status, page) = running.get("/package/story", BROWSER).await;
    assert_eq!((status, header(&page, "retry-after")), (503, Some("1")));
    has(&page, &["text/html", "Not available at the moment", "Try again in 1 s."]);
    let (_, metrics) = send(running.admin, "GET /metrics HTTP/1.1", "").await;
    for line in [
        "publication_query_requests_total{outcome=\"ok\",status=\"2xx\"} 4",
        "publication_query_requests_total{outcome=\"not_modified\",status=\"3xx\"} 3",
        "publication_query_requests_total{outcome=\"bad_request\",status=\"4xx\"} 1",
        "publication_query_requests_total{outcome=\"store_unavailable\",status=\"5xx\"} 1",
        // 20 for each search, 50 for each page of a package, whatever the outcome.
        "publication_query_keys_sum 290",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn tokens_limits_and_accounts_hold_for_pages() {
    let closed = start(|settings| settings.access.tokens = vec![OWNER.into()]).await;
    for path in ["/package/pg", "/?prefix=pg"] {
        let (status, page) = closed.get(path, BROWSER).await;
        assert_eq!(status, 401, "{page}");
        has(&page, &["text/html", "www-authenticate: Bearer", "A token is needed"]);
        let (status, page) = closed.get(path, "authorization: Bearer secret").await;
        assert_eq!(status, 200, "{page}");
        assert_eq!(header(&page, "cache-control"), Some("private, max-age=30"));
        assert_eq!(header(&page, "vary"), Some("accept, accept-encoding, authorization"));
    }
    assert_eq!(closed.get("/", BROWSER).await.0, 200, "it holds nothing");

    let poor = start_on(story(), |settings| {
        settings.limits.max_refs = 60;
        settings.access.rate_limit = 60;
    })
    .await;
    let left = async |running: &Running| {
        let (status, page) = running.get("/package/story", BROWSER).await;
        (
            status,
            header(&page, "ratelimit").and_then(|own| own.split(";t").next().map(String::from)),
        )
    };
    // 50 publications, and the four rows of the history.
    assert_eq!(left(&poor).await, (200, Some("\"publications\";r=6".into())));
    assert_eq!(left(&poor).await.0, 429);
    let few = start_on(story(), |settings| {
        settings.limits.max_history = 3;
        settings.limits.max_refs = 60;
        settings.access.rate_limit = 60;
    })
    .await;
    let (status, page) = few.get("/package/story", BROWSER).await;
    assert!(status == 400 && page.contains("limits.max_history"), "{page}");
    assert!(page.contains("the package has more than 3 publications"), "{page}");
    assert!(!page.contains("fewer packages"), "one package cannot be fewer: {page}");
    assert!(
        page.contains("ratelimit: \"publications\";r=7;"),
        "rows read in vain are charged: {page}"
    );
    let short =
        start_on(story(), |settings| settings.limits.max_answer = bytesize::ByteSize::kib(4));
    let (status, page) = short.await.get("/package/story", BROWSER).await;
    assert!(status == 400 && page.contains("limits.max_answer"), "{page}");
    let other = "accept: text/html\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors";
    assert_eq!(few.get("/package/story", other).await.0, 403, "as a picture of another site");
}

#[tokio::test]
async fn pages_answer_each_method_path_and_media_type_like_the_rest() {
    let running = start_on(story(), |_| ()).await;
    let html = "accept: text/html";
    for path in ["/", "/?prefix=st", "/package/story"] {
        let (status, whole) = running.get(path, "x: y").await;
        assert_eq!(status, 200, "without Accept: {whole}");
        let head = format!("HEAD {path} HTTP/1.1\r\nx: y");
        let (status, answer) = send(running.http, &head, "").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!((status, body), (200, ""));
        for name in ["etag", "content-length", "content-type", "cache-control"] {
            assert!(header(&whole, name).is_some(), "{name}: {whole}");
            assert_eq!(header(head, name), header(&whole, name), "{name}");
        }
        for accept in ["text/*", "*/*;q=0.1", "application/json, text/html;q=0.2"] {
            assert_eq!(running.get(path, &format!("accept: {accept}")).await.0, 200, "{accept}");
        }
        for accept in ["application/json", "image/*", "text/html;q=0, */*"] {
            let (status, answer) = running.get(path, &format!("accept: {accept}")).await;
            assert_eq!(status, 406, "{accept}");
            has(&answer, &["application/json", "accept text/html", "NOT_ACCEPTABLE"]);
        }
        let post = format!("POST {path} HTTP/1.1\r\n{html}");
        let (status, page) = send(running.http, &post, "").await;
        assert_eq!((status, header(&page, "allow")), (405, Some("GET,HEAD")));
        has(&page, &["text/html", "This request was refused", "METHOD_NOT_ALLOWED"]);
    }
    for path in ["/?prefix=%FF", "/package/story?after=%FF"] {
        let (status, page) = running.get(path, html).await;
        assert_eq!(status, 400, "{path}");
        has(&page, &["text/html", "cannot be decoded", "BAD_REQUEST"]);
    }
    let (status, page) = running.get("/nothing", html).await;
    assert_eq!(status, 404);
    has(&page, &["text/html", "content-security-policy", "<h1>Not found</h1>"]);
    let (status, answer) = running.get("/nothing", "accept: */*").await;
    assert_eq!(status, 404);
    has(&answer, &["application/json", "NOT_FOUND"]);
}

#[tokio::test]
async fn a_notice_stands_on_every_page_and_in_the_schema() {
    let notice = "made-up data <b>";
    let running = start(|settings| settings.http.notice = notice.into()).await;
    for path in ["/", "/?prefix=p", "/package/pg", "/graphiql"] {
        let (_, page) = running.get(path, BROWSER).await;
        has(&page, &["<p class=\"notice\" role=\"note\">made-up data &lt;b&gt;</p>"]);
    }
    let (_, schema) = running.get("/schema.graphql", "x: y").await;
    has(&schema, &["\"\"\"\nmade-up data <b>\n\nWhat a registry knows"]);
    let path = "/graphql?query=%7B__schema%7Bdescription%7D%7D";
    let (_, answer) = running.get(path, "x: y").await;
    has(&answer, &[r#"{"description":"made-up data <b>\n\nWhat"#]);
    let (_, page) = start(|_| ()).await.get("/", BROWSER).await;
    assert!(!page.contains("role=\"note\""), "{page}");
}
