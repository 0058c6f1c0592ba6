//! Compares this executor with apollo-compiler's, over generated documents: both must write the same bytes.

use apollo_compiler::resolvers::{Execution, FieldError, ObjectValue, ResolveInfo, ResolvedValue};
use apollo_compiler::response::{JsonMap, JsonValue};
use model::{Publication, Purl};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::document::prepare;
use crate::testing::{executor, rows, run};

struct Query;
struct Package(Publication);
struct Info(Publication);
struct Connection {
    rows: Vec<Publication>,
    first: usize,
}
struct Edge(Publication);
struct PageInfo {
    rows: Vec<Publication>,
    more: bool,
}

type Resolved<'a> = Result<ResolvedValue<'a>, FieldError>;

fn package<'a>(name: Option<&JsonValue>, version: Option<&JsonValue>) -> ResolvedValue<'a> {
    let (name, version) = (name.and_then(|v| v.as_str()), version.and_then(|v| v.as_str()));
    let found = rows()
        .into_iter()
        .find(|row| Some(row.id.name.as_str()) == name && Some(row.id.version.as_str()) == version);
    found.map_or(ResolvedValue::null(), |row| ResolvedValue::object(Package(row)))
}

fn flag<'a>(flag: Option<bool>) -> ResolvedValue<'a> {
    flag.map_or(ResolvedValue::null(), ResolvedValue::leaf)
}

fn cursor<'a>(row: Option<&Publication>) -> ResolvedValue<'a> {
    let text = row.map(|row| cursor::encode(row.info.created, &row.id));
    text.map_or(ResolvedValue::null(), ResolvedValue::leaf)
}

impl ObjectValue for Query {
    fn type_name(&self) -> &str {
        "Query"
    }

    fn resolve_field<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Resolved<'a> {
        let argument = |name: &str| info.arguments().get(name);
        let list = |name: &str| {
            argument(name).and_then(|list| list.as_array()).cloned().unwrap_or_default()
        };
        match info.field_name() {
            "package" => Ok(package(argument("name"), argument("version"))),
            "node" => {
                let named = |row: &Publication| {
                    argument("id").and_then(|id| id.as_str())
                        == Some(&Purl::canonical("npm", &row.id))
                };
                let found = rows().into_iter().find(named);
                Ok(found.map_or(ResolvedValue::null(), |row| ResolvedValue::object(Package(row))))
            }
            "packages" => {
                let packages: Vec<_> = list("refs")
                    .iter()
                    .map(|item| package(item.get("name"), item.get("version")))
                    .collect();
                Ok(ResolvedValue::list(packages))
            }
            "packagesByPurl" => {
                let packages: Vec<_> = list("purls")
                    .iter()
                    .map(|item| {
                        let found = rows()
                            .into_iter()
                            .find(|row| item.as_str() == Some(&Purl::canonical("npm", &row.id)));
                        found.map_or(ResolvedValue::null(), |row| {
                            ResolvedValue::object(Package(row))
                        })
                    })
                    .collect();
                Ok(ResolvedValue::list(packages))
            }
            "publications" => {
                let first = argument("first").and_then(JsonValue::as_u64).unwrap_or_default();
                let mut rows = rows();
                rows.sort_by(|a, b| (b.info.created, &b.id).cmp(&(a.info.created, &a.id)));
                if argument("order").and_then(|order| order.as_str()) == Some("OLDEST_FIRST") {
                    rows.reverse();
                }
                let first = usize::try_from(first).unwrap();
                Ok(ResolvedValue::object(Connection { rows, first }))
            }
            _ => Err(self.unknown_field_error(info)),
        }
    }
}

impl ObjectValue for Package {
    fn type_name(&self) -> &str {
        "Package"
    }

    fn resolve_field<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Resolved<'a> {
        match info.field_name() {
            "name" => Ok(ResolvedValue::leaf(self.0.id.name.as_str())),
            "id" => Ok(ResolvedValue::leaf(Purl::canonical("npm", &self.0.id))),
            "version" => Ok(ResolvedValue::leaf(self.0.id.version.as_str())),
            "purl" => Ok(ResolvedValue::leaf(Purl::canonical("npm", &self.0.id))),
            "publicationInfo" => Ok(ResolvedValue::object(Info(self.0.clone()))),
            _ => Err(self.unknown_field_error(info)),
        }
    }
}

