//! The schema: the committed file, with this deployment's limits in its descriptions.

pub(crate) mod one_of;

use std::sync::OnceLock;

use apollo_compiler::Schema;
use apollo_compiler::collections::HashMap;
use apollo_compiler::schema::Implementers;
use apollo_compiler::validation::Valid;
use apollo_compiler::{Name, parser::Parser};
use bytes::Bytes;

use crate::config::{Limits, QuerySettings};

/// The committed schema, with the default limits in its descriptions.
pub const DEFAULT_SCHEMA: &str = include_str!("schema.graphql");

/// The first line of the committed file, before the description of the schema.
const BEGINNING: &str = "\"\"\"\n";

impl QuerySettings {
    /// The schema in SDL, as it is served with these settings.
    #[must_use]
    pub fn schema_text(&self) -> String {
        schema_text(&self.limits, &self.http.notice)
    }
}

/// The schema in SDL, with these limits in its descriptions, preceded by the notice (`http.notice`) if there is one.
fn schema_text(limits: &Limits, notice: &str) -> String {
    let defaults = limit_texts(&Limits::default());
    let pairs = defaults.iter().zip(limit_texts(limits));
    let text =
        pairs.fold(DEFAULT_SCHEMA.to_owned(), |text, (default, own)| text.replace(default, &own));
    match text.strip_prefix(BEGINNING) {
        Some(rest) if !notice.is_empty() => {
            // A block string must escape three quotes, and nothing else.
            let notice = notice.replace("\"\"\"", "\\\"\"\"");
            format!("{BEGINNING}{notice}\n\n{rest}")
        }
        _ => text,
    }
}

/// The text about each limit in the descriptions.
fn limit_texts(limits: &Limits) -> [String; 11] {
    limits.of_a_request().map(|(key, value)| format!("{value} (`{key}`)"))
}

/// The parsed schema and its text.
pub(crate) struct ApiSchema {
    pub(crate) text: Bytes,
    pub(crate) valid: Valid<Schema>,
    implementers: OnceLock<HashMap<Name, Implementers>>,
}

/// The schema of this build does not parse; a bug in this program.
#[derive(Debug, thiserror::Error)]
#[error("the schema of this build is not valid: {0}")]
pub struct InvalidSchema(String);

impl ApiSchema {
    pub(crate) fn new(limits: &Limits, notice: &str) -> Result<Self, InvalidSchema> {
        let text = schema_text(limits, notice);
        let valid = Parser::new()
            .parse_schema(format!("{text}\n{}", one_of::EXTENSION), "schema.graphql")
            .map_err(|error| InvalidSchema(error.to_string()))?
            .validate()
            .map_err(|error| InvalidSchema(error.to_string()))?;
        Ok(Self { text: text.into(), valid, implementers: OnceLock::new() })
    }

    /// The implementers of each interface, for the introspection.
    pub(crate) fn implementers(&self) -> &HashMap<Name, Implementers> {
        self.implementers.get_or_init(|| self.valid.implementers_map())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apollo_compiler::schema::ExtendedType;
    use model::{Actor, Credential, TfaReason, TorReason};

    #[test]
    fn the_text_by_default_is_the_committed_file() {
        assert_eq!(schema_text(&Limits::default(), ""), DEFAULT_SCHEMA);
    }

    #[test]
    fn a_notice_stands_first_whatever_it_is() {
        for notice in ["made-up data", "ends with \\", "\"", "\"\"\"\"", "{ } # \\\"\"\" é"] {
            let schema = ApiSchema::new(&Limits::default(), notice).unwrap();
            let description = schema.valid.schema_definition.description.clone().unwrap();
            assert_eq!(description.lines().next(), Some(notice));
            assert!(description.contains("What a registry knows"));
        }
    }

    #[test]
    fn other_limits_stand_in_the_descriptions() {
        let other = Limits {
            max_refs: 1,
            max_pages: 2,
            max_body: bytesize::ByteSize::b(3),
            max_answer: bytesize::ByteSize::b(4),
            max_document: bytesize::ByteSize::b(5),
            max_tokens: 6,
            max_depth: 7,
            max_definitions: 8,
            max_selections: 9,
            max_cost: 11,
            max_history: 12,
            ..Limits::default()
        };
        let text = schema_text(&other, "");
        assert_eq!(text.matches("(`limits.").count(), 13, "max_refs is there three times");
        for limit_text in limit_texts(&other) {
            assert!(
                text.contains(&format!(" {limit_text}"))
                    || text.contains(&format!("\n{limit_text}")),
                "{limit_text}"
            );
        }
        for default in limit_texts(&Limits::default()) {
            assert!(!text.contains(&default), "{default}");
        }
    }

    #[test]
    fn the_enumerations_are_the_words_of_the_row_in_upper_case() {
        let schema = ApiSchema::new(&Limits::default(), "").unwrap();
        let values = |name: &str| -> Vec<String> {
            let Some(ExtendedType::Enum(definition)) = schema.valid.types.get(name) else {
                panic!("{name} is no enum")
            };
            definition.values.keys().map(ToString::to_string).collect()
        };
        let upper = |words: Vec<&str>| -> Vec<String> {
            words.into_iter().map(str::to_ascii_uppercase).collect()
        };
        assert_eq!(values("TorReason"), upper(TorReason::ALL.iter().map(|w| w.as_str()).collect()));
        assert_eq!(values("TfaReason"), upper(TfaReason::ALL.iter().map(|w| w.as_str()).collect()));
        assert_eq!(
            values("Credential"),
            upper(Credential::ALL.iter().map(|w| w.as_str()).collect())
        );
        assert_eq!(values("Actor"), upper(Actor::ALL.iter().map(|w| w.as_str()).collect()));
    }

    #[test]
    fn everything_has_a_description() {
        let schema = ApiSchema::new(&Limits::default(), "").unwrap();
        for (name, definition) in &schema.valid.types {
            if definition.is_built_in() {
                continue;
            }
            assert!(definition.description().is_some(), "{name}");
            let bare: Vec<String> = match definition {
                ExtendedType::Object(object) => object
                    .fields
                    .values()
                    .flat_map(|field| {
                        let arguments = field.arguments.iter().filter(|a| a.description.is_none());
                        let own = field.description.is_none().then(|| field.name.to_string());
                        arguments.map(|a| a.name.to_string()).chain(own).collect::<Vec<_>>()
                    })
                    .collect(),
                ExtendedType::InputObject(object) => object
                    .fields
                    .values()
                    .filter(|field| field.description.is_none())
                    .map(|field| field.name.to_string())
                    .collect(),
                ExtendedType::Enum(values) => values
                    .values
                    .values()
                    .filter(|value| value.description.is_none())
                    .map(|value| value.value.to_string())
                    .collect(),
                _ => Vec::new(),
            };
            assert_eq!(bare, Vec::<String>::new(), "{name}");
        }
    }
}
