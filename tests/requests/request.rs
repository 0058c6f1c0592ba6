//! Requests, each with what must come of it.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::document::{Document, Maker, literal};
use crate::expect::{Field, Page, Root, Selection};
use crate::http::Http;
use crate::random::Random;
use crate::settings::{ORIGIN, Settings, TOKEN};
use crate::{index, one_in, pick};

/// What must come of a request. `Rows` and `History` may be refused while the database is away.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    /// The document's answer.
    Rows(Document),
    /// The page of a package.
    History(Page),
    /// A refusal by one of these codes, with this status where it does not follow from the media type.
    Refusal {
        codes: &'static [&'static str],
        status: Option<u16>,
        limit: Option<(&'static str, usize)>,
    },
    /// The text of this hash, if it is kept.
    Kept(Document),
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) http: Http,
    pub(crate) want: Want,
    /// Whether `application/graphql-response+json` is what it prefers.
    pub(crate) newer: bool,
    /// Sends so many bytes, and the rest after a while.
    pub(crate) pause: Option<(usize, Duration)>,
}

const fn refused(code: &'static [&'static str], status: Option<u16>) -> Want {
    Want::Refusal { codes: code, status, limit: None }
}

pub(crate) fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The headers that any request may have.
fn headers(random: &mut Random, settings: &Settings) -> (Vec<(&'static str, String)>, bool) {
    let (accept, newer) = pick(
        random,
        &[
            (None, false),
            (Some("application/json"), false),
            (Some("*/*"), false),
            (Some("application/graphql-response+json"), true),
            (Some("application/graphql-response+json, application/json;q=0.9"), true),
            (Some("application/graphql-response+json;q=0.1, application/json"), false),
        ],
    );
    let mut headers: Vec<(&str, String)> =
        accept.map(|own| ("accept", own.to_owned())).into_iter().collect();
    if settings.tokens {
        headers.push(("authorization", format!("{} {TOKEN}", pick(random, &["Bearer", "bearer"]))));
    }
    if one_in(random, 2) {
        headers.push((
            "accept-encoding",
            pick(random, &["gzip", "br, gzip;q=0.5", "gzip;q=0", "*"]).to_owned(),
        ));
    }
    if settings.origins && one_in(random, 3) {
        headers.push(("origin", ORIGIN.to_owned()));
    }
    (headers, newer)
}

/// Asks by GET or POST, at once or slowly.
pub(crate) fn send(
    random: &mut Random,
    settings: &Settings,
    mut parameters: Map<String, Value>,
    want: Want,
) -> Request {
    let (mut headers, newer) = headers(random, settings);
    if parameters.get("variables") == Some(&json!({})) && one_in(random, 2) {
        parameters.remove("variables");
    }
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| {
            format!(
                "{name}={}",
                percent(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str())
            )
        })
        .collect();
    let query = pairs.join("&");
    let http = if query.len() < 12_000 && one_in(random, 2) {
        Http { method: "GET", path: format!("/graphql?{query}"), headers, ..Http::default() }
    } else {
        let content = pick(random, &["application/json", "application/json; charset=utf-8"]);
        headers.push(("content-type", content.to_owned()));
        let body = Value::Object(parameters).to_string().into_bytes();
        Http {
            method: "POST",
            path: "/graphql".to_owned(),
            headers,
            body,
            chunked: one_in(random, 4),
        }
    };
    let pause = one_in(random, 12).then(|| (index(random, 400), random.millis(700)));
    Request { http, want, newer, pause }
}

fn parameters(document: &Document) -> Map<String, Value> {
    let text = json!({"query": document.text, "variables": document.variables});
    text.as_object().cloned().unwrap_or_default()
}

/// A valid document, whole or by its hash.
pub(crate) fn valid(maker: &mut Maker<'_>) -> Request {
    let mut document = maker.document();
    while document.text.len() > 4_000 || document.text.matches("fragment F").count() > 40 {
        document = maker.document();
    }
    let (random, settings) = (&mut *maker.random, maker.settings);
    let mut given = parameters(&document);
    if document.text.starts_with("query Q") && one_in(random, 2) {
        given.insert("operationName".to_owned(), json!("Q"));
    }
    let hash: String =
        Sha256::digest(&document.text).iter().map(|byte| format!("{byte:02x}")).collect();
    if one_in(random, 5) {
        given.insert(
            "extensions".to_owned(),
            json!({"persistedQuery": {"version": 1, "sha256Hash": hash}}),
        );
        if one_in(random, 2) {
            given.remove("query");
            return send(random, settings, given, Want::Kept(document));
        }
    }
    send(random, settings, given, Want::Rows(document))
}

