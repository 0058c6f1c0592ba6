//! Who asks what, and how: the head of a request, and its parameters from the body or the URL.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use service::connection::Peer;
use tokio::time::Instant;

use super::App;
use super::context::{Context, Media, rate_headers};
use super::persisted::{self, Hash};
use super::response::Refusal;
use crate::admission::Place;
use crate::error::{Code, Exceeded, QueryError};

/// Stands for a peer that nobody told; there is none behind the listener.
const UNKNOWN_PEER: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
impl FromRequestParts<Arc<App>> for Context {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let media = negotiate(&head.headers).ok_or_else(|| {
            let message = "accept application/graphql-response+json or application/json";
            Refusal::new(QueryError::new(Code::NotAcceptable, message))
        })?;
        Self::admitted(head, app, media)
    }
}

impl Context {
    /// Of a request that asks for publications.
    pub(super) fn admitted(head: &Parts, app: &App, media: Media) -> Result<Self, Refusal> {
        let mut context = Self::of(head, app, media)?;
        // Before anything is read, so that a client whose account is empty costs next to nothing; also before its token
        // is looked at, so that nobody tries out many.
        let owner = app.access.is_closed.then(|| app.access.owner(&head.headers));
        if let Some(Ok(owner)) = owner {
            context.client = owner;
        }
        context.charge(app)?;
        if let Some(Err(why)) = owner {
            let error = QueryError::new(Code::Unauthenticated, why.message());
            let challenge = HeaderValue::from_static(why.challenge());
            return Err(Refusal::new(error)
                .written_as(media)
                .with(header::WWW_AUTHENTICATE, challenge));
        }
        Ok(context)
    }

    /// Of a request that asks for nothing that a token is needed for; it counts for its address.
    pub(super) fn open(head: &Parts, app: &App, media: Media) -> Result<Self, Refusal> {
        let context = Self::of(head, app, media)?;
        context.charge(app)?;
        Ok(context)
    }

    fn of(head: &Parts, app: &App, media: Media) -> Result<Self, Refusal> {
        let headers = &head.headers;
        if media == Media::Html && html_wanted(headers).quality == 0 {
            let message = "accept text/html; the answer in JSON is at /graphql";
            return Err(Refusal::new(QueryError::new(Code::NotAcceptable, message)));
        }
        if app.access.origins.refuses(&head.method, headers) {
            let message = "requests from pages of other sites are refused (access.cors_origins)";
            let refusal = Refusal::new(QueryError::new(Code::CrossSite, message));
            return Err(refusal.written_as(media));
        }
        let peer = head.extensions.get::<Peer>().cloned();
        let address = peer.as_ref().map_or(UNKNOWN_PEER, Peer::address);
        Ok(Self {
            media,
            client: app.access.address(headers, address),
            peer,
            is_get: head.method != Method::POST,
            takes_gzip: takes_gzip(headers),
            until: Instant::now() + app.settings.http.request_timeout,
            has: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
        })
    }

    /// Takes the one publication that every request costs.
    fn charge(&self, app: &App) -> Result<(), Refusal> {
        app.access.charge(self.client, 1).map_err(|error| {
            let told = rate_headers(app, self.client);
            Refusal::new(error).written_as(self.media).with_all(told)
        })
    }
}

/// How much a media type is wanted: by the most specific range that has it, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    specificity: u8,
    quality: u16,
}

/// The media type that `Accept` wants most (RFC 9110, section 12.5.1); `None` when it wants neither. Without the header,
/// and where only a wildcard fits, it is JSON, which everybody reads.
fn negotiate(headers: &HeaderMap) -> Option<Media> {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Some(Media::Json);
    }
    let (mut json, mut graphql) = (Wanted::default(), Wanted::default());
    // What is not visible ASCII is not a media range.
    for range in values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')) {
        let (name, quality) = weighted(range);
        match name.as_str() {
            "application/json" => json = json.max(Wanted { specificity: 3, quality }),
            "application/graphql-response+json" => {
                graphql = graphql.max(Wanted { specificity: 3, quality });
            }
            "application/*" | "*/*" => {
                let specificity = if name == "*/*" { 1 } else { 2 };
                json = json.max(Wanted { specificity, quality });
                graphql = graphql.max(Wanted { specificity, quality });
            }
            _ => {}
        }
    }
    if json.quality == 0 && graphql.quality == 0 {
        return None;
    }
    // At the same quality the one that was named is meant, and the newer one where both were.
    let is_named = graphql.specificity == 3;
    let is_newer = graphql.quality > json.quality || graphql.quality == json.quality && is_named;
    Some(if is_newer { Media::GraphqlResponse } else { Media::Json })
}

