//! What a request's head says, and what every answer needs of it.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use service::connection::Peer;
use tokio::time::Instant;

use super::App;
use crate::access::Client;

/// The header fields of the IETF's draft on rate limits.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// In which media type the answer is written, and with which statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/json`, as clients have it since before the specification: errors of a GraphQL request are 200.
    Json,
    /// `application/graphql-response+json`: the status says whether the request was executed.
    GraphqlResponse,
    /// `text/html`, of the pages for people: the status says whether the request was executed.
    Html,
}

/// What a request's head says. A request that is refused by its head is refused where this is made.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) media: Media,
    pub(super) client: Client,
    pub(super) peer: Option<Peer>,
    /// By GET, which must not write.
    pub(super) is_get: bool,
    /// Whether the answer may be compressed.
    pub(super) takes_gzip: bool,
    /// When it is to be answered at the latest.
    pub(super) until: Instant,
    /// The tags of the answers that the client has.
    pub(super) has: Vec<HeaderValue>,
}

/// What a client is told of its account; nothing where the rate is not limited.
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