/// The page of a package that may be there.
pub(crate) fn page(maker: &mut Maker<'_>) -> Request {
    let mut name = maker.row().name.clone();
    if one_in(maker.random, 6) {
        name.push('x');
    }
    let mut page = Page { first: 50, ..Page::default() };
    page.filter.name = Some(name.clone());
    let (mut headers, _) = headers(maker.random, maker.settings);
    headers.retain(|(name, _)| *name != "accept");
    headers.push((
        "accept",
        pick(maker.random, &["text/html", "text/html,*/*;q=0.8", "*/*"]).to_owned(),
    ));
    let path =
        if one_in(maker.random, 2) { percent(&name).replace("%2F", "/") } else { percent(&name) };
    let http = Http { method: "GET", path: format!("/package/{path}"), headers, ..Http::default() };
    Request { http, want: Want::History(page), newer: true, pause: None }
}

/// A selection of nothing but `__typename`, under this key.
fn one(key: &str) -> Selection {
    Selection::from([(
        key.to_owned(),
        Field { name: "__typename".to_owned(), of: Selection::new() },
    )])
}

/// A request at a limit, which is answered, or one over it, which is not.
pub(crate) fn limit(maker: &mut Maker<'_>) -> Request {
    let over = one_in(maker.random, 2);
    let more = usize::from(over);
    let settings = maker.settings.clone();
    let (mut document, mut extra) = (Document::default(), 0);
    let typename = |key: &str| (key.to_owned(), Root::Typename, Selection::new());
    let mut roots = vec![typename("__typename")];
    let (limit, maximum) = match maker.random.below(9) {
        0 => {
            let row = maker.row();
            let id = (row.name.clone(), row.version.clone());
            let refs = vec![json!({"name": id.0, "version": id.1}); settings.max_refs + more - 1];
            document.variables.insert("refs".to_owned(), json!(refs));
            let (name, version) = (literal(&json!(id.0)), literal(&json!(id.1)));
            document.text = format!(
                "query($refs: [PackageRef!]!) {{ a: packages(refs: $refs) {{ __typename }} b: package(name: {name}, version: {version}) {{ __typename }} }}"
            );
            let of = one("__typename");
            roots = vec![
                ("a".to_owned(), Root::Packages(vec![Some(id.clone()); refs.len()]), of.clone()),
                ("b".to_owned(), Root::Package(Some(id)), of),
            ];
            ("limits.max_refs", settings.max_refs)
        }
        1 => {
            let search = one_in(maker.random, 2);
            roots.clear();
            let parts = (0..settings.max_pages + more).map(|number| {
                let key = format!("k{number}");
                let text = if search {
                    format!("{key}: search(prefix: \"p\", first: 1)")
                } else {
                    format!("{key}: publications(first: 1) {{ __typename }}")
                };
                let root = if search {
                    Root::Search { prefix: "p".to_owned(), first: 1, after: None }
                } else {
                    Root::Publications(Page { first: 1, ..Page::default() })
                };
                roots.push((key, root, one("__typename")));
                text
            });
            let parts: Vec<String> = parts.collect();
            document.text = format!("{{ {} }}", parts.join(" "));
            ("limits.max_pages", settings.max_pages)
        }
        2 => {
            let depth = settings.max_depth + more;
            document.text =
                format!("{}__typename{}", "{ ...".repeat(depth - 1) + "{ ", " }".repeat(depth));
            ("limits.max_depth", settings.max_depth)
        }
        3 => {
            // Brace, name, brace, and a comma for each of the rest but the end of the text, which is one as well.
            document.text = format!("{{__typename{}}}", ",".repeat(settings.max_tokens - 4 + more));
            ("limits.max_tokens", settings.max_tokens)
        }
        4 => {
            let count = settings.max_definitions - 1 + more;
            let spreads: String = (0..count).map(|number| format!(" ...G{number}")).collect();
            let fragments: String = (0..count)
                .map(|number| format!(" fragment G{number} on Query {{ __typename }}"))
                .collect();
            document.text = format!("{{ {spreads} }}{fragments}");
            ("limits.max_definitions", settings.max_definitions)
        }
        5 => {
            // Each spread counts ten with what is in it.
            let (spreads, alone) =
                ((settings.max_selections + more) / 10, (settings.max_selections + more) % 10);
            document.text = format!(
                "{{ {} {} }} fragment G on Query {{ {} }}",
                "...G ".repeat(spreads),
                "__typename ".repeat(alone),
                "__typename ".repeat(9),
            );
            ("limits.max_selections", settings.max_selections)
        }
        6 => {
            document.text = "{ __typename }#".to_owned();
            let rest = settings.max_document - document.text.len() + more;
            document.text.push_str(&"é".repeat(rest / 2));
            document.text.push_str(&"x".repeat(rest % 2));
            ("limits.max_document", settings.max_document)
        }
        7 => {
            document.text = "{ __typename }".to_owned();
            extra = settings.max_body + more;
            ("limits.max_body", settings.max_body)
        }
        _ => {
            // Keys are as long as it takes.
            let (row, count, target) = (&maker.table.all[0], 190, settings.max_answer + more);
            let key = "k".repeat((target - 200) / count - 15);
            let item = format!("{{\"{key}\":\"Package\"}}");
            let short =
                format!("{{\"data\":{{\"a\":[{}],\"\":\"Query\"}}}}", vec![item; count].join(","))
                    .len();
            let pad = "p".repeat(target - short);
            document.text = format!(
                "query($refs: [PackageRef!]!) {{ a: packages(refs: $refs) {{ {key}: __typename }} {pad}: __typename }}"
            );
            let refs = vec![json!({"name": row.name, "version": row.version}); count];
            document.variables.insert("refs".to_owned(), json!(refs));
            let ids = vec![Some((row.name.clone(), row.version.clone())); count];
            roots = vec![("a".to_owned(), Root::Packages(ids), one(&key)), typename(&pad)];
            ("limits.max_answer", settings.max_answer)
        }
    };
    document.roots = roots;
    let want = if over {
        let status = (limit == "limits.max_body").then_some(413);
        Want::Refusal { codes: &["LIMIT_EXCEEDED"], status, limit: Some((limit, maximum)) }
    } else {
        Want::Rows(document.clone())
    };
    let mut request = send(maker.random, &settings, parameters(&document), want);
    if extra > 0 {
        let (mut headers, newer) = headers(maker.random, &settings);
        headers.push(("content-type", "application/json".to_owned()));
        let mut body = Value::Object(parameters(&document)).to_string().into_bytes();
        body.resize(extra, b' ');
        let chunked = one_in(maker.random, 2);
        request.http = Http { method: "POST", path: "/graphql".to_owned(), headers, body, chunked };
        request.newer = newer;
        request.pause = None;
    }
    request
}

