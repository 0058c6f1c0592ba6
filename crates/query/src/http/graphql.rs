//! `/graphql`: from a request's parameters to its answer. The pages use the same functions.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use service::connection::SHORT_HEAD;
use tokio::sync::SemaphorePermit;

use super::App;
use super::context::Context;
use super::persisted::{self, Hash};
use super::request::{Parameters, body, pairs};
use super::response::{Refusal, answer as respond, vary};
use crate::admission::{Reservation, Work};
use crate::document::{self, Prepared};
use crate::error::{Code, QueryError};
use crate::execute::{Executed, Fetched, Plan};

/// A planned request. The document is no longer needed, and its text only for an introspection.
struct Planned<'a> {
    plan: Plan,
    /// The permits for as many publications as the plan asks for.
    _work: Work<'a>,
    introspection: Option<Introspection>,
}

/// What an introspection needs when its answer is written. The document itself is looked up again then: many that wait would
/// take 64 times the memory of their texts, which `reservation` counts if the client sent them.
struct Introspection {
    text: Arc<str>,
    operation_name: Option<String>,
    _reservation: Option<Reservation>,
}

/// `GET` and `POST /graphql`
pub(super) async fn answer(
    State(app): State<Arc<App>>,
    context: Result<Context, Refusal>,
    request: Request,
) -> Response {
    let response = match context {
        Ok(context) => in_time(&app, &context, app.answer(&context, request)).await,
        Err(refusal) => refusal.into_response(),
    };
    varied(&app, response)
}

/// Adds `Vary`: the request headers that the answer depends on.
pub(super) fn varied(app: &App, mut response: Response) -> Response {
    response.headers_mut().append(header::VARY, vary(app));
    response
}

/// Runs `answer` within `http.request_timeout`, including the wait for buffer space.
pub(super) async fn in_time(
    app: &App,
    context: &Context,
    answer: impl Future<Output = Result<Response, Refusal>>,
) -> Response {
    let answered = tokio::time::timeout_at(context.until, answer).await;
    let refused = match answered {
        Ok(Ok(response)) => return response,
        Ok(Err(refusal)) => refusal,
        Err(_) => {
            let timeout = app.settings.http.request_timeout;
            let message = format!("not answered within {timeout:?} (http.request_timeout)");
            QueryError::new(Code::Timeout, message).retry_after(1).into()
        }
    };
    refused.of(app, context).into_response()
}

impl App {
    async fn answer(&self, context: &Context, request: Request) -> Result<Response, Refusal> {
        let (head, request_body) = request.into_parts();
        let (parameters, reservation) = if context.is_get {
            let parameters = Parameters::from_pairs(&pairs(&head.uri)?)?;
            // A short URL is included in the memory of its connection.
            let reservation = match head.uri.query().map_or(0, str::len) {
                0..=SHORT_HEAD => None,
                bytes => Some(self.counted(context, bytes as u64).await?),
            };
            (parameters, reservation)
        } else {
            let (text, reservation) = body(self, context, &head.headers, request_body).await?;
            (Parameters::from_body(&text)?, Some(reservation))
        };
        // The rest of the request waits with its parameters alone.
        drop(head);
        let planned = self.planned(context, parameters, reservation).await?;
        let (executed, writing) = self.run(context, planned).await?;
        respond(self, context, executed, writing).await
    }

    /// Counts bytes that have arrived already, in the share of the client; at most as many as a body may have, which always fit.
    async fn counted(&self, context: &Context, bytes: u64) -> Result<Reservation, Refusal> {
        let bytes = bytes.min(self.executor.limits.max_body.as_u64());
        let mut reservation = self.admission.body(context.client, bytes);
        match reservation.grow(bytes).await.and_then(|()| reservation.complete()) {
            Ok(()) => Ok(reservation),
            Err(_) => Err(Refusal::busy()),
        }
    }

