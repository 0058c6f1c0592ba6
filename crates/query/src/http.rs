//! GraphQL over HTTP, in the profile that its wide-spread clients and npm's `graphql-http` audits know: for a client
//! that takes only `application/json` every well-formed GraphQL answer is 200, for `application/graphql-response+json`
//! a request that was not executed is 400.

mod accept;
mod body;
mod caching;
mod graphiql;
mod parameters;
mod persisted;
mod visit;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::validation::Valid;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use service::connection::Peer;
use tokio::sync::Semaphore;

use self::accept::Media;
use self::body::Unread;
use self::parameters::Parameters;
use self::persisted::Text;
use self::visit::{Outcome, REQUEST_ID, Visit};
use crate::access::{Access, Client, Unauthenticated};
use crate::budget::{ByteBudget, Turn};
use crate::config::QuerySettings;
use crate::document::{self, Asked, DocumentCache, Refusal};
use crate::error::{Code, Exceeded, QueryError, write_errors};
use crate::execute::{Call, Executor};

pub(crate) use self::caching::Freshness;
pub(crate) use self::persisted::PersistedQueries;
pub(crate) use self::visit::RequestIds;

/// The header fields of the IETF's draft on rate limits.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Stands for a peer that nobody told; there is none behind the listener.
const UNKNOWN_PEER: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What the handlers share.
pub(crate) struct App {
    pub(crate) executor: Executor,
    pub(crate) settings: QuerySettings,
    pub(crate) access: Access,
    pub(crate) documents: DocumentCache,
    pub(crate) persisted: PersistedQueries,
    pub(crate) freshness: Freshness,
    pub(crate) request_ids: RequestIds,
    /// How many documents are validated at the same time. Documents that nobody has seen yet wait for each other here,
    /// and not the requests whose documents are known.
    pub(crate) validations: Arc<Semaphore>,
    /// Answers on their way.
    pub(crate) answers: ByteBudget,
    /// Bodies that are being read.
    pub(crate) bodies: ByteBudget,
}

/// An answer before it is an HTTP response.
struct Answer {
    status: StatusCode,
    body: String,
    outcome: &'static str,
    /// Publications that were asked for.
    keys: u64,
    /// Of an answer without errors, whether it is likely to stay.
    settled: Option<bool>,
    /// What only some answers say.
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// How a request is to be answered, and whom it counts for.
#[derive(Debug, Clone, Copy)]
struct Terms {
    media: Media,
    client: Client,
    /// By GET, which must not write.
    safe_method: bool,
    /// When it is to be answered at the latest.
    until: tokio::time::Instant,
}

/// The routes of the public listener.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/graphql", get(graphql).post(graphql).options(preflight))
        .route("/schema.graphql", get(schema))
        .route("/", get(graphiql::page))
        .route("/graphiql/{file}", get(graphiql::file))
        .with_state(app)
}

async fn schema(State(app): State<Arc<App>>) -> Response {
    // Plain text, so that a browser shows it.
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (headers, app.executor.schema.text.clone()).into_response()
}

/// What a browser asks before it sends the request of another origin's page.
async fn preflight(State(app): State<Arc<App>>, request: Request) -> Response {
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match app.access.cors.allowed(request.headers()) {
        Some(allowed) if asks => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            app.access.cors.mark_preflight(response.headers_mut(), allowed);
            response
        }
        _ if asks => StatusCode::FORBIDDEN.into_response(),
        _ => {
            ([(header::ALLOW, "GET, HEAD, POST, OPTIONS")], StatusCode::NO_CONTENT).into_response()
        }
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    response
}

async fn graphql(State(app): State<Arc<App>>, request: Request) -> Response {
    let arrived = tokio::time::Instant::now();
    let (head, body) = request.into_parts();
    let started = arrived.into_std();
    let visit =
        Visit { id: app.request_ids.of(&head.headers), method: head.method.clone(), started };
    let media = accept::negotiate(&head.headers);
    let peer = head.extensions.get::<Peer>().map_or(UNKNOWN_PEER, |peer| peer.0);
    let client = app.access.client(&head.headers, peer);
    let answer = match (media, client) {
        (None, _) => turn_away(&head, body, app.not_acceptable()).await,
        (_, Err(why)) => turn_away(&head, body, app.unauthenticated(why)).await,
        (Some(media), Ok(client)) => {
            let safe_method = head.method != Method::POST;
            let until = arrived + app.settings.http.request_timeout;
            let terms = Terms { media, client, safe_method, until };
            app.answer_in_time(&head, body, terms).await
        }
    };
    app.finish(&head.headers, answer, (media.unwrap_or(Media::Json), client.ok()), visit).await
}

