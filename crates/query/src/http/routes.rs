//! The routes of the public listener, and the layers around them: request id, CORS, metrics, access log, panics.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use super::App;
use super::head::media_of_refusal;
use super::response::{Outcome, Refusal};
use super::{graphiql, graphql, page};
use crate::error::{Code, QueryError};

/// The header with the request id that a client or proxy assigned. The answer repeats it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Long enough for a UUID or a trace id, too short for other text.
const LONGEST_ID: usize = 64;

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/graphql", get(graphql::answer).post(graphql::answer))
        .route("/schema.graphql", get(schema))
        .route("/", get(page::home))
        .route("/package/{*name}", get(page::package))
        .route("/graphiql", get(graphiql::page))
        .route("/graphiql/{file}", get(graphiql::file))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    let observed = from_fn_with_state(app.clone(), observe);
    let panics = CatchPanicLayer::custom(panicked);
    // All in one call, because axum boxes what each call wraps, and copies all boxes for every request. The first is the outermost.
    let routes = match app.access.origins.layer() {
        Some(origins) => routes.layer((observed, origins, panics)),
        None => routes.layer((observed, panics)),
    };
    routes.with_state(app)
}

async fn schema(State(app): State<Arc<App>>) -> Response {
    // Plain text, so that a browser displays it.
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (headers, app.executor.schema.text.clone()).into_response()
}

async fn not_found(headers: HeaderMap) -> Refusal {
    let message = "there is nothing here; GraphQL is at /graphql, a page for people at /";
    Refusal::from(QueryError::new(Code::NotFound, message)).written_as(media_of_refusal(&headers))
}

async fn method_not_allowed(headers: HeaderMap) -> Refusal {
    let error = QueryError::new(Code::MethodNotAllowed, "this path does not have that method");
    Refusal::from(error).written_as(media_of_refusal(&headers))
}

#[expect(clippy::needless_pass_by_value, reason = "as the layer hands it over")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without a text"), "a request has panicked");
    let message = "the request could not be answered; the server's log says why";
    Refusal::from(QueryError::new(Code::Internal, message)).into_response()
}

/// Gives every response an id, and counts and logs those with an [`Outcome`]: all except the files of GraphiQL and the schema.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (method, started) = (request.method().clone(), Instant::now());
    let id = request_id(request.headers());
    let mut response = next.run(request).await;
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response.headers_mut().insert(REQUEST_ID, id.clone());
    let Some(Outcome { outcome, keys, client }) = response.extensions().get().cloned() else {
        return response;
    };
    let status = response.status();
    let class = match status.as_u16() {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let metrics = &app.executor.metrics;
    metrics.requests_total.with_label_values(&[class, outcome]).inc();
    let seconds = started.elapsed().as_secs_f64();
    metrics.request_seconds.with_label_values(&[outcome]).observe(seconds);
    if app.settings.http.access_log {
        // The log line has no document, variable or address.
        tracing::info!(
            target: "access",
            request_id = id.to_str().unwrap_or_default(),
            method = method.as_str(),
            status = status.as_u16(),
            outcome,
            keys,
            bytes = response.body().size_hint().exact(),
            milliseconds = (seconds * 1e6).round() / 1e3,
            client = client.and_then(|client| app.access.tokens.name(client)).as_deref(),
            "request"
        );
    }
    response
}

/// The request's id: the client's, or a new one instead of none or of one with unusual characters or length, which could forge
/// log lines.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let own = headers.get(REQUEST_ID);
    let own = own.filter(|id| (1..=LONGEST_ID).contains(&id.len()));
    own.filter(|id| id.as_bytes().iter().all(is_plain)).cloned().unwrap_or_else(|| {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        // A UUID has only letters, digits and hyphens.
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
    })
}
