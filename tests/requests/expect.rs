//! The expected answers, derived only from the inserted rows and the client's guide.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::rows::Row;

/// Selected fields by response key, with the field's name and its selections.
pub(crate) type Selection = BTreeMap<String, Field>;

#[derive(Debug, Clone, Default)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) of: Selection,
}

/// Merges selections of the same object. Fields with the same key are one field.
pub(crate) fn merge(into: &mut Selection, more: Selection) {
    for (key, field) in more {
        let own =
            into.entry(key).or_insert_with(|| Field { name: field.name, of: Selection::new() });
        merge(&mut own.of, field.of);
    }
}

/// A field of `Query` with its arguments.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Package(Option<(String, String)>),
    Packages(Vec<Option<(String, String)>>),
    Publications(Page),
    Search { prefix: String, first: usize, after: Option<String> },
    Registry,
    Typename,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    pub(crate) first: usize,
    pub(crate) after: Option<Key>,
    pub(crate) oldest_first: bool,
    pub(crate) filter: Filter,
}

/// The sort key of a row in `publications`.
pub(crate) type Key = (String, String, String);

#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) name: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) tor: Option<Option<bool>>,
    pub(crate) tfa: Option<Option<bool>>,
    pub(crate) disputed: Option<bool>,
    pub(crate) after: Option<String>,
    pub(crate) before: Option<String>,
}

impl Filter {
    pub(crate) fn passes(&self, row: &Row) -> bool {
        self.name.as_ref().is_none_or(|name| row.name == *name)
            && self.username.as_ref().is_none_or(|name| row.username == Some(name))
            && self.tor.is_none_or(|tor| row.tor.0 == tor)
            && self.tfa.is_none_or(|tfa| row.tfa.0 == tfa)
            && self.disputed.is_none_or(|disputed| row.disputed == disputed)
            && self.after.as_ref().is_none_or(|time| row.created > *time)
            && self.before.as_ref().is_none_or(|time| row.created < *time)
    }
}

pub(crate) fn key(row: &Row) -> Key {
    (row.created.clone(), row.name.clone(), row.version.clone())
}

impl Page {
    /// The rows of the page in order, and whether more rows follow.
    pub(crate) fn of<'r>(&self, rows: &'r [Row]) -> (Vec<&'r Row>, bool) {
        let is_behind = |row: &Row| {
            let against = self.after.as_ref().map(|after| key(row).cmp(after));
            against.is_none_or(|order| {
                order == if self.oldest_first { Ordering::Greater } else { Ordering::Less }
            })
        };
        let mut found: Vec<&Row> =
            rows.iter().filter(|row| self.filter.passes(row) && is_behind(row)).collect();
        found.sort_by_key(|row| key(row));
        if !self.oldest_first {
            found.reverse();
        }
        let more = found.len() > self.first;
        found.truncate(self.first);
        (found, more)
    }
}

/// A placeholder for a row's cursor, which only the daemon can write.
pub(crate) fn cursor(row: &Row) -> Value {
    json!({"the cursor of": key(row)})
}

pub(crate) fn purl(name: &str, version: &str) -> String {
    let encoded = |text: &str| -> String {
        text.bytes()
            .map(|byte| {
                let plain = byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
                if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            })
            .collect()
    };
    let name: Vec<String> = name.split('/').map(encoded).collect();
    format!("pkg:npm/{}@{}", name.join("/"), encoded(version))
}

/// A time in the format of `created`.
pub(crate) fn millis(created: &str) -> String {
    format!("{}Z", &created[..23])
}

pub(crate) fn method(row: &Row) -> &'static str {
    match (row.tfa.0, row.credential) {
        (Some(true), _) => "SECOND_FACTOR",
        (_, "oidc") => "TRUSTED_PUBLISHER",
        (Some(false), _) => "SINGLE_FACTOR",
        _ => "UNKNOWN",
    }
}

