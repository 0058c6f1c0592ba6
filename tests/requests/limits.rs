//! Requests exactly at a limit, which are answered, and one over it, which are refused.

use serde_json::json;

use crate::document::{Document, Maker, literal};
use crate::expect::{Field, Page, Root, Selection};
use crate::http::Http;
use crate::request::{Request, Want, headers, parameters, send};
use crate::rows::Row;
use crate::settings::Settings;
use crate::{index, one_in};

/// A selection of only `__typename`, under this key.
fn one(key: &str) -> Selection {
    let name = "__typename".to_owned();
    Selection::from([(key.to_owned(), Field { name, of: Selection::new() })])
}

fn typename(key: &str) -> (String, Root, Selection) {
    (key.to_owned(), Root::Typename, Selection::new())
}

/// A document with only `__typename`.
fn plain(text: String) -> Document {
    Document { text, roots: vec![typename("__typename")], ..Document::default() }
}

fn refs(row: &Row, count: usize) -> (serde_json::Value, Root) {
    let id = (row.name.clone(), row.version.clone());
    let refs = vec![json!({"name": id.0, "version": id.1}); count];
    (json!(refs), Root::Packages(vec![Some(id); count]))
}

/// A document for `count` publications.
fn max_refs(row: &Row, count: usize) -> Document {
    let (refs, packages) = refs(row, count - 1);
    let (name, version) = (literal(&json!(row.name)), literal(&json!(row.version)));
    let text = format!(
        "query($refs: [PackageRef!]!) {{ a: packages(refs: $refs) {{ __typename }} \
         b: package(name: {name}, version: {version}) {{ __typename }} }}"
    );
    let package = Root::Package(Some((row.name.clone(), row.version.clone())));
    let roots = [("a", packages), ("b", package)];
    let roots = roots.map(|(key, root)| (key.to_owned(), root, one("__typename")));
    let variables = [("refs".to_owned(), refs)].into_iter().collect();
    Document { text, variables, roots: roots.into() }
}

/// A document with `count` pages, or searches.
fn max_pages(search: bool, count: usize) -> Document {
    let mut document = Document::default();
    for number in 0..count {
        let key = format!("k{number}");
        let (call, root) = if search {
            let root = Root::Search { prefix: "p".to_owned(), first: 1, after: None };
            ("search(prefix: \"p\", first: 1)", root)
        } else {
            let page = Page { first: 1, ..Page::default() };
            ("publications(first: 1) { __typename }", Root::Publications(page))
        };
        document.text.push_str(&format!("{key}: {call} "));
        document.roots.push((key, root, one("__typename")));
    }
    document.text = format!("{{ {} }}", document.text);
    document
}

/// A document of `length` bytes.
fn max_document(length: usize) -> Document {
    let mut text = "{ __typename }#".to_owned();
    let rest = length - text.len();
    text.push_str(&"é".repeat(rest / 2));
    text.push_str(&"x".repeat(rest % 2));
    plain(text)
}

/// A document whose answer has `length` bytes, because of its long response keys.
fn max_answer(row: &Row, length: usize) -> Document {
    const COUNT: usize = 190;
    let key = "k".repeat((length - 200) / COUNT - 15);
    let items = vec![format!("{{\"{key}\":\"Package\"}}"); COUNT].join(",");
    let short = format!("{{\"data\":{{\"a\":[{items}],\"\":\"Query\"}}}}").len();
    let pad = "p".repeat(length - short);
    let (refs, packages) = refs(row, COUNT);
    let text = format!(
        "query($refs: [PackageRef!]!) {{ a: packages(refs: $refs) {{ {key}: __typename }} {pad}: __typename }}"
    );
    let roots = vec![("a".to_owned(), packages, one(&key)), typename(&pad)];
    Document { text, variables: [("refs".to_owned(), refs)].into_iter().collect(), roots }
}

/// A document with `count` units of a document limit.
fn of_documents(limit: &str, count: usize) -> Document {
    plain(match limit {
        "limits.max_depth" => {
            format!("{}{{ __typename{}", "{ ...".repeat(count - 1), " }".repeat(count))
        }
        // Tokens: brace, name, brace, commas.
        "limits.max_tokens" => format!("{{__typename{}}}", ",".repeat(count - 3)),
        "limits.max_definitions" => {
            let all = |each: fn(usize) -> String| (1..count).map(each).collect::<String>();
            let spreads = all(|number| format!(" ...G{number}"));
            let fragments = all(|number| format!(" fragment G{number} on Query {{ __typename }}"));
            format!("{{{spreads} }}{fragments}")
        }
        // Each spread counts as ten selections, with its fragment.
        _ => format!(
            "{{ {} {} }} fragment G on Query {{ {} }}",
            "...G ".repeat(count / 10),
            "__typename ".repeat(count % 10),
            "__typename ".repeat(9),
        ),
    })
}

/// A request at a limit, or one over it.
pub(crate) fn limit(maker: &mut Maker<'_>) -> Request {
    let Settings { max_refs: refs, max_pages: pages, max_body, max_answer: answer, .. } =
        *maker.settings;
    let (more, search) = (index(maker.random, 2), one_in(maker.random, 2));
    let limits = [
        ("limits.max_refs", refs),
        ("limits.max_pages", pages),
        ("limits.max_depth", maker.settings.max_depth),
        ("limits.max_tokens", maker.settings.max_tokens),
        ("limits.max_definitions", maker.settings.max_definitions),
        ("limits.max_selections", maker.settings.max_selections),
        ("limits.max_document", maker.settings.max_document),
        ("limits.max_body", max_body),
        ("limits.max_answer", answer),
    ];
    let (limit, maximum) = limits[index(maker.random, limits.len())];
    let count = maximum + more;
    let document = match limit {
        "limits.max_refs" => max_refs(maker.row(), count),
        "limits.max_pages" => max_pages(search, count),
        "limits.max_document" => max_document(count),
        "limits.max_body" => plain("{ __typename }".to_owned()),
        // A row that exists from the beginning.
        "limits.max_answer" => max_answer(&maker.table.all[0], count),
        of_documents => self::of_documents(of_documents, count),
    };
    let given = parameters(&document);
    let want = if more == 1 {
        let status = (limit == "limits.max_body").then_some(413);
        Want::Refusal { codes: &["LIMIT_EXCEEDED"], status, limit: Some((limit, maximum)) }
    } else {
        Want::Rows(document)
    };
    if limit != "limits.max_body" {
        return send(maker.random, maker.settings, given, want);
    }
    let (mut headers, newer) = headers(maker.random, maker.settings);
    headers.push(("content-type", "application/json".to_owned()));
    let mut body = serde_json::Value::Object(given).to_string().into_bytes();
    body.resize(count, b' ');
    let chunked = one_in(maker.random, 2);
    let http = Http { method: "POST", path: "/graphql".to_owned(), headers, body, chunked };
    Request { http, want, newer, pause: None }
}
