//! The information in a request's head that every answer needs.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use service::connection::Peer;
use tokio::time::Instant;

use super::App;
use crate::access::Client;

/// The header fields of the IETF draft on rate limits.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The media type of the answer, which also decides its statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/json`, as older clients expect it: a GraphQL request with errors has status 200.
    Json,
    /// `application/graphql-response+json`: the status shows whether the request was executed.
    GraphqlResponse,
    /// `text/html`, for the pages: the status shows whether the request was executed.
    Html,
}

/// The information in a request's head. Building it refuses requests with an unacceptable head.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) media: Media,
    pub(super) client: Client,
    pub(super) peer: Option<Peer>,
    /// Whether it is a GET request, which must not write.
    pub(super) is_get: bool,
    /// Whether the client accepts gzip.
    pub(super) takes_gzip: bool,
    /// The deadline of the answer.
    pub(super) until: Instant,
    /// The entity tags of `If-None-Match`.
    pub(super) if_none_match: Vec<HeaderValue>,
}

/// The rate limit headers for a client; empty when the rate is not limited.
pub(super) fn rate_headers(app: &App, client: Client) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(limiter) = &app.access.limiter else { return headers };
    let clients = i64::try_from(limiter.clients()).unwrap_or(i64::MAX);
    app.executor.metrics.rate_limit_clients.set(clients);
    for (name, value) in [(RATE_LIMIT, limiter.status(client).header()), (POLICY, limiter.policy())]
    {
        headers.extend(HeaderValue::try_from(value).map(|value| (name, value)));
    }
    headers
}
