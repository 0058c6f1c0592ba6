//! The clients.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::wait_until;

use crate::check::{Check, Moment, Outcome};
use crate::counts::count;
use crate::document::{Cursors, Maker};
use crate::expect::{Field, Key, Root, Selection, key};
use crate::http::{Http, PATIENCE, connect};
use crate::limits::limit;
use crate::random::Random;
use crate::request::{Request, Want, page, send, valid};
use crate::rows::Table;
use crate::run::witness;
use crate::settings::Settings;
use crate::wrong::wrong;
use crate::{index, one_in};

/// The promise is an answer within a second; the rest is for a busy machine.
const WITNESS: Duration = Duration::from_secs(6);
/// How long a refused page of a walk is retried.
const WALK: Duration = Duration::from_secs(60);

pub(crate) struct Clients {
    pub(crate) table: Arc<Table>,
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) settings: Settings,
    pub(crate) http: String,
    pub(crate) epoch: Arc<AtomicU64>,
    /// Number of requests so far.
    pub(crate) made: AtomicU64,
}

impl Clients {
    /// Sends a request and checks its answer. With `strict` it must be answered, unless a fault has begun.
    pub(crate) fn once(&self, request: &Request, strict: bool) -> Result<Outcome, String> {
        self.answered(request, strict).map(|(outcome, _)| outcome)
    }

    fn answered(
        &self,
        request: &Request,
        strict: bool,
    ) -> Result<(Outcome, crate::http::Answer), String> {
        let (from, epoch) = (self.table.there(), self.epoch.load(Ordering::SeqCst));
        let answer = request.http.send(&self.http, request.pause);
        let states = from..=self.table.under_way();
        let well = strict && epoch % 2 == 0 && self.epoch.load(Ordering::SeqCst) == epoch;
        let told = || {
            let Http { method, path, headers, body, .. } = &request.http;
            let body: String = String::from_utf8_lossy(body).chars().take(2_000).collect();
            let path: String = path.chars().take(2_000).collect();
            format!("  request: {method} {path} {headers:?} {body}")
        };
        let answer = answer.map_err(|error| format!("no answer: {error}\n{}", told()))?;
        let check = Check { table: &self.table, settings: &self.settings, cursors: &self.cursors };
        let outcome = check
            .check(request, &answer, &Moment { states, well })
            .map_err(|what| format!("{what}\n{}", told()))?;
        Ok((outcome, answer))
    }

    /// Repeats one request until `over` is set.
    pub(crate) fn witness(&self, over: &AtomicBool) -> Result<(), String> {
        let request = witness(&self.table, &self.settings);
        while !over.load(Ordering::SeqCst) {
            let (began, epoch) = (Instant::now(), self.epoch.load(Ordering::SeqCst));
            self.once(&request, true)?;
            let well = epoch % 2 == 0 && self.epoch.load(Ordering::SeqCst) == epoch;
            if well && began.elapsed() > WITNESS {
                return Err(format!("the witness waited {:?}", began.elapsed()));
            }
            count("the witness's requests");
            let next = Instant::now() + Duration::from_millis(10);
            wait_until("the next question's time", PATIENCE, || Instant::now() >= next);
        }
        Ok(())
    }

