//! Requests, each with its expected result.

use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::document::{Document, Maker};
use crate::expect::Page;
use crate::http::Http;
use crate::random::Random;
use crate::settings::{ORIGIN, Settings, TOKEN};
use crate::{index, one_in, pick};

/// The expected result of a request. `Rows` and `History` may be refused while the database is unreachable.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    /// The document's answer.
    Rows(Document),
    /// The page of a package.
    History(Page),
    /// A refusal with one of these codes; `status` is given when it does not follow from the media type.
    Refusal {
        codes: &'static [&'static str],
        status: Option<u16>,
        limit: Option<(&'static str, usize)>,
    },
    /// The answer for the text with this hash, if it is cached.
    Kept(Document),
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) http: Http,
    pub(crate) want: Want,
    /// Whether the client prefers `application/graphql-response+json`.
    pub(crate) newer: bool,
    /// Sends this many bytes, then pauses, then sends the rest.
    pub(crate) pause: Option<(usize, Duration)>,
}

pub(crate) fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Random headers that any request may have, and whether `newer` applies.
pub(crate) fn headers(
    random: &mut Random,
    settings: &Settings,
) -> (Vec<(&'static str, String)>, bool) {
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

/// Builds a GET or POST request, sent at once or slowly.
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

pub(crate) fn parameters(document: &Document) -> Map<String, Value> {
    let text = json!({"query": document.text, "variables": document.variables});
    text.as_object().cloned().unwrap_or_default()
}

/// A request with a valid document, as text or by its hash.
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

/// A request for the page of a package that may exist.
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
    let mut query = String::new();
    let known = maker.cursors.lock().expect("no panic");
    let mut of_it: Vec<_> = known.iter().filter(|((_, own, _), _)| *own == name).collect();
    of_it.sort();
    if !of_it.is_empty() && one_in(maker.random, 2) {
        let (key, cursor) = of_it[index(maker.random, of_it.len())];
        page.after = Some(key.clone());
        query = format!("?after={cursor}");
    }
    drop(known);
    let http =
        Http { method: "GET", path: format!("/package/{path}{query}"), headers, ..Http::default() };
    Request { http, want: Want::History(page), newer: true, pause: None }
}
