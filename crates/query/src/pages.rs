//! The HTML pages, from the results of the store. They run no script and name no other host, so that they work in every
//! browser, on paper, and under a strict policy. `maud` escapes all text.
//!
//! This module only writes HTML. Queries and access control are in `http`.

mod history;
mod home;
mod links;
mod marks;
mod timeline;
mod words;

use std::sync::LazyLock;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use crate::error::{Code, QueryError};

pub(crate) use self::history::{HISTORY, HistoryPage, history_variables};
pub(crate) use self::home::{SEARCH, Search, home, search_variables};
pub(crate) use self::links::package_of_path;

const STYLE: &str = include_str!("pages/style.css");

/// `Content-Security-Policy` of every page. Allows only the page's inline style sheet, the empty icon, and the search form of
/// this host.
pub(crate) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    let text = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'"
    );
    // The fallback cannot happen, because base64 is visible ASCII. It would show a page without style.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The operator's notice (`http.notice`) at the top of a page; empty without one.
pub(crate) fn notice(text: &str) -> Markup {
    html! {
        @if !text.is_empty() {
            p.notice role="note" { (text) }
        }
    }
}

/// The head of a page: style sheets of this host, then an inline style.
pub(crate) fn head(title: &str, style: &str, sheets: &[&str]) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            title { (title) }
            link rel="icon" href="data:,";
            @for sheet in sheets { link rel="stylesheet" href=(sheet); }
            style { (PreEscaped(style)) }
        }
    }
}

/// A whole page.
fn page(title: &str, own_notice: &str, with_search: bool, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title, STYLE, &[]))
            body {
                header {
                    (notice(own_notice))
                    a.home href="/" { "Publication insights" }
                    @if with_search { (search_form("")) }
                }
                main { (content) }
                footer {
                    a href="/" { "Search" } " "
                    a href="/graphiql" { "GraphiQL" } " "
                    a href="/schema.graphql" { "Schema" }
                }
            }
        }
    }
}

fn search_form(prefix: &str) -> Markup {
    html! {
        form role="search" action="/" method="get" {
            label for="prefix" { "Package name, or how it begins" }
            span.field {
                input #prefix type="search" name="prefix" value=(prefix) required maxlength="512" autocapitalize="none"
                    autocomplete="off" spellcheck="false";
                button type="submit" { "Search" }
            }
        }
    }
}

/// The page for a request that was refused with this status.
pub(crate) fn refusal(status: u16, errors: &[QueryError]) -> Markup {
    let code = errors.first().map_or(Code::Internal, QueryError::code);
    let heading = match code {
        Code::NotFound => "Not found",
        Code::Unauthenticated => "A token is needed",
        Code::RateLimited => "Too much at once",
        Code::StoreUnavailable | Code::Busy | Code::Timeout => "Not available at the moment",
        Code::Internal => "This could not be answered",
        _ => "This request was refused",
    };
    let content = html! {
        h1 { (heading) }
        @for error in errors {
            p { (error.message) }
            @if let Some(seconds) = error.extensions.retry_after {
                p { "Try again in " (seconds) " s." }
            }
        }
        @if code == Code::Unauthenticated {
            p {
                "A browser sends no token by itself. Ask with " code { "Authorization: Bearer TOKEN" }
                " from a program, or give that header in " a href="/graphiql" { "GraphiQL" } "."
            }
        }
        p.small { "Status " (status) ", " code { (code.as_str()) } }
    };
    page(heading, "", true, &content)
}