/// The answer to a request that is refused by its head, once its body has gone by.
async fn turn_away(head: &Parts, body: Body, answer: Answer) -> Answer {
    body::discard(body, &head.headers).await;
    answer
}

impl App {
    async fn answer_in_time(&self, head: &Parts, body: Body, terms: Terms) -> Answer {
        let answer = tokio::time::timeout_at(terms.until, self.answer(head, body, terms)).await;
        answer.unwrap_or_else(|_| {
            let timeout = self.settings.http.request_timeout;
            let message = format!("not answered within {timeout:?} (http.request_timeout)");
            let error = QueryError::new(Code::Timeout, message);
            self.plain_error(StatusCode::SERVICE_UNAVAILABLE, &error)
        })
    }

    async fn answer(&self, head: &Parts, body: Body, terms: Terms) -> Answer {
        if self.access.cors.refuses(&head.headers) {
            let message = "requests from pages of other sites are refused (access.cors_origins)";
            let error = QueryError::new(Code::CrossSite, message);
            let answer = self.plain_error(StatusCode::FORBIDDEN, &error);
            return turn_away(head, body, answer).await;
        }
        // Before anything is read, so that a client whose account is empty costs next to nothing.
        if let Err(error) = self.charge(terms.client, 1) {
            return turn_away(head, body, self.refused(&[error], terms.media)).await;
        }
        if terms.safe_method {
            self.get(&head.uri, terms).await
        } else {
            self.post(head, body, terms).await
        }
    }

    /// Takes so many publications from the client's account.
    fn charge(&self, client: Client, cost: u64) -> Result<(), QueryError> {
        match &self.access.limiter {
            Some(limiter) => limiter.take(client, cost).map_err(QueryError::rate_limited),
            None => Ok(()),
        }
    }

