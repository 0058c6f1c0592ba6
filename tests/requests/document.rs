//! Random documents from the schema, each with its expected answer.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::{Map, Value, json};

use crate::expect::{Field, Filter, Key, Page, Root, Selection, merge, purl};
use crate::random::Random;
use crate::rows::{Row, Table};
use crate::settings::Settings;
use crate::{index, one_in, pick};

/// The cursor of each row, as the daemon returned it.
pub(crate) type Cursors = Mutex<HashMap<Key, String>>;

/// The parameters of a request, and the expected fields by response key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    pub(crate) text: String,
    pub(crate) variables: Map<String, Value>,
    pub(crate) roots: Vec<(String, Root, Selection)>,
}

pub(crate) struct Maker<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) table: &'a Table,
    pub(crate) settings: &'a Settings,
    pub(crate) cursors: &'a Cursors,
    declared: Vec<String>,
    variables: Map<String, Value>,
    fragments: Vec<String>,
}

const PACKAGE: [&str; 7] =
    ["id", "name", "version", "purl", "publicationInfo", "history", "__typename"];
const INFO: [&str; 13] = [
    "username",
    "created",
    "tor",
    "tfa",
    "method",
    "torReason",
    "torSettled",
    "tfaReason",
    "credential",
    "actor",
    "disputed",
    "integrity",
    "__typename",
];
const HISTORY: [&str; 6] =
    ["earlier", "strongest", "weaker", "newPublisher", "publisherLast", "__typename"];

/// The fields of a type.
fn fields(of: &str) -> &'static [&'static str] {
    match of {
        "Package" => &PACKAGE,
        "PublicationInfo" => &INFO,
        "History" => &HISTORY,
        "EarlierPublication" => &["version", "publicationInfo", "__typename"],
        "PublicationConnection" => &["edges", "pageInfo", "__typename"],
        "PublicationEdge" => &["cursor", "node", "__typename"],
        "PageInfo" => &["hasNextPage", "hasPreviousPage", "startCursor", "endCursor", "__typename"],
        _ => &["ecosystem", "hosts", "__typename"],
    }
}

fn type_of(field: &str) -> Option<&'static str> {
    Some(match field {
        "publicationInfo" => "PublicationInfo",
        "history" => "History",
        "strongest" => "EarlierPublication",
        "edges" => "PublicationEdge",
        "node" => "Package",
        "pageInfo" => "PageInfo",
        _ => return None,
    })
}

impl<'a> Maker<'a> {
    pub(crate) fn new(
        random: &'a mut Random,
        table: &'a Table,
        settings: &'a Settings,
        cursors: &'a Cursors,
    ) -> Self {
        Self {
            random,
            table,
            settings,
            cursors,
            declared: Vec::new(),
            variables: Map::new(),
            fragments: Vec::new(),
        }
    }

    /// A valid document within all limits, except sometimes that of histories.
    pub(crate) fn document(&mut self) -> Document {
        let (mut parts, mut roots) = (Vec::new(), Vec::new());
        let (mut asked, mut pages, mut searches) = (0, 0, 0);
        for number in 0..=index(self.random, 3) {
            let kind = index(self.random, 9);
            let room = self.settings.max_refs - asked;
            let fits = match kind {
                3..=5 => pages < self.settings.max_pages,
                6 => searches < self.settings.max_pages,
                _ => true,
            };
            if room == 0 || !fits {
                continue;
            }
            let (call, root, count) = self.root(kind, room.min(100));
            asked += count;
            pages += usize::from((3..=5).contains(&kind));
            searches += usize::from(kind == 6);
            let key = format!("r{number}");
            let of = match root {
                Root::Package(_) | Root::Packages(_) => "Package",
                Root::Publications(_) => "PublicationConnection",
                Root::Registry => "Registry",
                Root::Search { .. } | Root::Typename => "",
            };
            let (text, selection) = if of.is_empty() {
                (String::new(), Selection::new())
            } else {
                self.object(of, if of == "Package" { 3 } else { 5 })
            };
            let text = if call.starts_with("node(") {
                format!(" {{ __typename ... on Package {text} }}")
            } else {
                text
            };
            let selection =
                if call.starts_with("node(") { with_typename(selection) } else { selection };
            let (directive, stays) = self.directive();
            parts.push(format!("{key}: {call}{directive} {text}"));
            if stays {
                roots.push((key, root, selection));
            }
        }
        parts.push("__typename".to_owned());
        roots.push(("__typename".to_owned(), Root::Typename, Selection::new()));
        self.finished(&parts.join(" "), roots)
    }

