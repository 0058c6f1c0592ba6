//! Checks whether an answer is right, or an allowed refusal.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::document::{Cursors, Document, compare};
use crate::expect::{Key, Page, Tables, method, millis};
use crate::http::Answer;
use crate::request::{Request, Want};
use crate::rows::{Row, Table};
use crate::settings::{PASSWORD, Settings, TOKEN};

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
    /// Refused as expected.
    Refused,
    /// Not answered, which is allowed during a fault.
    Away,
}

/// The state of the run while a request was answered.
#[derive(Debug)]
pub(crate) struct Moment {
    /// The states that the table may have been in.
    pub(crate) states: RangeInclusive<usize>,
    /// Whether there was no fault, so that every request must be answered.
    pub(crate) well: bool,
}

/// The data for a check.
pub(crate) struct Check<'a> {
    pub(crate) table: &'a Table,
    pub(crate) settings: &'a Settings,
    pub(crate) cursors: &'a Cursors,
}

/// Codes whose status depends on the media type.
const BY_MEDIA: [&str; 7] = [
    "GRAPHQL_PARSE_FAILED",
    "GRAPHQL_VALIDATION_FAILED",
    "BAD_USER_INPUT",
    "OPERATION_RESOLUTION_FAILURE",
    "LIMIT_EXCEEDED",
    "PERSISTED_QUERY_NOT_FOUND",
    "PERSISTED_QUERY_NOT_SUPPORTED",
];
/// Temporary errors, all with status 503.
const PASSING: [&str; 3] = ["STORE_UNAVAILABLE", "TIMEOUT", "BUSY"];