/// How much `Accept` wants a page. Without the header it is wanted, as anything is.
fn html_wanted(headers: &HeaderMap) -> Wanted {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Wanted { specificity: 1, quality: 1_000 };
    }
    let ranges = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let wanted = ranges.map(weighted).filter_map(|(name, quality)| {
        let specificity = match name.as_str() {
            "text/html" => 3,
            "text/*" => 2,
            "*/*" => 1,
            _ => return None,
        };
        Some(Wanted { specificity, quality })
    });
    wanted.max().unwrap_or_default()
}

/// In what a refusal is written where no route has decided it: a page for those who name one, which is to say browsers.
pub(super) fn media_of_refusal(headers: &HeaderMap) -> Media {
    match html_wanted(headers) {
        Wanted { specificity: 3, quality: 1.. } => Media::Html,
        _ => Media::Json,
    }
}

/// An element of `Accept` or `Accept-Encoding` in lower case, and its quality in thousandths. What is not a quality
/// counts as not wanted.
fn weighted(element: &str) -> (String, u16) {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>())
    });
    match quality {
        None => (name, 1_000),
        #[expect(clippy::cast_possible_truncation, reason = "0 to 1000 by the arm's condition")]
        #[expect(clippy::cast_sign_loss, reason = "0 to 1000 by the arm's condition")]
        Some(Ok(value)) if (0.0..=1.0).contains(&value) => (name, (value * 1_000.0).round() as u16),
        Some(_) => (name, 0),
    }
}

/// Whether the client takes gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let elements = values.filter_map(|value| value.to_str().ok()).flat_map(|own| own.split(','));
    let wanted = elements.map(weighted).filter_map(|(name, quality)| match name.as_str() {
        "gzip" | "x-gzip" => Some(Wanted { specificity: 2, quality }),
        "*" => Some(Wanted { specificity: 1, quality }),
        _ => None,
    });
    wanted.max().is_some_and(|wanted| wanted.quality > 0)
}

/// Refuses a body that is not JSON in UTF-8 by its head. Content types that a page of another site may send without
/// asking (`text/plain`, forms, none at all) are among them.
fn check_content(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |message| Refusal::new(QueryError::new(Code::UnsupportedMediaType, message));
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    if text(header::CONTENT_ENCODING).is_some_and(|own| !own.eq_ignore_ascii_case("identity")) {
        let identity = HeaderValue::from_static("identity");
        let refusal = refused("compressed bodies are not taken; send it without Content-Encoding");
        return Err(refusal.with(header::ACCEPT_ENCODING, identity));
    }
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/json"));
    let is_other_charset = |part: &str| {
        part.split_once('=').is_some_and(|(key, value)| {
            let value = value.trim().trim_matches('"').to_ascii_lowercase();
            key.trim().eq_ignore_ascii_case("charset") && value != "utf-8" && value != "utf8"
        })
    };
    if is_json && !parts.any(is_other_charset) {
        return Ok(());
    }
    Err(refused("the content type must be application/json in UTF-8"))
}

/// Reads the body of a POST request within its limit. The place holds its bytes.
pub(super) async fn body(
    app: &App,
    context: &Context,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<(Vec<u8>, Place), Refusal> {
    check_content(headers)?;
    let maximum = app.settings.limits.max_body.as_u64();
    let too_long = || {
        let message = format!("the body has more than {maximum} bytes (limits.max_body)");
        let exceeded = Exceeded { limit: "limits.max_body", maximum, actual: None };
        Refusal::new(QueryError::limit(exceeded, message)).status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|own| own.to_str().ok());
    if announced.and_then(|own| own.parse::<u64>().ok()).is_some_and(|own| own > maximum) {
        return Err(too_long());
    }
    let mut place = app.admission.body(context.client);
    let mut read = Vec::new();
    let late = || {
        let message = "the body did not come in time (http.request_timeout)";
        Refusal::new(QueryError::new(Code::Timeout, message)).status(StatusCode::REQUEST_TIMEOUT)
    };
    loop {
        let frame = tokio::select! {
            biased;
            () = place.is_evicted() => return Err(Refusal::busy()),
            frame = tokio::time::timeout_at(context.until, body.frame()) => frame,
        };
        let Some(frame) = frame.map_err(|_| late())? else { return Ok((read, place)) };
        let frame = frame.map_err(|_| {
            Refusal::new(QueryError::new(Code::BadRequest, "the body cannot be read"))
        })?;
        // Trailers are passed over, for they say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if read.len() as u64 + data.len() as u64 > maximum {
            return Err(too_long());
        }
        let grown = tokio::time::timeout_at(context.until, place.grow(data.len() as u64));
        if !matches!(grown.await, Ok(Ok(()))) {
            return Err(Refusal::busy());
        }
        read.extend_from_slice(&data);
    }
}