    /// The operation with these selections and the variables declared for them.
    pub(crate) fn finished(
        &mut self,
        selections: &str,
        roots: Vec<(String, Root, Selection)>,
    ) -> Document {
        let head = match self.declared.join(", ") {
            none if none.is_empty() => pick(self.random, &["", "query "]).to_owned(),
            declared => format!("query Q({declared}) "),
        };
        let text = format!("{head}{{ {selections} }} {}", self.fragments.join(" "));
        (self.declared, self.fragments) = (Vec::new(), Vec::new());
        Document { text, variables: std::mem::take(&mut self.variables), roots }
    }

    /// A root field with its arguments, its expected value, and the number of publications that it counts.
    fn root(&mut self, kind: usize, most: usize) -> (String, Root, usize) {
        match kind {
            0 => {
                let (name, version) = self.id();
                let call = format!(
                    "package(name: {}, version: {})",
                    self.value("String!", json!(name)),
                    self.value("String!", json!(version)),
                );
                (call, Root::Package(Some((name, version))), 1)
            }
            1 => {
                let ids: Vec<_> = (0..index(self.random, most + 1)).map(|_| self.id()).collect();
                let refs = ids
                    .iter()
                    .map(|(name, version)| json!({"name": name, "version": version}))
                    .collect();
                let call = format!("packages(refs: {})", self.value("[PackageRef!]!", refs));
                let count = ids.len();
                (call, Root::Packages(ids.into_iter().map(Some).collect()), count)
            }
            2 => self.by_purl(most),
            3..=5 => {
                let page = self.page(most);
                let first = page.first;
                (self.publications(&page), Root::Publications(page), first)
            }
            6 => self.search(most),
            7 => {
                let (name, version) = self.id();
                let own = purl(&name, &version);
                let canonical = !one_in(self.random, 4);
                let id = if canonical { own } else { format!("{own}?a=b") };
                (
                    format!("node(id: {})", self.value("ID!", json!(id))),
                    Root::Package(canonical.then_some((name, version))),
                    1,
                )
            }
            _ => ("registry".to_owned(), Root::Registry, 0),
        }
    }

