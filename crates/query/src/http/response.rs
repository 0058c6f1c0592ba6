//! Answers and refusals as HTTP responses: status, caching (RFC 9111), conditional requests (RFC 9110, section 13),
//! compression.

use std::io::Write as _;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::SemaphorePermit;

use super::App;
use super::context::{Context, Media, rate_headers};
use crate::access::Client;
use crate::config::CacheSettings;
use crate::error::{Code, QueryError};
use crate::execute::Executed;
use crate::pages;

/// Errors are temporary and must not be cached.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Shorter answers are not compressed, because they fit into one packet.
const COMPRESSED_FROM: usize = 1_024;

/// The outcome of a request, for metrics and log: an extension of its response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) outcome: &'static str,
    /// Number of publications asked for.
    pub(super) keys: u64,
    pub(super) client: Option<Client>,
}

/// `Cache-Control` of an answer to a GET request. `private` when tokens are required: a shared cache must not answer
/// requests without a token.
fn cache_control(settings: &CacheSettings, is_private: bool, is_settled: bool) -> HeaderValue {
    let scope = if is_private { "private" } else { "public" };
    let age = if is_settled { settings.settled_max_age } else { settings.unsettled_max_age };
    let text = format!("{scope}, max-age={}", age.as_secs());
    HeaderValue::try_from(text).unwrap_or(NO_STORE)
}

impl Media {
    const fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
        })
    }

    /// Sets the content type and, for HTML, the headers that restrict the browser.
    fn describe(self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, self.content_type());
        if self == Self::Html {
            headers.insert(header::CONTENT_SECURITY_POLICY, pages::POLICY.clone());
            // Package names may be private, so they must not reach other sites as a referrer.
            let referrer = HeaderValue::from_static("no-referrer");
            headers.insert(header::REFERRER_POLICY, referrer);
        }
    }
}

/// A response without `data`.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    errors: Vec<QueryError>,
    media: Media,
    status: Option<StatusCode>,
    headers: Box<HeaderMap>,
    client: Option<Client>,
}

impl From<Vec<QueryError>> for Refusal {
    fn from(errors: Vec<QueryError>) -> Self {
        Self { errors, media: Media::Json, status: None, headers: Box::default(), client: None }
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        vec![error].into()
    }
}

impl Refusal {
    /// Sets the media type of the refusal.
    pub(super) fn written_as(self, media: Media) -> Self {
        Self { media, ..self }
    }

    /// A refusal because there is no room at the moment.
    pub(super) fn busy() -> Self {
        let message = "the server has no room for the request at the moment; try again";
        QueryError::new(Code::Busy, message).retry_after(1).into()
    }

    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn with_all(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Adds the client, the media type and the rate limit headers.
    pub(super) fn of(mut self, app: &App, context: &Context) -> Self {
        self.client = Some(context.client);
        self.media = context.media;
        self.with_all(rate_headers(app, context.client))
    }

    pub(super) fn code(&self) -> Code {
        self.errors.first().map_or(Code::Internal, QueryError::code)
    }
}

/// The status of a refusal with this code.
fn status(code: Code, media: Media) -> StatusCode {
    let status = match (code.status(), media) {
        (200, Media::GraphqlResponse | Media::Html) => 400,
        (status, _) => status,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Errors<'a> {
            errors: &'a [QueryError],
        }
        let code = self.code();
        let status = self.status.unwrap_or_else(|| status(code, self.media));
        let body = match self.media {
            Media::Html => pages::refusal(status.as_u16(), &self.errors).into_string().into_bytes(),
            // Texts and numbers always serialize.
            Media::Json | Media::GraphqlResponse => {
                serde_json::to_vec(&Errors { errors: &self.errors }).unwrap_or_default()
            }
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        self.media.describe(headers);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        let retry_after = self.errors.first().and_then(|error| error.extensions.retry_after);
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.get().into());
        }
        headers.extend(*self.headers);
        let outcome = Outcome { outcome: code.outcome(), keys: 0, client: self.client };
        response.extensions_mut().insert(outcome);
        response
    }
}