/// What a client asks.
#[derive(Debug, Default)]
pub(super) struct Parameters<'a> {
    pub(super) query: String,
    pub(super) operation_name: Option<String>,
    pub(super) variables: Option<&'a RawValue>,
    /// The SHA-256 of the text, where the client sends it (automatic persisted queries); the text may then be missing.
    pub(super) persisted: Option<Hash>,
}

/// The body of a request. Unknown parameters are ignored, as the specification says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Fields<'a> {
    query: Option<String>,
    operation_name: Option<String>,
    #[serde(borrow)]
    variables: Option<&'a RawValue>,
    #[serde(borrow)]
    extensions: Option<&'a RawValue>,
}

fn bad(message: impl Into<String>) -> QueryError {
    QueryError::new(Code::BadRequest, message)
}

impl<'a> Parameters<'a> {
    /// From a body (GraphQL over HTTP, "JSON Encoding").
    pub(super) fn from_body(body: &'a [u8]) -> Result<Self, QueryError> {
        // A byte order mark is taken, though RFC 8259 tells nobody to send one.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        // Told apart before it is read: it may be long.
        match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') | None => {}
            Some(b'[') => {
                return Err(bad(
                    "a batch of operations (a JSON array) is not taken: ask for many publications in one operation, with a list in `packages(refs:)`, and turn batching off in the client (Apollo Client: HttpLink in the place of BatchHttpLink; Apollo Kotlin: httpBatching(false); Relay: no batchMiddleware)",
                ));
            }
            Some(_) => return Err(bad("the body must be a JSON object")),
        }
        let fields: Fields<'_> = serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            bad(if error.is_data() {
                "parameters `query` and `operationName` must be strings, and each be given once"
                    .to_owned()
            } else {
                format!("the body is not JSON at line {line}, column {column}")
            })
        })?;
        fields.checked()
    }

    /// From the query part of a URL, whose pairs these are.
    pub(super) fn from_pairs(pairs: &'a [(String, String)]) -> Result<Self, QueryError> {
        let mut fields = Fields::default();
        let json = |name: &str, text: &'a str| {
            serde_json::from_str(text).map_err(|_| bad(format!("parameter `{name}` is not JSON")))
        };
        for (name, value) in pairs {
            match name.as_str() {
                "query" => fields.query = Some(value.clone()),
                "operationName" => fields.operation_name = Some(value.clone()),
                "variables" if !value.is_empty() => fields.variables = Some(json(name, value)?),
                "extensions" if !value.is_empty() => fields.extensions = Some(json(name, value)?),
                _ => {}
            }
        }
        fields.checked()
    }
}

/// The pairs of a URL's query part.
pub(super) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, QueryError> {
    match Query::try_from_uri(uri) {
        Ok(Query(pairs)) => Ok(pairs),
        Err(_) => Err(bad("the query part of the URL cannot be decoded")),
    }
}

impl<'a> Fields<'a> {
    /// An empty text counts as left out.
    fn checked(self) -> Result<Parameters<'a>, QueryError> {
        let query = self.query.unwrap_or_default();
        let operation_name = self.operation_name.filter(|name| !name.is_empty());
        let variables = object("variables", self.variables)?;
        let persisted = match object("extensions", self.extensions)? {
            Some(extensions) => persisted::hash(extensions)?,
            None => None,
        };
        if query.is_empty() && persisted.is_none() {
            return Err(bad("parameter `query` is missing"));
        }
        Ok(Parameters { query, operation_name, variables, persisted })
    }
}