/// A request that is wrong in itself.
pub(crate) fn wrong(random: &mut Random, settings: &Settings) -> Request {
    let text = |query: &str, variables: Value| {
        json!({"query": query, "variables": variables}).as_object().cloned().unwrap_or_default()
    };
    let graphql: [(&str, Value, &'static [&'static str]); 12] = [
        ("{ package(", json!({}), &["GRAPHQL_PARSE_FAILED"]),
        ("{ nothing }", json!({}), &["GRAPHQL_VALIDATION_FAILED"]),
        ("{ publications(first: 1) { edges } }", json!({}), &["GRAPHQL_VALIDATION_FAILED"]),
        (
            "query($a: Int!) { publications(first: $a) { __typename } }",
            json!({"a": "1"}),
            &["BAD_USER_INPUT"],
        ),
        (
            "query($a: Int!) { publications(first: $a) { __typename } }",
            json!({}),
            &["BAD_USER_INPUT"],
        ),
        ("{ publications(first: 0) { __typename } }", json!({}), &["BAD_USER_INPUT"]),
        ("{ publications(first: 101) { __typename } }", json!({}), &["BAD_USER_INPUT"]),
        ("{ publications(first: 1, after: \"x\") { __typename } }", json!({}), &["BAD_USER_INPUT"]),
        (
            "{ publications(first: 1, filter: {createdAfter: \"2020\"}) { __typename } }",
            json!({}),
            &["BAD_USER_INPUT"],
        ),
        ("{ search(prefix: \"\", first: 1) }", json!({}), &["BAD_USER_INPUT"]),
        (
            "query($p: String!) { search(prefix: $p, first: 1) }",
            json!({"p": "x".repeat(513)}),
            &["BAD_USER_INPUT"],
        ),
        (
            "query A { __typename } query B { __typename }",
            json!({}),
            &["OPERATION_RESOLUTION_FAILURE"],
        ),
    ];
    let kind = index(random, graphql.len() + 14);
    if let Some((query, variables, codes)) = graphql.get(kind) {
        return send(random, settings, text(query, variables.clone()), refused(codes, None));
    }
    let mut given = text("{ __typename }", json!({}));
    let mut request = send(random, settings, given.clone(), refused(&["BAD_REQUEST"], Some(400)));
    let post = |mut request: Request, content: &str, body: &[u8]| {
        request.http.headers.retain(|(name, _)| *name != "content-type");
        request.http.headers.push(("content-type", content.to_owned()));
        request.http = Http {
            method: "POST",
            path: "/graphql".to_owned(),
            body: body.to_vec(),
            ..request.http
        };
        request.pause = None;
        request
    };
    let body = Value::Object(given.clone()).to_string().into_bytes();
    match kind - graphql.len() {
        0 => return post(request, "application/json", b"[{\"query\":\"{__typename}\"}]"),
        1 => return post(request, "application/json", &body[..body.len() - 1]),
        2 => return post(request, "application/json", b"{\"variables\":{}}"),
        3 => {
            request = post(
                request,
                pick(random, &["text/plain", "application/json; charset=latin1"]),
                &body,
            )
        }
        4 => {
            request = post(request, "application/json", &gzip(&body));
            request.http.headers.push(("content-encoding", "gzip".to_owned()));
        }
        5 => {
            request.http.headers.retain(|(name, _)| *name != "accept");
            request.http.headers.push(("accept", "text/css".to_owned()));
            request.want = refused(&["NOT_ACCEPTABLE"], Some(406));
            return request;
        }
        6 => {
            request.http.method = "DELETE";
            request.http.chunked = false;
            request.want = refused(&["METHOD_NOT_ALLOWED"], Some(405));
            return request;
        }
        7 => {
            request.http = Http { method: "GET", path: "/nothing".to_owned(), ..Http::default() };
            request.want = refused(&["NOT_FOUND"], Some(404));
            return request;
        }
        8 => {
            let hash = "0".repeat(64);
            given.insert(
                "extensions".to_owned(),
                json!({"persistedQuery": {"version": 1, "sha256Hash": hash}}),
            );
            return send(
                random,
                settings,
                given,
                refused(&["PERSISTED_QUERY_HASH_MISMATCH"], Some(400)),
            );
        }
        9 => {
            request.http.headers.retain(|(name, _)| *name != "origin");
            request.http.headers.push(("origin", "https://evil.example".to_owned()));
            request.want = refused(&["CROSS_SITE_REFUSED"], Some(403));
            return request;
        }
        10 if settings.tokens => {
            request.http.headers.retain(|(name, _)| *name != "authorization");
            if one_in(random, 2) {
                request.http.headers.push(("authorization", format!("Bearer {}", &TOKEN[1..])));
            }
            request.want = refused(&["UNAUTHENTICATED"], Some(401));
            return request;
        }
        11 => {
            request.http.headers.push(("x-long", "x".repeat(17_000)));
            request.want = refused(&["HEAD_TOO_LARGE"], Some(431));
            request.pause = None;
            return request;
        }
        12 => {
            let path = format!("/graphql?query={}", "x".repeat(17_000));
            request.http =
                Http { method: "GET", path, headers: request.http.headers, ..Http::default() };
            request.want = refused(&["URI_TOO_LONG", "HEAD_TOO_LARGE"], None);
            request.pause = None;
            return request;
        }
        _ => {
            let query = "/graphql?query=mutation%20%7B%20a%20%7D".to_owned();
            request.http = Http {
                method: "GET",
                path: query,
                headers: request.http.headers,
                ..Http::default()
            };
            request.want = refused(&["METHOD_NOT_ALLOWED"], Some(405));
            return request;
        }
    }
    request.want = refused(&["UNSUPPORTED_MEDIA_TYPE"], Some(415));
    request
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}