/// The response of an executed request. Waits until there is room for the answer; refuses it if too many bytes wait already.
/// `writing` is the permit to hold a large answer that is not counted yet.
pub(super) async fn answer(
    app: &App,
    context: &Context,
    executed: Executed,
    writing: Option<SemaphorePermit<'_>>,
) -> Result<Response, Refusal> {
    let Executed { mut body, is_partial, asked, is_settled } = executed;
    // The length that is counted must be the memory that is held.
    body.shrink_to_fit();
    let mut headers = rate_headers(app, context.client);
    context.media.describe(&mut headers);
    let is_compressed = context.takes_gzip && body.len() >= COMPRESSED_FROM;
    let mut is_unmodified = false;
    if is_partial {
        headers.insert(header::CACHE_CONTROL, NO_STORE);
    } else if context.is_get {
        let tag = tag(&context.media.content_type(), is_compressed, &body);
        is_unmodified = is_known(&context.if_none_match, &tag);
        headers.insert(header::ETAG, tag);
        headers.insert(
            header::CACHE_CONTROL,
            cache_control(&app.settings.cache, app.access.is_closed, is_settled),
        );
    }
    let outcome = match (is_unmodified, is_partial) {
        (true, _) => "not_modified",
        (false, true) => "partial",
        (false, false) => "ok",
    };
    let mut response = if is_unmodified {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut body = Bytes::from(body);
        if is_compressed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = gzip(&body);
        }
        drop(writing);
        let peer = context.peer.clone();
        let admitted = app.admission.answer(body, context.client, peer).await;
        Response::new(admitted.ok_or_else(Refusal::busy)?.into())
    };
    *response.headers_mut() = headers;
    let outcome = Outcome { outcome, keys: asked, client: Some(context.client) };
    response.extensions_mut().insert(outcome);
    Ok(response)
}

/// The request headers that an answer of `/graphql` depends on.
pub(super) fn vary(app: &App) -> HeaderValue {
    HeaderValue::from_static(if app.access.is_closed {
        "accept, accept-encoding, authorization"
    } else {
        "accept, accept-encoding"
    })
}

/// Compresses the whole body at once, so that the encoder needs its memory only for a moment.
fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(body);
    let mut packed = encoder.finish().unwrap_or_default();
    packed.shrink_to_fit();
    packed.into()
}

/// The entity tag of an answer: a hash of media type, coding and bytes.
fn tag(content_type: &HeaderValue, is_compressed: bool, body: &[u8]) -> HeaderValue {
    let coding: &[u8] = if is_compressed { b"gzip" } else { b"" };
    let digest = Sha256::new().chain_update(content_type).chain_update(coding).chain_update(body);
    let text = format!("\"{}\"", hex::encode(&digest.finalize()[..16]));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether `If-None-Match` has the tag. Weak and strong tags count as equal here.
fn is_known(known: &[HeaderValue], tag: &HeaderValue) -> bool {
    let mut tags = known.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tags.any(|known| {
        let known = known.trim_ascii();
        known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_again_in_every_spelling() {
        let json = Media::Json.content_type();
        let own = tag(&json, false, b"{}");
        let text = own.to_str().unwrap().to_owned();
        assert_eq!(text.len(), 34);
        assert_ne!(own, tag(&Media::GraphqlResponse.content_type(), false, b"{}"));
        assert_ne!(own, tag(&json, true, b"{}"));
        assert_ne!(own, tag(&json, false, b"{ }"));
        let check = |value: &str| is_known(&[HeaderValue::from_str(value).unwrap()], &own);
        assert!(check(&text) && check(&format!("W/{text}")) && check("*"));
        assert!(check(&format!("\"other\", {text}")));
        assert!(!check("\"other\"") && !check("") && !is_known(&[], &own));
    }

    #[test]
    fn settled_answers_may_be_kept_longer() {
        let settings = CacheSettings::default();
        assert_eq!(cache_control(&settings, false, true), "public, max-age=3600");
        assert_eq!(cache_control(&settings, false, false), "public, max-age=30");
        assert_eq!(cache_control(&settings, true, true), "private, max-age=3600");
    }
}