impl ObjectValue for Info {
    fn type_name(&self) -> &str {
        "PublicationInfo"
    }

    fn resolve_field<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Resolved<'a> {
        let row = &self.0.info;
        let word = |word: &str| ResolvedValue::leaf(word.to_uppercase());
        Ok(match info.field_name() {
            "username" => row
                .username
                .as_ref()
                .map_or(ResolvedValue::null(), |name| ResolvedValue::leaf(name.as_str())),
            "created" => ResolvedValue::leaf(row.created.to_rfc3339_millis()),
            "tor" => flag(row.tor),
            "tfa" => flag(row.tfa),
            "method" => ResolvedValue::leaf(match (row.tfa, row.credential) {
                (Some(true), _) => "SECOND_FACTOR",
                (_, model::Credential::Oidc) => "TRUSTED_PUBLISHER",
                (Some(false), _) => "SINGLE_FACTOR",
                (None, _) => "UNKNOWN",
            }),
            "torReason" => word(row.tor_reason.as_str()),
            "torSettled" => flag(Some(row.tor_settled)),
            "tfaReason" => word(row.tfa_reason.as_str()),
            "credential" => word(row.credential.as_str()),
            "actor" => word(row.actor.as_str()),
            "disputed" => flag(Some(row.disputed)),
            _ => return Err(self.unknown_field_error(info)),
        })
    }
}

impl ObjectValue for Connection {
    fn type_name(&self) -> &str {
        "PublicationConnection"
    }

    fn resolve_field<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Resolved<'a> {
        let shown = self.rows.iter().take(self.first).cloned();
        match info.field_name() {
            "edges" => Ok(ResolvedValue::list(shown.map(|row| ResolvedValue::object(Edge(row))))),
            "pageInfo" => {
                let more = self.rows.len() > self.first;
                Ok(ResolvedValue::object(PageInfo { rows: shown.collect(), more }))
            }
            _ => Err(self.unknown_field_error(info)),
        }
    }
}

impl ObjectValue for Edge {
    fn type_name(&self) -> &str {
        "PublicationEdge"
    }

    fn resolve_field<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Resolved<'a> {
        match info.field_name() {
            "cursor" => Ok(cursor(Some(&self.0))),
            "node" => Ok(ResolvedValue::object(Package(self.0.clone()))),
            _ => Err(self.unknown_field_error(info)),
        }
    }
}

impl ObjectValue for PageInfo {
    fn type_name(&self) -> &str {
        "PageInfo"
    }

    fn resolve_field<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Resolved<'a> {
        match info.field_name() {
            "hasNextPage" => Ok(flag(Some(self.more))),
            "hasPreviousPage" => Ok(flag(Some(false))),
            "startCursor" => Ok(cursor(self.rows.first())),
            "endCursor" => Ok(cursor(self.rows.last())),
            _ => Err(self.unknown_field_error(info)),
        }
    }
}

/// Some of these selections in sequence, sometimes repeated within an inline fragment.
fn some_of(ty: &'static str, selections: Vec<String>) -> impl Strategy<Value = String> + Clone {
    let conditions =
        select(vec!["", " @skip(if: $a)", " @include(if: $b)", " @skip(if: $b) @include(if: $a)"]);
    let part =
        (subsequence(selections.clone(), 1..=selections.len()).prop_shuffle(), conditions, 0..3_u8);
    prop::collection::vec(part, 1..3).prop_map(move |parts| {
        parts
            .into_iter()
            .map(|(fields, condition, form)| match form {
                0 => fields.join(" "),
                1 => format!("...{condition} {{ {} }}", fields.join(" ")),
                _ => format!("... on {ty}{condition} {{ {} }}", fields.join(" ")),
            })
            .collect::<Vec<_>>()
            .join(" ")
    })
}

fn words(text: &str) -> Vec<String> {
    text.split(';').map(|word| word.trim().to_owned()).collect()
}

fn info() -> impl Strategy<Value = String> + Clone {
    some_of(
        "PublicationInfo",
        words(
            "username; t: tor; tfa; method; tor @skip(if: $a); created; torReason; torSettled; tfaReason; c: credential; actor; disputed; __typename; ...I",
        ),
    )
}