    fn by_purl(&mut self, most: usize) -> (String, Root, usize) {
        let (mut purls, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..index(self.random, most.min(80) + 1) {
            let (name, version) = self.id();
            let own = purl(&name, &version);
            let (text, is_known) = match self.random.below(8) {
                0 => (format!("{own}?vcs_url=x"), false),
                1 => (format!("{own}?repository_url=https://registry.example#x"), true),
                2 => (format!("{own}?repository_url=other.example"), false),
                3 => (own.replacen("pkg:npm", "pkg:pypi", 1), false),
                4 => (own.replacen("pkg:npm", "PKG:NPM", 1), true),
                5 => (format!("pkg:npm/{}", encoded_name(&name)), false),
                _ => (own, true),
            };
            purls.push(text);
            ids.push(is_known.then_some((name, version)));
        }
        let count = purls.len();
        (
            format!("packagesByPurl(purls: {})", self.value("[String!]!", json!(purls))),
            Root::Packages(ids),
            count,
        )
    }

    fn search(&mut self, most: usize) -> (String, Root, usize) {
        let row = self.row();
        let cut = 1 + index(self.random, 4);
        let prefix: String = row.name.chars().take(cut).collect();
        let after = one_in(self.random, 3).then(|| self.row().name.clone());
        let first = 1 + index(self.random, most);
        let mut call =
            format!("search(prefix: {}, first: {first}", self.value("String!", json!(prefix)));
        if let Some(after) = &after {
            call.push_str(&format!(", after: {}", self.value("String", json!(after))));
        }
        (call + ")", Root::Search { prefix, first, after }, first)
    }

    /// A page of at most `most` rows, sometimes after a known cursor.
    pub(crate) fn page(&mut self, most: usize) -> Page {
        let known: Vec<Key> = self.cursors.lock().expect("no panic").keys().cloned().collect();
        let mut sorted = known;
        sorted.sort();
        let after = (!sorted.is_empty() && one_in(self.random, 2))
            .then(|| sorted[index(self.random, sorted.len())].clone());
        Page {
            first: 1 + index(self.random, most),
            after,
            oldest_first: one_in(self.random, 2),
            filter: self.filter(),
        }
    }

    pub(crate) fn filter(&mut self) -> Filter {
        let row = self.row().clone();
        let flag = |random: &mut Random| {
            one_in(random, 5).then(|| pick(random, &[Some(true), Some(false), None]))
        };
        Filter {
            name: one_in(self.random, 4).then(|| row.name.clone()),
            username: row.username.filter(|_| one_in(self.random, 5)).map(str::to_owned),
            tor: flag(self.random),
            tfa: flag(self.random),
            disputed: one_in(self.random, 6).then(|| one_in(self.random, 2)),
            after: one_in(self.random, 5).then(|| row.created.clone()),
            before: one_in(self.random, 5).then(|| self.row().created.clone()),
        }
    }

    /// The field with its arguments.
    pub(crate) fn publications(&mut self, page: &Page) -> String {
        let mut call = format!("publications(first: {}", self.value("Int!", json!(page.first)));
        if let Some(after) = &page.after {
            let cursor = self.cursors.lock().expect("no panic")[after].clone();
            call.push_str(&format!(", after: {}", self.value("String", json!(cursor))));
        }
        if page.oldest_first {
            call.push_str(", order: OLDEST_FIRST");
        } else if one_in(self.random, 3) {
            call.push_str(", order: NEWEST_FIRST");
        }
        let filter = &page.filter;
        let flag = |flag: Option<bool>| match flag {
            Some(true) => "YES",
            Some(false) => "NO",
            None => "UNKNOWN",
        };
        let (tor, tfa) = (filter.tor.map(flag), filter.tfa.map(flag));
        let mut given = json!({
            "name": filter.name, "username": filter.username, "tor": tor, "tfa": tfa,
            "disputed": filter.disputed, "createdAfter": filter.after, "createdBefore": filter.before,
        });
        // A missing value and null mean the same.
        if let Some(parts) = given.as_object_mut().filter(|_| one_in(self.random, 2)) {
            parts.retain(|_, value| !value.is_null());
        }
        call.push_str(&format!(", filter: {}", self.value("PublicationFilter", given)));
        call + ")"
    }

    /// The name and version of a publication that may exist.
    fn id(&mut self) -> (String, String) {
        let (row, wrong) = (self.row().clone(), one_in(self.random, 8));
        let version = if wrong { format!("{}.0", row.version) } else { row.version };
        (row.name, version)
    }

    pub(crate) fn row(&mut self) -> &'a Row {
        let table = self.table;
        &table.all[index(self.random, table.all.len())]
    }

    /// The value as a literal or as a variable.
    fn value(&mut self, ty: &str, value: Value) -> String {
        let is_long = value.as_array().is_some_and(|list| list.len() > 20);
        if !is_long && one_in(self.random, 2) {
            return literal(&value);
        }
        let name = format!("v{}", self.declared.len());
        self.declared.push(format!("${name}: {ty}"));
        self.variables.insert(name.clone(), value);
        format!("${name}")
    }