impl Check<'_> {
    /// Checks an answer.
    pub(crate) fn check(
        &self,
        request: &Request,
        answer: &Answer,
        moment: &Moment,
    ) -> Result<Outcome, String> {
        let wrong = |what: String| {
            let short: String = answer.body.chars().take(700).collect();
            Err(format!("{what}\n  answer: {} {:?} {short}", answer.status, answer.headers))
        };
        if [PASSWORD, TOKEN, "postgres", "sqlite"].iter().any(|secret| answer.body.contains(secret))
        {
            return wrong("the answer says what it must not".to_owned());
        }
        if answer.header("x-request-id").is_none() && answer.status != 431 {
            return wrong("no x-request-id".to_owned());
        }
        let is_html = answer.header("content-type") == Some("text/html; charset=utf-8");
        if is_html {
            return self.html(request, answer, moment).or_else(wrong);
        }
        let Ok(body) = serde_json::from_str::<Value>(&answer.body) else {
            return wrong("no JSON".to_owned());
        };
        match (body.get("data"), body.get("errors")) {
            (Some(data), None) => self.answer(request, answer, data, moment).or_else(wrong),
            (None, Some(errors)) => {
                self.refusal(request, answer, &errors[0]["extensions"], moment).or_else(wrong)
            }
            _ => wrong("neither data alone nor errors alone".to_owned()),
        }
    }

    fn answer(
        &self,
        request: &Request,
        answer: &Answer,
        data: &Value,
        moment: &Moment,
    ) -> Result<Outcome, String> {
        let (Want::Rows(document) | Want::Kept(document)) = &request.want else {
            return Err("answered and not refused".to_owned());
        };
        let media =
            if request.newer { "application/graphql-response+json" } else { "application/json" };
        let is_typed = answer.header("content-type").is_some_and(|own| own.starts_with(media));
        let is_tagged = (request.http.method == "GET") == answer.header("etag").is_some();
        if answer.status != 200 || !is_typed || !is_tagged {
            return Err(format!("not 200, not of the type {media}, or its tag is wrong"));
        }
        self.data(document, data, &moment.states)
    }

    /// Checks a refusal. `error` has the extensions of its first error.
    fn refusal(
        &self,
        request: &Request,
        answer: &Answer,
        error: &Value,
        moment: &Moment,
    ) -> Result<Outcome, String> {
        let code = error["code"].as_str().unwrap_or_default();
        let is_of_head = answer.status == 431;
        if answer.header("cache-control") != Some("no-store") && !is_of_head {
            return Err("a refusal that may be kept".to_owned());
        }
        let limit = error["limit"].as_str();
        if PASSING.contains(&code) && answer.status == 503 {
            // The length of an answer is only known after the store was asked.
            let asks_the_store = match &request.want {
                Want::Refusal { limit, .. } => {
                    limit.is_some_and(|(limit, _)| limit == "limits.max_answer")
                }
                _ => true,
            };
            let may = !moment.well && asks_the_store;
            return may
                .then_some(Outcome::Away)
                .ok_or_else(|| "refused while all is well".to_owned());
        }
        let (is_expected, status) = match &request.want {
            Want::Refusal { codes, status, limit: own } => {
                let named = own
                    .is_none_or(|(own, maximum)| limit == Some(own) && error["maximum"] == maximum);
                (codes.contains(&code) && named, *status)
            }
            Want::Kept(_) if self.settings.no_persisted => {
                (code == "PERSISTED_QUERY_NOT_SUPPORTED", None)
            }
            Want::Kept(_) if code == "PERSISTED_QUERY_NOT_FOUND" => (true, None),
            Want::Rows(document) | Want::Kept(document) => {
                let over =
                    limit == Some("limits.max_history") && self.history(document, &moment.states).0;
                (code == "LIMIT_EXCEEDED" && over, None)
            }
            Want::History(_) => (false, None),
        };
        let by_media = BY_MEDIA.contains(&code).then_some(if request.newer { 400 } else { 200 });
        // A URL that is too long may be refused as a URL or as a head.
        if !is_expected || !is_of_head && status.or(by_media) != Some(answer.status) {
            return Err("refused without a reason, or with another status".to_owned());
        }
        Ok(Outcome::Refused)
    }

    /// Each root field is one statement, and its histories another. Each may have seen another state.
    fn data(
        &self,
        document: &Document,
        data: &Value,
        states: &RangeInclusive<usize>,
    ) -> Result<Outcome, String> {
        if data.as_object().is_none_or(|data| data.len() != document.roots.len()) {
            return Err("other keys than were asked for".to_owned());
        }
        let mut known = self.cursors.lock().expect("no panic");
        for (key, root, of) in &document.roots {
            let Some(own) = data.get(key) else { return Err(format!("no {key}")) };
            let fitting = pairs(states).filter_map(|(found, history)| {
                let tables = Tables::new(self.table.rows(found), self.table.rows(history));
                let mut seen = Vec::new();
                compare(&tables.root(root, of), own, &known, &mut seen).then_some(seen)
            });
            let fitting: Vec<Vec<(Key, String)>> = fitting.collect();
            if fitting.is_empty() {
                let tables =
                    Tables::new(self.table.rows(*states.start()), self.table.rows(*states.start()));
                return Err(format!(
                    "{key} is wrong in every state of {states:?}; in the first it is {}\n  asked: {}\n  with {}",
                    tables.root(root, of),
                    document.text,
                    Value::Object(document.variables.clone())
                ));
            }
            // If the data fits several states with different cursors, the rows of the cursors are not known.
            if fitting.iter().all(|seen| *seen == fitting[0]) {
                known.extend(fitting.into_iter().flatten());
            }
        }
        drop(known);
        if !self.history(document, states).1 {
            return Err("more rows of history than allowed".to_owned());
        }
        Ok(Outcome::Right)
    }

    /// Whether the rows read for the document's histories may be over the limit, and whether they may be within it.
    fn history(&self, document: &Document, states: &RangeInclusive<usize>) -> (bool, bool) {
        let is_over = |(found, history)| {
            let tables = Tables::new(self.table.rows(found), self.table.rows(history));
            for (_, root, of) in &document.roots {
                tables.root(root, of);
            }
            tables.history_rows() > self.settings.max_history
        };
        (pairs(states).any(is_over), !pairs(states).all(is_over))
    }

    fn html(&self, request: &Request, answer: &Answer, moment: &Moment) -> Result<Outcome, String> {
        let Want::History(page) = &request.want else { return Err("a page for people".to_owned()) };
        let Moment { states, well } = moment;
        let over = |state: usize| {
            let rows = self.table.rows(state);
            rows.iter().filter(|row| Some(&row.name) == page.filter.name.as_ref()).count()
                > self.settings.max_history
        };
        let has = |code: &str| answer.body.contains(&format!("<code>{code}</code>"));
        match answer.status {
            200 => {
                let is_right = |state| is_page(&answer.body, page, self.table.rows(state));
                let fits = states.clone().any(is_right);
                let what = || format!("the page of {page:?} is wrong");
                fits.then_some(Outcome::Right).ok_or_else(what)
            }
            404 if has("NOT_FOUND")
                && page.after.is_none()
                && page.of(self.table.rows(*states.start())).0.is_empty() =>
            {
                Ok(Outcome::Refused)
            }
            400 if has("LIMIT_EXCEEDED") && states.clone().any(over) => Ok(Outcome::Refused),
            503 if PASSING.iter().any(|code| has(code)) && !well => Ok(Outcome::Away),
            _ => Err(format!("the page of {:?} is refused", page.filter.name)),
        }
    }
}

/// Pairs of the state for the rows and the same or a later state for their histories.
fn pairs(states: &RangeInclusive<usize>) -> impl Iterator<Item = (usize, usize)> {
    let until = *states.end();
    states.clone().flat_map(move |found| (found..=until).map(move |history| (found, history)))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Whether a page shows these rows in order, and links to the next page if there are more.
fn is_page(html: &str, page: &Page, rows: &[Row]) -> bool {
    let (rows, more) = page.of(rows);
    let shown: Vec<&str> = html.split("<th role=\"rowheader\" scope=\"row\">").skip(1).collect();
    let is_line = |(line, row): (&&str, &&Row)| {
        let how = match method(row) {
            "SECOND_FACTOR" => "With a second factor",
            "TRUSTED_PUBLISHER" => "By a trusted publisher",
            "SINGLE_FACTOR" => "By a single factor",
            _ => "Not known how",
        };
        let by = row
            .username
            .map_or("not known".to_owned(), |name| format!("<code>{}</code>", escaped(name)));
        line.starts_with(&format!("<code>{}</code>", escaped(&row.version)))
            && line.contains(&format!("datetime=\"{}\"", millis(&row.created)))
            && line.contains(how)
            && line.contains(&format!("data-label=\"By\">{by}"))
    };
    // The first page of an unknown package is 404.
    (page.after.is_some() || !rows.is_empty())
        && shown.len() == rows.len()
        && shown.iter().zip(&rows).all(is_line)
        && more == html.contains("rel=\"next\"")
}