fn is_strong(row: &Row) -> bool {
    ["SECOND_FACTOR", "TRUSTED_PUBLISHER"].contains(&method(row))
}

/// A possible state of the table: its rows when rows were looked up, and when histories were read.
pub(crate) struct Tables<'r> {
    pub(crate) found: &'r [Row],
    pub(crate) history: &'r [Row],
    /// The packages whose histories were selected.
    pub(crate) with_history: RefCell<BTreeSet<String>>,
}

impl<'r> Tables<'r> {
    pub(crate) fn new(found: &'r [Row], history: &'r [Row]) -> Self {
        Self { found, history, with_history: RefCell::default() }
    }

    /// The value of a root field.
    pub(crate) fn root(&self, root: &Root, of: &Selection) -> Value {
        let one = |id: &Option<(String, String)>| {
            let (name, version) = id.as_ref()?;
            self.found.iter().find(|row| row.name == *name && row.version == *version)
        };
        let package = |row: Option<&Row>| row.map_or(Value::Null, |row| self.package(row, of));
        match root {
            Root::Package(id) => package(one(id)),
            Root::Packages(ids) => ids.iter().map(|id| package(one(id))).collect(),
            Root::Publications(page) => self.connection(page, of),
            Root::Search { prefix, first, after } => {
                let names: BTreeSet<&String> = self.found.iter().map(|row| &row.name).collect();
                let fits = |name: &&&String| {
                    name.starts_with(prefix.as_str())
                        && after.as_ref().is_none_or(|own| *name > &own)
                };
                names.iter().filter(fits).take(*first).map(|name| json!(name)).collect()
            }
            Root::Registry => object(of, |field| match field {
                "ecosystem" => json!("npm"),
                "hosts" => json!(["registry.example"]),
                _ => json!("Registry"),
            }),
            Root::Typename => json!("Query"),
        }
    }

    fn connection(&self, page: &Page, of: &Selection) -> Value {
        let (rows, more) = page.of(self.found);
        object_of(of, |name, of| match name {
            "edges" => rows
                .iter()
                .map(|row| {
                    object_of(of, |name, of| match name {
                        "cursor" => cursor(row),
                        "node" => self.package(row, of),
                        _ => json!("PublicationEdge"),
                    })
                })
                .collect(),
            "pageInfo" => object(of, |name| match name {
                "hasNextPage" => json!(more),
                "hasPreviousPage" => json!(page.after.is_some()),
                "startCursor" => rows.first().map_or(Value::Null, |row| cursor(row)),
                "endCursor" => rows.last().map_or(Value::Null, |row| cursor(row)),
                _ => json!("PageInfo"),
            }),
            _ => json!("PublicationConnection"),
        })
    }

    fn package(&self, row: &Row, of: &Selection) -> Value {
        object_of(of, |name, of| match name {
            "id" | "purl" => json!(purl(&row.name, &row.version)),
            "name" => json!(row.name),
            "version" => json!(row.version),
            "publicationInfo" => info(row, of),
            "history" => self.history(row, of),
            _ => json!("Package"),
        })
    }