    /// Sends random requests until `over` is set.
    pub(crate) fn ask(&self, random: &mut Random, over: &AtomicBool) -> Result<(), String> {
        while !over.load(Ordering::SeqCst) {
            let kind = random.below(16);
            if kind == 0 {
                self.walk(random, over)?;
                count("walks");
            } else if kind == 1 {
                self.broken(random);
                count("broken connections");
            } else {
                let (request, what) = {
                    let mut maker = Maker::new(random, &self.table, &self.settings, &self.cursors);
                    match kind {
                        2 | 3 => (wrong(maker.random, &self.settings), "wrong requests"),
                        4 | 5 => (limit(&mut maker), "requests at and over a limit"),
                        6 => (page(&mut maker), "pages"),
                        _ => (valid(&mut maker), "documents"),
                    }
                };
                let (outcome, answer) = self.answered(&request, true)?;
                count(if outcome == Outcome::Away { "refused meanwhile" } else { what });
                if let Some(tag) =
                    answer.header("etag").filter(|_| outcome == Outcome::Right && one_in(random, 2))
                {
                    self.revalidate(&request, tag)?;
                }
            }
            self.made.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Repeats the request with `If-None-Match`.
    fn revalidate(&self, request: &Request, tag: &str) -> Result<(), String> {
        let mut conditional = request.clone();
        conditional.http.headers.push(("if-none-match", format!("\"x\", W/{tag}")));
        let (before, epoch) = (self.table.there(), self.epoch.load(Ordering::SeqCst));
        let answer = conditional
            .http
            .send(&self.http, None)
            .map_err(|error| format!("no answer: {error}"))?;
        let unchanged = self.table.under_way() == before
            && epoch % 2 == 0
            && self.epoch.load(Ordering::SeqCst) == epoch;
        match answer.status {
            304 if answer.body.is_empty() && answer.header("etag") == Some(tag) => {
                count("not modified");
                Ok(())
            }
            304 => Err(format!("304 with another tag: {answer:?}")),
            // A row may have been added in between.
            status if unchanged && !self.settings.growing => {
                Err(format!("{status} and not 304 of what is there:\n{request:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Reads all pages of a listing: each row that existed at the beginning must come exactly once.
    fn walk(&self, random: &mut Random, over: &AtomicBool) -> Result<(), String> {
        let from = self.table.there();
        let mut maker = Maker::new(random, &self.table, &self.settings, &self.cursors);
        let mut page = crate::expect::Page {
            filter: maker.filter(),
            after: None,
            first: 0,
            oldest_first: one_in(maker.random, 2),
        };
        let least = self.table.all.len() / 25 + 1;
        page.first = (least + index(maker.random, 100)).min(100);
        let (mut seen, began): (Vec<Key>, _) = (Vec::new(), Instant::now());
        loop {
            let mut maker = Maker::new(random, &self.table, &self.settings, &self.cursors);
            let request = step(&mut maker, &page);
            let (outcome, answer) = self.answered(&request, true)?;
            if outcome == Outcome::Away {
                if over.load(Ordering::SeqCst) || began.elapsed() > WALK {
                    return Ok(());
                }
                continue;
            }
            let body: Value =
                serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
            let listed = &body["data"]["p"];
            for edge in listed["edges"].as_array().into_iter().flatten() {
                let node = &edge["node"];
                let row = self
                    .table
                    .all
                    .iter()
                    .find(|row| node["name"] == row.name && node["version"] == row.version);
                seen.push(key(row.ok_or("a row that nobody put in")?));
            }
            if listed["pageInfo"]["hasNextPage"] != true {
                break;
            }
            page.after = seen.last().cloned();
        }
        let in_order = seen
            .windows(2)
            .all(|two| if page.oldest_first { two[0] < two[1] } else { two[0] > two[1] });
        let there = self.table.rows(from).iter().filter(|row| page.filter.passes(row)).map(key);
        let missing: Vec<Key> = there.filter(|key| !seen.contains(key)).collect();
        if in_order && missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "a walk of {page:?} skipped {missing:?}, or is out of order ({in_order}): {seen:?}"
        ))
    }

    /// A connection that is closed early, or sends something that is not HTTP.
    fn broken(&self, random: &mut Random) {
        let whole = witness(&self.table, &self.settings).http.bytes(&self.http);
        let Ok(mut stream) = connect(&self.http) else { return };
        let bytes = match random.below(4) {
            0 => Vec::new(),
            1 => whole[..index(random, whole.len())].to_vec(),
            2 => whole,
            _ => (0..200).map(|_| u8::try_from(random.below(256)).unwrap_or_default()).collect(),
        };
        // The answer is not read.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// The request for a page of a walk.
fn step(maker: &mut Maker<'_>, page: &crate::expect::Page) -> Request {
    const OF: &str =
        "{ edges { cursor node { name version } } pageInfo { hasNextPage endCursor } }";
    let leaf =
        |name: &str| (name.to_owned(), Field { name: name.to_owned(), of: Selection::new() });
    let field = |name: &str, of: Vec<(String, Field)>| {
        (name.to_owned(), Field { name: name.to_owned(), of: of.into_iter().collect() })
    };
    let of = [
        field("edges", vec![leaf("cursor"), field("node", vec![leaf("name"), leaf("version")])]),
        field("pageInfo", vec![leaf("hasNextPage"), leaf("endCursor")]),
    ];
    let call = maker.publications(page);
    let document = maker.finished(
        &format!("p: {call} {OF}"),
        vec![("p".to_owned(), Root::Publications(page.clone()), of.into())],
    );
    let given = json!({"query": document.text, "variables": document.variables});
    send(
        maker.random,
        maker.settings,
        given.as_object().cloned().unwrap_or_default(),
        Want::Rows(document),
    )
}