    async fn post(&self, head: &Parts, body: Body, terms: Terms) -> Answer {
        let headers = &head.headers;
        if !parameters::is_json(headers) {
            let error = QueryError::new(
                Code::BadRequest,
                "the content type must be application/json in UTF-8",
            );
            let answer = self.plain_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error);
            return turn_away(head, body, answer).await;
        }
        let maximum = usize::try_from(self.executor.limits.max_body.as_u64()).unwrap_or(usize::MAX);
        let announced = body::announced(headers);
        if announced.is_some_and(|length| length > maximum) {
            return turn_away(head, body, self.unread(Unread::TooLong)).await;
        }
        let _held = self.bodies.reserve(announced.unwrap_or(maximum)).await;
        let capacity = announced.unwrap_or_default();
        let reading = tokio::time::timeout_at(terms.until, body::read(body, capacity, maximum));
        let body = match reading.await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return self.unread(error),
            Err(_) => {
                let timeout = self.settings.http.request_timeout;
                let message =
                    format!("the body did not come within {timeout:?} (http.request_timeout)");
                let error = QueryError::new(Code::Timeout, message);
                return self.plain_error(StatusCode::REQUEST_TIMEOUT, &error);
            }
        };
        let turn = self.executor.work.turn_for_body(body.len()).await;
        let budget = parameters::budget(self.executor.limits.max_refs);
        match parameters::from_body(&body, budget) {
            Ok(parameters) => self.run(parameters, turn, terms).await,
            Err(error) => self.plain_error(StatusCode::BAD_REQUEST, &error),
        }
    }

    async fn get(&self, uri: &Uri, terms: Terms) -> Answer {
        let budget = parameters::budget(self.executor.limits.max_refs);
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let parameters = match &pairs {
            Ok(Query(pairs)) => parameters::from_url(pairs, budget),
            Err(_) => Err(QueryError::new(
                Code::BadRequest,
                "the query part of the URL cannot be decoded",
            )),
        };
        match parameters {
            Ok(parameters) => self.run(parameters, Turn::default(), terms).await,
            Err(error) => self.plain_error(StatusCode::BAD_REQUEST, &error),
        }
    }

    fn unread(&self, error: Unread) -> Answer {
        if error == Unread::Broken {
            let error = QueryError::new(Code::BadRequest, "the body cannot be read");
            return self.plain_error(StatusCode::BAD_REQUEST, &error);
        }
        let maximum = self.executor.limits.max_body.as_u64();
        let message = format!("the body has more than {maximum} bytes (limits.max_body)");
        let exceeded = Exceeded { limit: "limits.max_body", maximum, actual: None };
        self.plain_error(StatusCode::PAYLOAD_TOO_LARGE, &QueryError::limit(exceeded, message))
    }

    async fn run(&self, parameters: Parameters<'_>, turn: Turn<'_>, terms: Terms) -> Answer {
        let Parameters { query, operation_name, variables, persisted } = parameters;
        let text = match self.text(query, persisted.as_ref()) {
            Ok(text) => text,
            Err(error) => return self.refused(&[error], terms.media),
        };
        let operation_name = operation_name.as_deref();
        let asked = Asked { safe_method: terms.safe_method, operation_name };
        let document = match self.document(text.as_str(), asked).await {
            Ok(document) => document,
            Err(Refusal::Errors(errors)) => return self.refused(&errors, terms.media),
            Err(Refusal::NotAQuery) => return self.not_a_query(),
        };
        if let (Some(hash), Text::Sent(text)) = (persisted, &text) {
            self.persisted.keep(hash, text);
            let bytes = i64::try_from(self.persisted.bytes()).unwrap_or(i64::MAX);
            self.executor.metrics.persisted_query_bytes.set(bytes);
        }
        // One was charged for the request.
        let admit = |keys: u64| self.charge(terms.client, keys.saturating_sub(1));
        let call = Call { operation_name, variables, turn, admit: &admit };
        match self.executor.execute(&document, call).await {
            Ok(executed) => Answer {
                status: StatusCode::OK,
                body: executed.body,
                outcome: if executed.partial { "partial" } else { "ok" },
                keys: executed.asked,
                settled: (!executed.partial).then_some(executed.settled),
                headers: Vec::new(),
            },
            Err(error) => self.refused(&[error], terms.media),
        }
    }

    /// The text of the document: what was sent, or what was kept under its hash.
    fn text<'a>(
        &self,
        sent: Cow<'a, str>,
        hash: Option<&persisted::Hash>,
    ) -> Result<Text<'a>, QueryError> {
        match hash {
            Some(hash) if sent.is_empty() => {
                let found = self.persisted.find(hash);
                let result = if found.is_ok() { "hit" } else { "miss" };
                let lookups = &self.executor.metrics.persisted_query_lookups_total;
                lookups.with_label_values(&[result]).inc();
                found.map(Text::Kept)
            }
            Some(hash) => persisted::check(hash, &sent).map(|()| Text::Sent(sent)),
            None => Ok(Text::Sent(sent)),
        }
    }

    /// The validated document of that text.
    async fn document(
        &self,
        text: &str,
        asked: Asked<'_>,
    ) -> Result<Arc<Valid<ExecutableDocument>>, Refusal> {
        let lookups = &self.executor.metrics.document_cache_lookups_total;
        if let Some(document) = self.documents.get(text) {
            lookups.with_label_values(&["hit"]).inc();
            return Ok(document);
        }
        lookups.with_label_values(&["miss"]).inc();
        let _turn = self.validations.acquire().await;
        let document =
            document::prepare(&self.executor.schema, &self.executor.limits, text, asked)?;
        self.documents.insert(text, document.clone());
        let bytes = i64::try_from(self.documents.bytes()).unwrap_or(i64::MAX);
        self.executor.metrics.document_cache_bytes.set(bytes);
        Ok(document)
    }

    /// A well-formed GraphQL answer without data.
    fn refused(&self, errors: &[QueryError], media: Media) -> Answer {
        let code = errors.first().map_or(Code::Internal, |error| error.code);
        let status = match (code, media) {
            (Code::RateLimited, _) => StatusCode::TOO_MANY_REQUESTS,
            (Code::StoreUnavailable | Code::Timeout, _) => StatusCode::SERVICE_UNAVAILABLE,
            (Code::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
            (Code::PersistedQueryMismatch, _) | (_, Media::GraphqlResponse) => {
                StatusCode::BAD_REQUEST
            }
            (_, Media::Json) => StatusCode::OK,
        };
        let mut answer = self.errors(status, errors, code);
        if let Some(seconds) = errors.first().and_then(|error| error.retry_after) {
            answer.headers.push((header::RETRY_AFTER, seconds.get().into()));
        }
        answer
    }

    fn not_acceptable(&self) -> Answer {
        let message = "accept application/graphql-response+json or application/json";
        let error = QueryError::new(Code::BadRequest, message);
        self.plain_error(StatusCode::NOT_ACCEPTABLE, &error)
    }

    fn unauthenticated(&self, why: Unauthenticated) -> Answer {
        let error = QueryError::new(Code::Unauthenticated, why.message());
        let mut answer = self.plain_error(StatusCode::UNAUTHORIZED, &error);
        let challenge = HeaderValue::from_static(why.challenge());
        answer.headers.push((header::WWW_AUTHENTICATE, challenge));
        answer
    }

    fn plain_error(&self, status: StatusCode, error: &QueryError) -> Answer {
        self.errors(status, std::slice::from_ref(error), error.code)
    }

    fn not_a_query(&self) -> Answer {
        let error = QueryError::new(Code::BadRequest, "GET executes queries only; use POST");
        let mut answer = self.plain_error(StatusCode::METHOD_NOT_ALLOWED, &error);
        answer.headers.push((header::ALLOW, HeaderValue::from_static("POST")));
        answer
    }

    fn errors(&self, status: StatusCode, errors: &[QueryError], code: Code) -> Answer {
        let limits = &self.executor.limits;
        let errors = &errors[..errors.len().min(limits.max_errors)];
        let mut body = String::from("{");
        write_errors(&mut body, errors, limits.max_error_length);
        body.push('}');
        let outcome = code.outcome();
        Answer { status, body, outcome, keys: 0, settled: None, headers: Vec::new() }
    }

    async fn finish(
        &self,
        asked: &HeaderMap,
        mut answer: Answer,
        (media, client): (Media, Option<Client>),
        visit: Visit,
    ) -> Response {
        self.cache(asked, &mut answer, (media, &visit.method));
        let bytes = answer.body.len();
        let outcome = Outcome {
            status: answer.status.as_u16(),
            outcome: answer.outcome,
            keys: answer.keys,
            bytes,
            client: client.and_then(|client| self.access.name(client)),
        };
        self.count(&outcome, visit.started);
        if self.settings.http.access_log {
            visit.log(&outcome);
        }
        let patience = self.settings.http.request_timeout;
        let answers = &self.executor.metrics.answers_bytes;
        let held = self.answers.hold(answer.body, answers, patience).await;
        let mut response = match held {
            Some(body) => (answer.status, Body::from(body)).into_response(),
            // Nothing can be said within a budget that is used up, but that it is.
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REQUEST_ID, visit.id);
        headers.extend(answer.headers.into_iter().map(|(name, value)| (Some(name), value)));
        self.mark(asked, headers, client);
        response
    }

    /// Says how long the answer may be kept, and leaves it out where the client has it.
    fn cache(&self, asked: &HeaderMap, answer: &mut Answer, (media, method): (Media, &Method)) {
        let Some(settled) = answer.settled else {
            answer.headers.push((header::CACHE_CONTROL, caching::NO_STORE));
            return;
        };
        if *method == Method::POST {
            return;
        }
        let tag = caching::tag(media.content_type(), &answer.body);
        if caching::has(asked, &tag) {
            answer.status = StatusCode::NOT_MODIFIED;
            answer.outcome = "not_modified";
            answer.body.clear();
        }
        answer.headers.push((header::ETAG, tag));
        answer.headers.push((header::CACHE_CONTROL, self.freshness.of(settled)));
    }

    fn count(&self, outcome: &Outcome<'_>, started: Instant) {
        let class = match outcome.status {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let metrics = &self.executor.metrics;
        metrics.requests_total.with_label_values(&[class, outcome.outcome]).inc();
        let seconds = metrics.request_seconds.with_label_values(&[outcome.outcome]);
        seconds.observe(started.elapsed().as_secs_f64());
    }

    /// What depends on who asks: on the client's account, and on the page's origin.
    fn mark(&self, asked: &HeaderMap, headers: &mut HeaderMap, client: Option<Client>) {
        let vary = match (self.access.is_closed(), self.access.cors.is_on()) {
            (false, false) => "accept",
            (true, false) => "accept, authorization",
            (false, true) => "accept, origin",
            (true, true) => "accept, authorization, origin",
        };
        headers.insert(header::VARY, HeaderValue::from_static(vary));
        if let Some(allowed) = self.access.cors.allowed(asked) {
            self.access.cors.mark(headers, allowed);
        }
        if let (Some(limiter), Some(client)) = (&self.access.limiter, client) {
            let clients = i64::try_from(limiter.clients()).unwrap_or(i64::MAX);
            self.executor.metrics.rate_limit_clients.set(clients);
            let values =
                [(RATE_LIMIT, limiter.standing(client).header()), (POLICY, limiter.policy())];
            for (name, value) in values {
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
