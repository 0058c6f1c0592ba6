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
use crate::admission::{Place, Work};
use crate::document::{self, Prepared};
use crate::error::{Code, QueryError};
use crate::execute::{Executed, Fetched, Plan};

/// A planned request. The document is no longer needed, and its text only for an introspection.
struct Planned<'a> {
    plan: Plan,
    work: Work<'a>,
    scans: bool,
    introspection: Option<Introspection>,
}

/// What an introspection needs when its answer is written. The document itself is looked up again then: many that wait would
/// take 64 times the memory of their texts, which `place` counts if the client sent them.
struct Introspection {
    text: Arc<str>,
    operation_name: Option<String>,
    _place: Option<Place>,
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
        let (parameters, place) = if context.is_get {
            let parameters = Parameters::from_pairs(&pairs(&head.uri)?)?;
            // A short URL is included in the memory of its connection.
            let place = match head.uri.query().map_or(0, str::len) {
                0..=SHORT_HEAD => None,
                bytes => Some(self.counted(context, bytes as u64).await?),
            };
            (parameters, place)
        } else {
            let (text, place) = body(self, context, &head.headers, request_body).await?;
            (Parameters::from_body(&text)?, Some(place))
        };
        // The rest of the request waits with its parameters alone.
        drop(head);
        let planned = self.planned(context, parameters, place).await?;
        let (executed, writing) = self.run(context, planned).await?;
        respond(self, context, executed, writing).await
    }

    /// Counts bytes that have arrived already, in the share of the client; at most as many as a body may have, which always fit.
    async fn counted(&self, context: &Context, bytes: u64) -> Result<Place, Refusal> {
        let bytes = bytes.min(self.executor.limits.max_body.as_u64());
        let mut place = self.admission.body(context.client, bytes);
        match place.grow(bytes).await.and_then(|()| place.arrived()) {
            Ok(()) => Ok(place),
            Err(_) => Err(Refusal::busy()),
        }
    }

    /// Validates and plans a request. `place` counts the parameters.
    async fn planned<'a>(
        &'a self,
        context: &Context,
        parameters: Parameters,
        place: Option<Place>,
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
        let estimate = estimate(&text, variables).min(most);
        // The document is not held during the wait for permits, because the cache may forget it, and nothing counts it then; and
        // no permit is held while it is validated again.
        let (document, work) = loop {
            let scans = match known {
                Some(document) => document.scans,
                None => self.document(context, &text, name).await?.scans,
            };
            let work = self.admission.work(estimate, scans).await;
            known = self.documents.get(&text);
            if let Some(document) = &known {
                break (document.clone(), work);
            }
        };
        if let Some(hash) = persisted {
            self.persisted.insert(hash, &text);
        }
        let plan = self.executor.plan(&document, name, variables)?;
        let introspection =
            plan.meta.is_some().then_some(Introspection { text, operation_name, _place: place });
        let scans = document.scans;
        Ok(Planned { plan, work, scans, introspection })
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
        let mut planned = self.planned(context, parameters, None).await?;
        let fetched = self.fetch(context, &mut planned).await?;
        Ok((fetched, planned.plan.asked))
    }

    /// Reads the rows and writes the answer. Returns it with the permit to hold it until it is counted.
    async fn run(
        &self,
        context: &Context,
        mut planned: Planned<'_>,
    ) -> Result<(Executed, Option<SemaphorePermit<'_>>), Refusal> {
        let fetched = self.fetch(context, &mut planned).await?;
        let Planned { plan, work: _work, introspection, .. } = planned;
        let name = introspection.as_ref().and_then(|own| own.operation_name.as_deref());
        // As in `planned`: the permit is not held while the document is validated again.
        let (document, writing) = loop {
            let writing = self.admission.writing(plan.values).await;
            let Some(Introspection { text, .. }) = &introspection else { break (None, writing) };
            if let Some(document) = self.documents.get(text) {
                break (Some((document, name)), writing);
            }
            drop(writing);
            self.document(context, text, name).await?;
        };
        Ok((self.executor.answer(document, &plan, &fetched)?, writing))
    }

    /// Reads the rows. Charges the client and waits for the permit for so many publications.
    async fn fetch<'a>(
        &'a self,
        context: &Context,
        planned: &mut Planned<'a>,
    ) -> Result<Fetched, Refusal> {
        let asked = planned.plan.asked;
        // The request itself was charged one already.
        self.access.charge(context.client, asked.saturating_sub(1))?;
        let work = std::mem::take(&mut planned.work);
        planned.work = self.admission.work_exactly(work, asked, planned.scans).await;
        let mut read = self.access.rows_read(context.client);
        Ok(self.executor.fetch(&planned.plan, &self.admission, &mut read.rows).await?)
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
        let _permit = self.admission.validation(text.len()).await;
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

/// About how many publications a request asks for, before it is planned. Never much too few: a list of n variables has n - 1
/// commas, and a publication in the document has at least one string.
fn estimate(text: &str, variables: Option<&RawValue>) -> u64 {
    let count = |text: &str, byte| text.bytes().filter(|own| *own == byte).count() as u64;
    1 + count(text, b'"') / 2 + variables.map_or(0, |own| count(own.get(), b','))
}
