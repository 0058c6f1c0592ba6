//! `__Type.isOneOf`, which newer tools ask for and apollo-compiler's introspection does not support.
//!
//! The schema has no OneOf input object, so the field is `false` for input objects and null for other types. For the
//! introspection it is replaced by `inputFields` under a reserved response key, and put back in the answer.

use apollo_compiler::executable::{Field, Selection, SelectionSet};
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::{ExecutableDocument, Name, Node, Schema, name};

/// The name of the field.
const FIELD: &str = "isOneOf";
/// Prefix of the response key of the replacement. The validation refuses an alias that begins with it.
pub(crate) const MARK: &str = "__isOneOf_";

/// The addition to apollo-compiler's built-in definitions.
pub(crate) const EXTENSION: &str = "extend type __Type { isOneOf: Boolean }";

/// Replaces the field in a validated document. Each replacement is valid in its place.
pub(crate) fn substitute(schema: &Schema, document: &mut ExecutableDocument) {
    let definition = |name| schema.type_field("__Type", name).map(|field| field.node.clone());
    // The built-in type has both fields.
    let (Ok(fields), Ok(typename)) = (definition("inputFields"), definition("__typename")) else {
        return;
    };
    let mut inner = SelectionSet::new(name!("__InputValue"));
    inner.push(Field::new(name!("__typename"), typename));
    let stand_in = Field { selection_set: inner, ..Field::new(name!("inputFields"), fields) };
    let operations = document.operations.named.values_mut();
    for operation in operations.chain(document.operations.anonymous.as_mut()) {
        substitute_in(&mut operation.make_mut().selection_set, &stand_in);
    }
    for fragment in document.fragments.values_mut() {
        substitute_in(&mut fragment.make_mut().selection_set, &stand_in);
    }
}

fn substitute_in(set: &mut SelectionSet, stand_in: &Field) {
    let is_type = set.ty == "__Type";
    for selection in &mut set.selections {
        match selection {
            Selection::Field(field) if is_type && field.name == FIELD => {
                let alias = Name::new(&format!("{MARK}{}", field.response_key())).ok();
                let own = Field { alias, directives: field.directives.clone(), ..stand_in.clone() };
                *field = Node::new(own);
            }
            Selection::Field(field) => substitute_in(&mut field.make_mut().selection_set, stand_in),
            Selection::InlineFragment(inline) => {
                substitute_in(&mut inline.make_mut().selection_set, stand_in)
            }
            Selection::FragmentSpread(_) => {}
        }
    }
}

/// Puts the field back in place of the replacement.
pub(crate) fn restored(value: JsonValue) -> JsonValue {
    match value {
        JsonValue::Array(items) => JsonValue::Array(items.into_iter().map(restored).collect()),
        JsonValue::Object(fields) => {
            let restore = |(key, value): (_, JsonValue)| {
                let key: apollo_compiler::response::serde_json_bytes::ByteString = key;
                match key.as_str().strip_prefix(MARK) {
                    Some(own) if value.is_null() => (own.into(), JsonValue::Null),
                    Some(own) => (own.into(), JsonValue::Bool(false)),
                    None => (key, restored(value)),
                }
            };
            JsonValue::Object(fields.into_iter().map(restore).collect::<JsonMap>())
        }
        leaf => leaf,
    }
}
