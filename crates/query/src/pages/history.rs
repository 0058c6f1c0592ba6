//! The page of a package: its publications, newest first, as a timeline and as a table with the same data.

use maud::{Markup, html};
use model::{PackageName, PublicationId, PublishMethod, visible};
use serde_json::value::{RawValue, to_raw_value};

use super::marks::{Mark, Row, in_text};
use super::{links, page, timeline, words};
use crate::execute::{Fetched, FoundHistory, Listed};

/// The query of the page. Its variables are those of [`history_variables`].
pub(crate) const HISTORY: &str =
    "query ($name: String!, $first: Int!, $after: String) {
  publications(first: $first, after: $after, filter: {name: $name}) {
    edges {
      node {
        version
        publicationInfo {
          username created method tor torReason torSettled tfa tfaReason credential actor disputed integrity
        }
        history {
          earlier weaker newPublisher publisherLast
          strongest { version publicationInfo { method created } }
        }
      }
    }
    pageInfo { hasNextPage endCursor }
  }
}";
/// Publications on one page.
const HISTORY_ROWS: u32 = 50;

/// The variables of [`HISTORY`].
pub(crate) fn history_variables(name: &str, after: Option<&str>) -> Box<RawValue> {
    let variables = serde_json::json!({"name": name, "first": HISTORY_ROWS, "after": after});
    // Texts and numbers always serialize.
    to_raw_value(&variables).unwrap_or_default()
}

/// The data of a package's page.
pub(crate) struct HistoryPage<'a> {
    /// `http.notice`
    pub(crate) notice: &'a str,
    /// The purl type of the registry.
    pub(crate) ecosystem: &'a str,
    pub(crate) name: &'a PackageName,
    /// The variables of the query.
    pub(crate) variables: &'a RawValue,
    pub(crate) fetched: &'a Fetched,
    pub(crate) listed: &'a Listed,
}

impl HistoryPage<'_> {
    pub(crate) fn html(&self) -> Markup {
        let found_history = |id: &PublicationId| self.fetched.histories.get(id);
        let rows = self.listed.rows.iter();
        let rows: Vec<Row<'_>> = rows
            .map(|publication| Row { publication, found_history: found_history(&publication.id) })
            .collect();
        let content = html! {
            h1 { code.name { (visible(self.name.as_str())) } }
            p { "How the versions of this " (self.ecosystem) " package were published, newest first. Times are UTC." }
            @if rows.is_empty() {
                p { "There are no older ones." }
            } @else {
                (timeline::figure(&rows))
                (table(&rows))
            }
            (self.navigation())
            p.links {
                a href=(links::as_json(HISTORY, self.variables)) { "The same as JSON" } " "
                a href=(links::in_graphiql(HISTORY, Some(self.variables))) { "The same in GraphiQL" }
            }
        };
        page(
            &format!("{} · Publication insights", visible(self.name.as_str())),
            self.notice,
            true,
            &content,
        )
    }

    fn navigation(&self) -> Markup {
        let next = self.listed.next();
        html! {
            @if next.is_some() || self.listed.has_previous {
                nav aria-label="Pages" {
                    @if self.listed.has_previous {
                        a href=(links::package(self.name, None)) { "Newest publications" } " "
                    }
                    @if let Some(next) = next {
                        a rel="next" href=(links::package(self.name, Some(&next))) { "Older publications" }
                    }
                }
            }
        }
    }
}

/// The table's roles are explicit, because browsers remove them when the style sheet shows the rows as cards.
fn table(rows: &[Row<'_>]) -> Markup {
    html! {
        table role="table" {
            caption { "Publications" }
            thead role="rowgroup" {
                tr role="row" {
                    @for heading in ["Version", "Published", "By", "How", "What is known"] {
                        th role="columnheader" scope="col" { (heading) }
                    }
                }
            }
            tbody role="rowgroup" { @for row in rows { (line(row)) } }
        }
    }
}

fn line(row: &Row<'_>) -> Markup {
    let info = &row.publication.info;
    html! {
        tr role="row" {
            th role="rowheader" scope="row" { code { (visible(row.publication.id.version.as_str())) } }
            td role="cell" data-label="Published" {
                time datetime=(info.created.to_rfc3339_millis()) { (words::minute(info.created)) }
            }
            td role="cell" data-label="By" {
                @if let Some(username) = &info.username { code { (visible(username.as_str())) } } @else { "not known" }
                @if let Some(actor) = words::actor(info.actor) { " " span.small { "(" (actor) ")" } }
            }
            td role="cell" data-label="How" {
                span class={"method " (words::class(row.method()))} { (words::method(row.method())) }
            }
            td role="cell" data-label="What is known" {
                ul {
                    @for mark in row.marks() {
                        li { strong { (in_text(mark)) " " (mark.label()) } ": " (why(row, mark)) }
                    }
                    li { (words::second_factor(info)) }
                    @if !row.has(Mark::Tor) {
                        li { (words::tor(info.tor_reason)) @if !info.tor_settled { " " (UNSETTLED) } }
                    }
                    li.small { (words::credential(info.credential)) }
                    @if let Some(FoundHistory { history, .. }) = row.found_history {
                        @if let Some(last) = history.publisher_last {
                            li.small { "The same account published this package before, last on " (words::day(last)) "." }
                        }
                    }
                    @if let Some(integrity) = &info.integrity {
                        li.small { "Announced digest: " code { (visible(integrity.as_str())) } }
                    }
                }
            }
        }
    }
}

const UNSETTLED: &str = "A later list can still change this.";

/// The explanation of a mark for its row.
fn why(row: &Row<'_>, mark: Mark) -> Markup {
    match mark {
        Mark::Weaker => weaker(row),
        Mark::NewPublisher => html! {
            "no earlier publication of this package by this account is known here."
        },
        Mark::Tor => html! { (words::tor(row.publication.info.tor_reason)) },
        Mark::Disputed => html! {
            "the registry's events of this version disagree on when, by whom, or which artifact was published."
        },
    }
}

fn weaker(row: &Row<'_>) -> Markup {
    let found = row.found_history;
    let version = found.and_then(|found| found.history.strongest.as_ref());
    let info = found.and_then(|found| found.strongest.as_ref());
    html! {
        "published by a single factor"
        @if let Some(version) = version {
            ", while " code { (visible(version.as_str())) }
            @if let Some(info) = info {
                " (" (words::day(info.created)) ") was published "
                @match info.method() {
                    PublishMethod::TrustedPublisher => "by a trusted publisher",
                    _ => "with a second factor",
                }
            } @else {
                " was not"
            }
        }
        "."
    }
}