fn packages() -> impl Strategy<Value = String> + Clone {
    info().prop_flat_map(|info| {
        let mut selections = words("name; id; v: version; purl; name @include(if: $b); k: __typename; ...P; ...P @skip(if: $b)");
        selections.push(format!("publicationInfo {{ {info} }}"));
        selections.push(format!("i: publicationInfo @include(if: $a) {{ {info} }}"));
        some_of("Package", selections)
    })
}

/// A whole document. Each response key has one field and one set of arguments, so that every document is valid.
fn document() -> impl Strategy<Value = String> {
    let connection = packages().prop_map(|package| {
        format!("edges {{ cursor node {{ {package} }} }} pageInfo {{ hasNextPage hasPreviousPage startCursor e: endCursor __typename }} __typename")
    });
    (packages(), packages(), connection)
        .prop_flat_map(|(one, other, connection)| {
            let selections = vec![
                format!("package(name: \"pg\", version: $v) {{ {one} }}"),
                format!("package(version: $v, name: \"pg\") {{ {other} }}"),
                format!("none: package(name: \"none\", version: \"1\") {{ {one} }}"),
                format!("packages(refs: $refs) {{ {other} }}"),
                format!("l: packages(refs: [{{name: \"pg\", version: $v}}, {{version: \"1\", name: \"q\\\"uote\\\\\"}}]) {{ {one} }}"),
                format!("packagesByPurl(purls: [\"pkg:npm/pg@7.12.0\", \"x\"]) {{ {one} }}"),
                format!("publications(first: 2) {{ {connection} }}"),
                format!("o: publications(first: 2, order: OLDEST_FIRST) {{ {connection} }}"),
                format!("n: node(id: \"pkg:npm/pg@7.12.0\") {{ id ... on Package {{ {one} }} }}"),
                format!("p: publications(first: 100) {{ {connection} }}"),
                "...Q".to_owned(),
            ];
            some_of("Query", selections)
        })
        .prop_map(with_fragments)
}

/// Adds the definitions of the fragments that are used, and a use of every variable.
fn with_fragments(selections: String) -> String {
    let mut text = format!(
        "query ($a: Boolean!, $b: Boolean = true, $v: String! = \"7.12.0\", $refs: [PackageRef!]!) {{ {selections} \
         used: __typename @skip(if: $a) @include(if: $b) z: packages(refs: $refs) {{ name }} \
         y: package(name: \"pg\", version: $v) {{ name }} }}"
    );
    for (spread, fragment) in [
        (
            "...Q",
            " fragment Q on Query { package(name: \"pg\", version: $v) { ...P purl } __typename }",
        ),
        ("...P", " fragment P on Package { version publicationInfo { tor ...I } name }"),
        ("...I", " fragment I on PublicationInfo { tfa @skip(if: $b) username n: username }"),
    ] {
        if text.contains(spread) {
            text.push_str(fragment);
        }
    }
    text
}

fn expected(executor: &Executor, text: &str, variables: &str) -> String {
    let document = prepare(&executor.schema, &executor.limits, text, false, None)
        .unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let variables: JsonMap = serde_json::from_str(variables).unwrap();
    let answer = Execution::new(&executor.schema.valid, &document.document)
        .raw_variable_values(&variables)
        .execute_sync(&Query)
        .unwrap_or_else(|error| panic!("{}", error.message()));
    assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    format!("{{\"data\":{}}}", serde_json::to_string(&answer.data).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn answers_as_apollo_s_executor_does(text in document(), a: bool, b in prop::option::of(any::<bool>())) {
        let limits = Limits { max_tokens: 100_000, max_selections: 100_000, max_document: bytesize::ByteSize::mib(1), ..Limits::default() };
        let (executor, _) = executor(limits);
        let b = b.map_or(String::new(), |b| format!("\"b\":{b},"));
        let variables = format!(r#"{{"a":{a},{b}"refs":[{{"name":"JSONStream","version":"1.0.0"}},{{"name":"x","version":"1"}}]}}"#);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ours = runtime.block_on(run(&executor, &text, &variables)).unwrap();
        prop_assert_eq!(ours, expected(&executor, &text, &variables));
    }
}
