//! GraphQL over HTTP, in the profile that its wide-spread clients and npm's `graphql-http` audits know: for a client
//! that takes only `application/json` every well-formed GraphQL answer is 200, for `application/graphql-response+json`
//! a request that was not executed is 400.

mod accept;
mod body;
mod graphiql;
mod parameters;

use std::sync::Arc;
use std::time::Instant;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::validation::Valid;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

use self::accept::Media;
use self::body::Unread;
use self::parameters::Parameters;
use crate::budget::{ByteBudget, Turn};
use crate::config::QuerySettings;
use crate::document::{self, Asked, DocumentCache, Refusal};
use crate::error::{Code, Exceeded, QueryError, write_errors};
use crate::execute::Executor;

/// What the handlers share.
pub(crate) struct App {
    pub(crate) executor: Executor,
    pub(crate) settings: QuerySettings,
    pub(crate) documents: DocumentCache,
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
    /// For the answer to a write over GET.
    allow_post: bool,
}

/// The routes of the public listener.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/graphql", get(graphql).post(graphql))
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

async fn graphql(State(app): State<Arc<App>>, request: Request) -> Response {
    let started = Instant::now();
    let media = accept::negotiate(request.headers());
    let timeout = app.settings.http.request_timeout;
    let answer = match media {
        None => app.plain_error(
            StatusCode::NOT_ACCEPTABLE,
            &QueryError::new(
                Code::BadRequest,
                "accept application/graphql-response+json or application/json",
            ),
        ),
        Some(media) => match tokio::time::timeout(timeout, app.answer(request, media)).await {
            Ok(answer) => answer,
            Err(_) => app.plain_error(
                StatusCode::SERVICE_UNAVAILABLE,
                &QueryError::new(
                    Code::Timeout,
                    format!("not answered within {timeout:?} (http.request_timeout)"),
                ),
            ),
        },
    };
    app.finish(answer, media.unwrap_or(Media::Json), started).await
}

impl App {
    async fn answer(&self, request: Request, media: Media) -> Answer {
        let (head, body) = request.into_parts();
        if is_cross_site(&head.headers) {
            let message = "requests from pages of other sites are refused";
            return self
                .plain_error(StatusCode::FORBIDDEN, &QueryError::new(Code::CrossSite, message));
        }
        if head.method == Method::POST {
            self.post(&head.headers, body, media).await
        } else {
            self.get(&head.uri, media).await
        }
    }

    async fn post(&self, headers: &HeaderMap, body: Body, media: Media) -> Answer {
        if !parameters::is_json(headers) {
            let error = QueryError::new(
                Code::BadRequest,
                "the content type must be application/json in UTF-8",
            );
            return self.plain_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error);
        }
        let maximum = usize::try_from(self.executor.limits.max_body.as_u64()).unwrap_or(usize::MAX);
        let length = body::announced(headers).unwrap_or(maximum).min(maximum);
        let _held = self.bodies.reserve(length).await;
        let body = match body::read(body, headers, maximum).await {
            Ok(body) => body,
            Err(error) => return self.unread(error),
        };
        let turn = self.executor.work.turn_for_body(body.len()).await;
        let budget = parameters::budget(self.executor.limits.max_refs);
        match parameters::from_body(&body, budget) {
            Ok(parameters) => self.run(parameters, turn, (false, media)).await,
            Err(error) => self.plain_error(StatusCode::BAD_REQUEST, &error),
        }
    }

    async fn get(&self, uri: &Uri, media: Media) -> Answer {
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
            Ok(parameters) => self.run(parameters, Turn::default(), (true, media)).await,
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

    async fn run(
        &self,
        parameters: Parameters<'_>,
        turn: Turn<'_>,
        (safe_method, media): (bool, Media),
    ) -> Answer {
        let operation_name = parameters.operation_name.as_deref();
        let asked = Asked { safe_method, operation_name };
        let document = match self.document(&parameters.query, asked).await {
            Ok(document) => document,
            Err(Refusal::Errors(errors)) => return self.refused(&errors, media),
            Err(Refusal::NotAQuery) => return self.not_a_query(),
        };
        match self.executor.execute(&document, operation_name, parameters.variables, turn).await {
            Ok(executed) => Answer {
                status: StatusCode::OK,
                body: executed.body,
                outcome: if executed.partial { "partial" } else { "ok" },
                allow_post: false,
            },
            Err(error) => self.refused(&[error], media),
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
            (Code::StoreUnavailable | Code::Timeout, _) => StatusCode::SERVICE_UNAVAILABLE,
            (Code::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
            (_, Media::Json) => StatusCode::OK,
            (_, Media::GraphqlResponse) => StatusCode::BAD_REQUEST,
        };
        self.errors(status, errors, code)
    }

    fn plain_error(&self, status: StatusCode, error: &QueryError) -> Answer {
        self.errors(status, std::slice::from_ref(error), error.code)
    }

    fn not_a_query(&self) -> Answer {
        let error = QueryError::new(Code::BadRequest, "GET executes queries only; use POST");
        Answer { allow_post: true, ..self.plain_error(StatusCode::METHOD_NOT_ALLOWED, &error) }
    }

    fn errors(&self, status: StatusCode, errors: &[QueryError], code: Code) -> Answer {
        let limits = &self.executor.limits;
        let errors = &errors[..errors.len().min(limits.max_errors)];
        let mut body = String::from("{");
        write_errors(&mut body, errors, limits.max_error_length);
        body.push('}');
        Answer { status, body, outcome: code.outcome(), allow_post: false }
    }

    async fn finish(&self, answer: Answer, media: Media, started: Instant) -> Response {
        let class = match answer.status.as_u16() {
            ..400 => "2xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let metrics = &self.executor.metrics;
        metrics.requests_total.with_label_values(&[class, answer.outcome]).inc();
        metrics.request_seconds.observe(started.elapsed().as_secs_f64());
        let patience = self.settings.http.request_timeout;
        let held = self.answers.hold(answer.body, &metrics.answers_bytes, patience).await;
        let mut response = match held {
            Some(body) => (answer.status, Body::from(body)).into_response(),
            // Nothing can be said within a budget that is used up, but that it is.
            None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if answer.allow_post {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

/// Set by browsers, and by nobody else: `cross-site` is another site's page.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|value| value == "cross-site")
}

#[cfg(test)]
mod tests;