fn object<'a>(name: &str, value: Option<&'a RawValue>) -> Result<Option<&'a RawValue>, QueryError> {
    match value {
        Some(value) if value.get() == "null" => Ok(None),
        Some(value) if !value.get().starts_with('{') => {
            Err(bad(format!("parameter `{name}` must be an object")))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str) -> Option<Media> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        negotiate(&headers)
    }

    #[test]
    fn takes_what_is_wanted_most() {
        use Media::{GraphqlResponse, Json};
        assert_eq!(negotiate(&HeaderMap::new()), Some(Json));
        for (accept, media) in [
            ("*/*", Some(Json)),
            ("application/*", Some(Json)),
            ("application/json", Some(Json)),
            ("application/json; charset=utf-8", Some(Json)),
            ("APPLICATION/GraphQL-Response+JSON", Some(GraphqlResponse)),
            ("application/graphql-response+json, application/json", Some(GraphqlResponse)),
            ("application/graphql-response+json, application/json;q=0.9", Some(GraphqlResponse)),
            ("application/graphql-response+json;q=0.5, application/json;q=0.9", Some(Json)),
            ("application/graphql-response+json; q=0.5, */*;q=0.1", Some(GraphqlResponse)),
            ("application/graphql-response+json;q=0, */*", Some(Json)),
            ("application/json;q=0, */*", Some(GraphqlResponse)),
            ("text/html, */*;q=0.8", Some(Json)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("application/json;q=x", None),
            ("", None),
        ] {
            assert_eq!(negotiated(accept), media, "{accept}");
        }
    }

    #[test]
    fn several_headers_count_as_one() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(header::ACCEPT, HeaderValue::from_static("application/json"));
        assert_eq!(negotiate(&headers), Some(Media::Json));
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let check = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap());
            takes_gzip(&headers)
        };
        assert!(check("gzip, deflate, br") && check("br;q=1.0, gzip;q=0.8") && check("*"));
        assert!(!check("identity") && !check("gzip;q=0") && !check("*, gzip;q=0.0"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    fn refused(body: &str) -> String {
        Parameters::from_body(body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn parameters_have_their_types_and_null_is_left_out() {
        let body = "\u{feff} {\"query\":\"{a}\",\"operationName\":null,\"variables\":{\"x\":1},\"extensions\":null,\"other\":[1]}";
        let parameters = Parameters::from_body(body.as_bytes()).unwrap();
        assert_eq!(parameters.query, "{a}");
        assert_eq!(parameters.operation_name, None);
        assert_eq!(parameters.variables.unwrap().get(), r#"{"x":1}"#);
        let body = br#"{"query":"{a}","operationName":"","variables":null}"#;
        let parameters = Parameters::from_body(body).unwrap();
        assert!(parameters.operation_name.is_none() && parameters.variables.is_none());
        assert!(refused(r#"{"query":1}"#).contains("must be strings"));
        assert!(refused(r#"{"query":"{a}","variables":[]}"#).contains("must be an object"));
        assert!(refused(r#"{"query":"{a}","extensions":"x"}"#).contains("must be an object"));
        assert!(refused("{}").contains("missing"));
        assert!(refused(r#"{"query":""}"#).contains("missing"));
        assert!(refused(" [{}]").contains("BatchHttpLink"));
        assert!(refused("1").contains("must be a JSON object"));
        assert!(refused("{").contains("not JSON"));
    }

    #[test]
    fn a_url_has_json_in_two_parameters() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = [
            pair("query", "{a}"),
            pair("operationName", ""),
            pair("variables", r#"{"x":true}"#),
            pair("extensions", ""),
        ];
        let parameters = Parameters::from_pairs(&pairs).unwrap();
        assert_eq!(parameters.operation_name, None);
        assert_eq!(parameters.variables.unwrap().get(), r#"{"x":true}"#);
        for wrong in ["1", "x"] {
            let pairs = [pair("query", "{a}"), pair("variables", wrong)];
            assert!(Parameters::from_pairs(&pairs).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_plain_json_in_utf_8_is_taken() {
        let check = |name: axum::http::HeaderName, text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(name, HeaderValue::from_str(text).unwrap());
            check_content(&headers).is_ok()
        };
        for text in [
            "application/json",
            "Application/JSON; Charset=\"UTF-8\"",
            "application/json;charset=utf8",
            "application/json; odd",
        ] {
            assert!(check(header::CONTENT_TYPE, text), "{text}");
        }
        for text in [
            "text/plain",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert!(!check(header::CONTENT_TYPE, text), "{text}");
        }
        assert!(check_content(&HeaderMap::new()).is_err());
        assert!(check(header::CONTENT_ENCODING, "identity"));
        assert!(!check(header::CONTENT_ENCODING, "gzip"));
    }
}
