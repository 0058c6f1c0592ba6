//! The first page: introduction, search for packages, example, links.

use maud::{Markup, html};
use model::{PackageName, visible};
use serde_json::value::{RawValue, to_raw_value};

use super::{links, page, search_form};

/// The query of the search. Its variables are those of [`search_variables`].
pub(crate) const SEARCH: &str = "query ($prefix: String!, $first: Int!, $after: String) {
  search(prefix: $prefix, first: $first, after: $after)
}";
/// The example query of the page.
const EXAMPLE: &str = r#"# null means that it was not determined.
query {
  package(name: "pg", version: "7.12.0") {
    publicationInfo { username tor tfa torReason tfaReason }
  }
}
"#;
/// Names on one page of the search.
const SEARCH_NAMES: usize = 20;

/// A search and its results.
pub(crate) struct Search<'a> {
    /// The prefix of the names.
    pub(crate) prefix: &'a str,
    /// The last name of the previous page.
    pub(crate) after: Option<&'a str>,
    /// At most [`SEARCH_NAMES`].
    pub(crate) names: &'a [PackageName],
}

/// The variables of [`SEARCH`].
pub(crate) fn search_variables(prefix: &str, after: Option<&str>) -> Box<RawValue> {
    let variables = serde_json::json!({"prefix": prefix, "first": SEARCH_NAMES, "after": after});
    // Texts and numbers always serialize.
    to_raw_value(&variables).unwrap_or_default()
}

/// The first page, with the results of the search when the request has one. `ecosystem`: the purl type of the registry.
pub(crate) fn home(notice: &str, ecosystem: &str, search: Option<&Search<'_>>) -> Markup {
    let prefix = search.map_or("", |search| search.prefix);
    let content = html! {
        @if let Some(search) = search {
            h1 { "Packages that begin with " code.name { (visible(prefix)) } }
            (search_form(prefix))
            (search.html())
        } @else {
            h1 { "How was this version published?" }
            p.lead {
                "Who published a package version, when, with a second factor, by a trusted publisher or neither, and "
                "whether the publisher's address was a Tor exit at that time. Each with its reason, and with “not "
                "known” where it is not known. This service has the publications of one registry: "
                code { (ecosystem) } "."
            }
            (search_form(""))
            (example())
            (onward())
        }
    };
    let title = if search.is_some() {
        format!("{} · Search · Publication insights", visible(prefix))
    } else {
        "Publication insights".to_owned()
    };
    page(&title, notice, false, &content)
}

impl Search<'_> {
    fn html(&self) -> Markup {
        let next = self.names.last().filter(|_| self.names.len() >= SEARCH_NAMES);
        html! {
            @if self.names.is_empty() {
                p { "There is none" @if self.after.is_some() { " more" } ". Upper and lower case are different." }
            } @else {
                ul.names {
                    @for name in self.names {
                        li { a.name href=(links::package(name, None)) { (visible(name.as_str())) } }
                    }
                }
            }
            @if let Some(last) = next {
                @let prefix = links::value(self.prefix);
                p { a rel="next" href={"/?prefix=" (prefix) "&after=" (links::value(last.as_str()))} { "More names" } }
            }
        }
    }
}

fn example() -> Markup {
    html! {
        h2 { "For example" }
        p { "Was " code { "pg" } " 7.12.0 published over Tor, and with a second factor?" }
        pre { code { (EXAMPLE) } }
        p {
            a href=(links::in_graphiql(EXAMPLE, None)) { "Run it in GraphiQL" } ", or see "
            a href="/package/pg" { "all versions of pg" } " as a page."
        }
    }
}

fn onward() -> Markup {
    html! {
        h2 { "Where to go on" }
        ul {
            li { a href="/graphiql" { "GraphiQL" } " writes, explains and runs queries. The service itself is at "
                code { "/graphql" } "." }
            li { a href="/schema.graphql" { "The schema" } " describes every field and every limit." }
            li { code { "publication-audit --url URL" } " asks about every package of a lockfile at once; "
                code { "URL" } " is the address of this page." }
        }
    }
}