    /// A directive or nothing, and whether the selection is included.
    fn directive(&mut self) -> (String, bool) {
        if !one_in(self.random, 6) {
            return (String::new(), true);
        }
        let (value, skips) = (one_in(self.random, 2), one_in(self.random, 2));
        let condition = self.value("Boolean!", json!(value));
        (format!(" @{}(if: {condition})", if skips { "skip" } else { "include" }), value != skips)
    }

    /// The selection set of an object, with braces.
    pub(crate) fn object(&mut self, of: &'static str, depth: usize) -> (String, Selection) {
        let (mut text, mut selection) = (String::new(), Selection::new());
        for _ in 0..=index(self.random, 3) {
            let (mut part, mut selected) = (String::new(), Selection::new());
            for _ in 0..=index(self.random, 3) {
                let name = pick(self.random, fields(of));
                let inner = type_of(name);
                if inner.is_some() && depth == 0 {
                    continue;
                }
                let key =
                    if one_in(self.random, 4) { format!("x_{name}") } else { name.to_owned() };
                let (sub, chosen) = match inner {
                    Some(inner) => self.object(inner, depth - 1),
                    None => Default::default(),
                };
                let (directive, stays) = self.directive();
                let alias = if key == name { String::new() } else { format!("{key}: ") };
                part.push_str(&format!("{alias}{name}{directive} {sub} "));
                if stays {
                    merge(
                        &mut selected,
                        Selection::from([(key, Field { name: name.to_owned(), of: chosen })]),
                    );
                }
            }
            if part.is_empty() {
                part.push_str("__typename ");
                selected.insert(
                    "__typename".to_owned(),
                    Field { name: "__typename".to_owned(), of: Selection::new() },
                );
            }
            let form = self.random.below(4);
            let (directive, stays) =
                if form < 3 { self.directive() } else { (String::new(), true) };
            match form {
                0 => {
                    text.push_str(&format!("... on {of}{directive} {{ {part} }} "));
                }
                1 => {
                    text.push_str(&format!("...{directive} {{ {part} }} "));
                }
                2 => {
                    let name = format!("F{}", self.fragments.len());
                    self.fragments.push(format!("fragment {name} on {of} {{ {part} }}"));
                    text.push_str(&format!("...{name}{directive} "));
                }
                _ => {
                    text.push_str(&part);
                }
            }
            if stays {
                merge(&mut selection, selected);
            }
        }
        (format!("{{ {text} }}"), selection)
    }
}

fn with_typename(mut selection: Selection) -> Selection {
    selection.insert(
        "__typename".to_owned(),
        Field { name: "__typename".to_owned(), of: Selection::new() },
    );
    selection
}

fn encoded_name(name: &str) -> String {
    purl(name, "").trim_start_matches("pkg:npm/").trim_end_matches('@').to_owned()
}

/// A value in GraphQL syntax. In a filter, some words in capitals are enumeration values.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| match value {
                Value::String(word) if ["tor", "tfa"].contains(&name.as_str()) => {
                    format!("{name}: {word}")
                }
                value => format!("{name}: {}", literal(value)),
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether an answer is the expected one. Adds its cursors to `seen`; a cursor must not belong to another row.
pub(crate) fn compare(
    expected: &Value,
    answer: &Value,
    known: &HashMap<Key, String>,
    seen: &mut Vec<(Key, String)>,
) -> bool {
    if let Some(key) = expected.get("the cursor of") {
        let key: Key = serde_json::from_value(key.clone()).expect("written by this run");
        let Some(text) = answer.as_str() else { return false };
        let fits = match known.get(&key) {
            Some(own) => own == text,
            None => known.values().all(|own| own != text),
        };
        seen.push((key, text.to_owned()));
        return fits;
    }
    match (expected, answer) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| compare(a, b, known, seen))
        }
        (Value::Object(a), Value::Object(b)) => {
            let mut fields = a.iter();
            a.len() == b.len()
                && fields.all(|(key, a)| b.get(key).is_some_and(|b| compare(a, b, known, seen)))
        }
        (a, b) => a == b,
    }
}
