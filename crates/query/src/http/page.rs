//! The HTML pages `/` and `/package/NAME`. They use the same path as API requests and write HTML in place of JSON.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use maud::Markup;
use model::PackageName;

use super::App;
use super::context::{Context, Media};
use super::graphql::{in_time, varied};
use super::request::pairs;
use super::response::{Refusal, answer};
use crate::error::{Code, QueryError};
use crate::execute::Executed;
use crate::pages::{self, HistoryPage, Search};

/// `GET /`; with `prefix` and `after` a search for names. The page itself needs no token, like GraphiQL and the schema.
/// A search does.
pub(super) async fn home(State(app): State<Arc<App>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let looked_for = parameters(&head.uri, "prefix");
    let context = match &looked_for {
        Ok(PageParameters { own: None, .. }) => Context::open(&head, &app, Media::Html),
        _ => Context::admitted(&head, &app, Media::Html),
    };
    let response = match context.and_then(|context| Ok((context, looked_for?))) {
        Ok((context, given)) => in_time(&app, &context, app.home(&context, &given)).await,
        Err(refusal) => refusal.into_response(),
    };
    varied(&app, response)
}

/// `GET /package/{name}`; with `after` from that cursor on.
pub(super) async fn package(State(app): State<Arc<App>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let response = match Context::admitted(&head, &app, Media::Html) {
        Ok(context) => in_time(&app, &context, app.package(&context, &head.uri)).await,
        Err(refusal) => refusal.into_response(),
    };
    varied(&app, response)
}

/// The parameters of a page's URL. Empty values count as absent.
struct PageParameters {
    own: Option<String>,
    after: Option<String>,
}

fn parameters(uri: &Uri, own: &str) -> Result<PageParameters, Refusal> {
    let pairs = pairs(uri).map_err(|error| Refusal::from(error).written_as(Media::Html))?;
    let value = |name: &str| {
        let named = pairs.iter().rev().find(|(own, _)| own == name);
        named.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    Ok(PageParameters { own: value(own), after: value("after") })
}

impl App {
    async fn home(&self, context: &Context, given: &PageParameters) -> Result<Response, Refusal> {
        let (notice, ecosystem) = (&self.settings.http.notice, &self.settings.registry.ecosystem);
        let Some(prefix) = &given.own else {
            return self.page(context, pages::home(notice, ecosystem, None), 0).await;
        };
        let after = given.after.as_deref();
        let variables = pages::search_variables(prefix, after);
        let (fetched, asked) = self.ask(context, pages::SEARCH, &variables).await?;
        let names = fetched.searches.first().map_or(&[][..], Vec::as_slice);
        let search = Search { prefix, after, names };
        self.page(context, pages::home(notice, ecosystem, Some(&search)), asked).await
    }

    async fn package(&self, context: &Context, uri: &Uri) -> Result<Response, Refusal> {
        let name = pages::package_of_path(uri.path()).ok_or_else(|| {
            let message = "the name in the URL is not percent-encoded UTF-8";
            Refusal::from(QueryError::new(Code::BadRequest, message))
        })?;
        // An invalid name has no record.
        let name = PackageName::new(&name).map_err(|_| unknown())?;
        let after = parameters(uri, "")?.after;
        let variables = pages::history_variables(name.as_str(), after.as_deref());
        let (fetched, asked) = self.ask(context, pages::HISTORY, &variables).await?;
        let listed = fetched.pages.first().ok_or_else(unknown)?;
        if listed.rows.is_empty() && after.is_none() {
            return Err(unknown());
        }
        let page = HistoryPage {
            notice: &self.settings.http.notice,
            ecosystem: &self.settings.registry.ecosystem,
            name: &name,
            variables: &variables,
            fetched: &fetched,
            listed,
        };
        self.page(context, page.html(), asked).await
    }

    /// The response for a page. Pages have histories or searches, so they are never settled.
    async fn page(&self, context: &Context, page: Markup, asked: u64) -> Result<Response, Refusal> {
        let body = page.into_string().into_bytes();
        if body.len() as u64 > self.settings.limits.max_answer.as_u64() {
            return Err(Refusal::from(self.executor.too_long()));
        }
        let executed = Executed { body, is_partial: false, asked, is_settled: false };
        answer(self, context, executed, None).await
    }
}

fn unknown() -> Refusal {
    let message =
        "No publication of a package of this name is known. Upper and lower case are different.";
    Refusal::from(QueryError::new(Code::NotFound, message))
}
