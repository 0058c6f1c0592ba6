//! The parameters of a request, from its body or its URL.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::App;
use super::context::Context;
use super::persisted::{self, Hash};
use super::response::Refusal;
use crate::admission::Reservation;
use crate::error::{Code, QueryError};

/// A body's deadline is this much earlier than the request's, because the body's error names the cause.
const BEFORE_THE_END: Duration = Duration::from_millis(10);

/// Refuses a body whose headers do not say JSON in UTF-8. This includes the content types that a page of another site
/// may send without a preflight (`text/plain`, forms, none).
fn check_content(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |message| Refusal::from(QueryError::new(Code::UnsupportedMediaType, message));
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

/// Reads the body of a POST request, up to `limits.max_body`. The reservation counts its bytes.
pub(super) async fn body(
    app: &App,
    context: &Context,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<(Vec<u8>, Reservation), Refusal> {
    check_content(headers)?;
    let maximum = app.settings.limits.max_body.as_u64();
    let too_long = || {
        let message = format!("the body has more than {maximum} bytes (limits.max_body)");
        let error = QueryError::limit("limits.max_body", maximum, None, message);
        Refusal::from(error).status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    // The length that the head announces.
    if body.size_hint().lower() > maximum {
        return Err(too_long());
    }
    let until = context.until - BEFORE_THE_END;
    let most = body.size_hint().upper().unwrap_or(maximum);
    let mut reservation = app.admission.body(context.client, most);
    let mut read = Vec::new();
    let late = |reservation: &Reservation| {
        if reservation.has_waited() {
            return Refusal::busy();
        }
        let message = "the body did not come in time (http.request_timeout)";
        Refusal::from(QueryError::new(Code::Timeout, message)).status(StatusCode::REQUEST_TIMEOUT)
    };
    // Also reported while the body waits for buffer space, so that of all unfinished bodies the one that has not grown
    // for the longest is closed for a new connection, and not one that is being received.
    let receives = |is_receiving| context.peer.iter().for_each(|peer| peer.receives(is_receiving));
    loop {
        receives(true);
        let frame = tokio::select! {
            biased;
            () = reservation.evicted() => return Err(Refusal::busy()),
            frame = tokio::time::timeout_at(until, body.frame()) => frame,
        };
        let Some(frame) = frame.map_err(|_| late(&reservation))? else {
            receives(false);
            reservation.complete().map_err(|_| Refusal::busy())?;
            return Ok((read, reservation));
        };
        let frame = frame.map_err(|_| {
            Refusal::from(QueryError::new(Code::BadRequest, "the body cannot be read"))
        })?;
        // Trailers have no meaning here.
        let Ok(data) = frame.into_data() else { continue };
        if read.len() as u64 + data.len() as u64 > maximum {
            return Err(too_long());
        }
        let bytes = data.len() as u64;
        if !reservation.try_grow(bytes) {
            let grown = tokio::time::timeout_at(until, reservation.grow(bytes));
            if !matches!(grown.await, Ok(Ok(()))) {
                return Err(Refusal::busy());
            }
        }
        if read.capacity() - read.len() < data.len() {
            // By itself a vector doubles, so bodies would hold twice the bytes that are counted.
            read.reserve_exact(data.len().max(read.len() / 4));
        }
        read.extend_from_slice(&data);
    }
}

/// The parameters of a GraphQL request. They own their texts, which together are no longer than the body, so the memory of
/// the body is free while the request waits.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pub(super) query: String,
    pub(super) operation_name: Option<String>,
    pub(super) variables: Option<Box<RawValue>>,
    /// The SHA-256 of the text (automatic persisted queries). With it the text may be missing.
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

impl Parameters {
    /// Reads the parameters from a body (GraphQL over HTTP, "JSON Encoding").
    pub(super) fn from_body(body: &[u8]) -> Result<Self, QueryError> {
        // A byte order mark is accepted, although RFC 8259 forbids sending it.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        // Look at the first character before parsing, because the body may be long.
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

    /// Reads the parameters from the pairs of a URL's query part.
    pub(super) fn from_pairs(pairs: &[(String, String)]) -> Result<Self, QueryError> {
        let mut fields = Fields::default();
        for (at, (name, value)) in pairs.iter().enumerate() {
            let is_known = ["query", "operationName", "variables", "extensions"].contains(&&**name);
            if is_known && pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(bad(format!("parameter `{name}` is given more than once")));
            }
            let json = || {
                serde_json::from_str(value)
                    .map_err(|_| bad(format!("parameter `{name}` is not JSON")))
            };
            match name.as_str() {
                "query" => fields.query = Some(value.clone()),
                "operationName" => fields.operation_name = Some(value.clone()),
                "variables" if !value.is_empty() => fields.variables = Some(json()?),
                "extensions" if !value.is_empty() => fields.extensions = Some(json()?),
                _ => {}
            }
        }
        fields.checked()
    }
}

/// The pairs of a URL's query part.
pub(super) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, QueryError> {
    // The decoder of forms would put U+FFFD in the place of bytes that are not UTF-8, and another package would be asked for.
    let is_utf8 = percent_decode_str(uri.query().unwrap_or_default()).decode_utf8().is_ok();
    match Query::try_from_uri(uri) {
        Ok(Query(pairs)) if is_utf8 => Ok(pairs),
        _ => Err(bad("the query part of the URL cannot be decoded")),
    }
}

impl Fields<'_> {
    /// Checks the parameters. Empty texts count as absent.
    fn checked(self) -> Result<Parameters, QueryError> {
        let query = self.query.unwrap_or_default();
        let operation_name = self.operation_name.filter(|name| !name.is_empty());
        let variables = object("variables", self.variables)?.map(ToOwned::to_owned);
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
    fn a_url_has_each_parameter_once() {
        let read = |query: &str| {
            let uri: Uri = format!("/graphql?query=%7Ba%7D&{query}").parse().unwrap();
            Parameters::from_pairs(&pairs(&uri).unwrap())
        };
        for name in ["query", "operationName", "variables", "extensions"] {
            let error = read(&format!("{name}=&{name}=")).unwrap_err();
            let message = format!("parameter `{name}` is given more than once");
            assert_eq!((error.code(), error.message), (Code::BadRequest, message));
        }
        assert!(read("other=1&other=2").is_ok(), "unknown parameters are ignored");
    }

    #[test]
    fn a_url_that_is_not_utf_8_is_refused() {
        let read = |query: &str| pairs(&format!("/?{query}").parse().unwrap());
        for wrong in ["prefix=%FF", "a=%C3&b=%A4", "%E2%82=x"] {
            let error = read(wrong).unwrap_err();
            assert_eq!(error.code(), Code::BadRequest, "{wrong}");
            assert_eq!(error.message, "the query part of the URL cannot be decoded");
        }
        assert_eq!(read("a=%C3%A4+%2B").unwrap(), [("a".to_owned(), "ä +".to_owned())]);
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