    /// "Compares a publication with those of the same name that precede it".
    fn history(&self, own: &Row, of: &Selection) -> Value {
        self.with_history.borrow_mut().insert(own.name.clone());
        let earlier: Vec<&Row> = self
            .history
            .iter()
            .filter(|row| row.name == own.name && row.created < own.created)
            .collect();
        let preceding: Vec<&&Row> =
            earlier.iter().filter(|row| precedes(&row.version, &own.version)).collect();
        let latest = |fits: &dyn Fn(&Row) -> bool| {
            let fitting = preceding.iter().filter(|row| fits(row));
            fitting.max_by_key(|row| (&row.created, &row.version)).copied()
        };
        let strongest =
            latest(&is_strong).or_else(|| latest(&|row| method(row) == "SINGLE_FACTOR"));
        let by_same =
            earlier.iter().filter(|row| own.username.is_some() && row.username == own.username);
        let last = by_same.map(|row| &row.created).max();
        let unsure = own.username.is_none()
            || earlier.is_empty()
            || earlier.iter().any(|row| row.username.is_none());
        object_of(of, |name, of| match name {
            "earlier" => json!(preceding.len()),
            "strongest" => strongest.map_or(Value::Null, |row| {
                object_of(of, |name, of| match name {
                    "version" => json!(row.version),
                    "publicationInfo" => info(row, of),
                    _ => json!("EarlierPublication"),
                })
            }),
            "weaker" => match (method(own), strongest) {
                ("UNKNOWN", _) | (_, None) => Value::Null,
                (own, Some(row)) => json!(own == "SINGLE_FACTOR" && is_strong(row)),
            },
            "newPublisher" if last.is_some() => json!(false),
            "newPublisher" => {
                if unsure {
                    Value::Null
                } else {
                    json!(true)
                }
            }
            "publisherLast" => json!(last.map(|created| millis(created))),
            _ => json!("History"),
        })
    }

    /// The number of rows that were read for the histories.
    pub(crate) fn history_rows(&self) -> usize {
        let names = self.with_history.borrow();
        self.history.iter().filter(|row| names.contains(&row.name)).count()
    }
}

fn info(row: &Row, of: &Selection) -> Value {
    object(of, |name| match name {
        "username" => json!(row.username),
        "created" => json!(millis(&row.created)),
        "tor" => json!(row.tor.0),
        "tfa" => json!(row.tfa.0),
        "method" => json!(method(row)),
        "torReason" => json!(row.tor.1.to_uppercase()),
        "torSettled" => json!(row.settled),
        "tfaReason" => json!(row.tfa.1.to_uppercase()),
        "credential" => json!(row.credential.to_uppercase()),
        "actor" => json!(row.actor.to_uppercase()),
        "disputed" => json!(row.disputed),
        "integrity" => json!(row.integrity),
        _ => json!("PublicationInfo"),
    })
}

fn object(of: &Selection, value: impl Fn(&str) -> Value) -> Value {
    object_of(of, |name, _| value(name))
}

fn object_of(of: &Selection, value: impl Fn(&str, &Selection) -> Value) -> Value {
    let fields = of.iter().map(|(key, field)| (key.clone(), value(&field.name, &field.of)));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Parses a SemVer 2.0.0 version: its numbers and the identifiers of its prerelease.
fn semver(version: &str) -> Option<(Vec<u64>, Vec<&str>)> {
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        text.parse::<u64>().ok().filter(|_| plain)
    };
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let (rest, build) =
        version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let core: Option<Vec<u64>> = core.split('.').map(number).collect();
    let pre: Vec<&str> = pre.map_or(Vec::new(), |pre| pre.split('.').collect());
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_valid =
        pre.iter().all(|word| is_word(word) && (!is_digits(word) || number(word).is_some()))
            && build.is_none_or(|build| build.split('.').all(is_word));
    core.filter(|core| core.len() == 3 && is_valid).map(|core| (core, pre))
}

/// Whether `earlier` may precede `later` by version.
fn precedes(earlier: &str, later: &str) -> bool {
    let is_prerelease = |version| semver(version).is_some_and(|(_, pre)| !pre.is_empty());
    if is_prerelease(earlier) != is_prerelease(later) {
        return false;
    }
    let (Some((a, a_pre)), Some((b, b_pre))) = (semver(earlier), semver(later)) else {
        return true;
    };
    let words = |pre: &[&str]| -> Vec<(bool, u64, String)> {
        pre.iter()
            .map(|word| match word.parse::<u64>() {
                Ok(number) => (false, number, String::new()),
                Err(_) => (true, 0, (*word).to_owned()),
            })
            .collect()
    };
    (a, words(&a_pre)) < (b, words(&b_pre))
}