    /// Validates and plans a request. `reservation` counts the parameters.
    async fn planned<'a>(
        &'a self,
        context: &Context,
        parameters: Parameters,
        reservation: Option<Reservation>,
    ) -> Result<Planned<'a>, Refusal> {
        let Parameters { query, operation_name, variables, persisted } = parameters;
        let (name, variables) = (operation_name.as_deref(), variables.as_deref());
        let text = self.text(query, persisted.as_ref())?;
        let mut known = self.documents.get(&text);
        let result = if known.is_some() { "hit" } else { "miss" };
        let lookups = &self.executor.metrics.document_cache_lookups_total;
        lookups.with_label_values(&[result]).inc();
        // More are refused when the request is planned.
        let most = u64::from(self.executor.limits.max_refs);
        let mut wanted = estimate(&text, variables).min(most);
        // Neither the document nor a plan is held during the wait for permits: nothing counts a plan, and the cache may forget the
        // document. No permit is held while a document is validated again.
        let (plan, work) = loop {
            let scans = match known {
                Some(document) => document.scans,
                None => self.document(context, &text, name).await?.scans,
            };
            let work = self.admission.of(context.client).work(wanted, scans).await;
            known = self.documents.get(&text);
            let Some(document) = &known else { continue };
            let plan = self.executor.plan(document, name, variables)?;
            wanted = plan.asked;
            if let Some(work) = self.admission.exactly(work, wanted) {
                break (plan, work);
            }
        };
        if let Some(hash) = persisted {
            self.persisted.insert(hash, &text);
        }
        let introspection = plan.meta.is_some().then_some(Introspection {
            text,
            operation_name,
            _reservation: reservation,
        });
        Ok(Planned { plan, _work: work, introspection })
    }

    /// Runs a query of this service's own. Returns the rows and the number of publications asked for.
    pub(super) async fn ask(
        &self,
        context: &Context,
        query: &str,
        variables: &RawValue,
    ) -> Result<(Fetched, u64), Refusal> {
        let variables = Some(variables.to_owned());
        let parameters = Parameters { query: query.to_owned(), variables, ..Parameters::default() };
        let planned = self.planned(context, parameters, None).await?;
        let fetched = self.fetch(context, &planned.plan).await?;
        Ok((fetched, planned.plan.asked))
    }

    /// Reads the rows and writes the answer. Returns it with the permit to hold it until it is counted.
    async fn run(
        &self,
        context: &Context,
        planned: Planned<'_>,
    ) -> Result<(Executed, Option<SemaphorePermit<'_>>), Refusal> {
        let Planned { plan, _work, introspection } = planned;
        let fetched = self.fetch(context, &plan).await?;
        let name = introspection.as_ref().and_then(|own| own.operation_name.as_deref());
        // As in `planned`: the permit is not held while the document is validated again.
        let (document, writing) = loop {
            let writing = self.admission.of(context.client).writing(plan.values).await;
            let Some(Introspection { text, .. }) = &introspection else { break (None, writing) };
            if let Some(document) = self.documents.get(text) {
                break (Some((document, name)), writing);
            }
            drop(writing);
            self.document(context, text, name).await?;
        };
        Ok((self.executor.answer(document, &plan, &fetched)?, writing))
    }

    /// Charges the client and reads the rows.
    async fn fetch(&self, context: &Context, plan: &Plan) -> Result<Fetched, Refusal> {
        // The request itself was charged one already.
        self.access.charge(context.client, plan.asked.saturating_sub(1))?;
        let mut read = self.access.rows_read(context.client);
        Ok(self.executor.fetch(plan, self.admission.of(context.client), &mut read.rows).await?)
    }

    /// The text of the document: sent by the client, or cached under its hash.
    fn text(&self, sent: String, hash: Option<&Hash>) -> Result<Arc<str>, QueryError> {
        match hash {
            Some(hash) if sent.is_empty() => {
                let found = self.persisted.find(hash);
                let result = if found.is_ok() { "hit" } else { "miss" };
                let lookups = &self.executor.metrics.persisted_query_lookups_total;
                lookups.with_label_values(&[result]).inc();
                found
            }
            Some(hash) => persisted::check(hash, &sent).map(|()| sent.into()),
            None => Ok(sent.into()),
        }
    }

    /// The validated document for a text, from the cache where possible.
    async fn document(
        &self,
        context: &Context,
        text: &str,
        operation_name: Option<&str>,
    ) -> Result<Arc<Prepared>, Refusal> {
        if let Some(document) = self.documents.get(text) {
            return Ok(document);
        }
        document::check_length(&self.executor.limits, text)?;
        let _permit = self.admission.of(context.client).validation(text.len()).await;
        // Another request may have validated it meanwhile.
        if let Some(document) = self.documents.get(text) {
            return Ok(document);
        }
        let (schema, limits) = (&self.executor.schema, &self.executor.limits);
        let document = document::prepare(schema, limits, text, context.is_get, operation_name)
            .map_err(|errors| {
                let refusal = Refusal::from(errors);
                match refusal.code() {
                    Code::MethodNotAllowed => {
                        refusal.with(header::ALLOW, HeaderValue::from_static("POST"))
                    }
                    _ => refusal,
                }
            })?;
        self.documents.insert(text.into(), document.clone(), document::weight(text.len()));
        Ok(document)
    }
}

/// About how many publications a request asks for, before it is planned. Rarely too few: a list of n variables has n - 1
/// commas, and a publication in the document has at least one string or one variable.
fn estimate(text: &str, variables: Option<&RawValue>) -> u64 {
    let count = |text: &str, byte| text.bytes().filter(|own| *own == byte).count() as u64;
    let in_document = count(text, b'"') / 2 + count(text, b'$');
    1 + in_document + variables.map_or(0, |own| count(own.get(), b','))
}
