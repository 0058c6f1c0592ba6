//! Fields of the same name at the root must ask for the same (GraphQL, "Field Selection Merging"). apollo-compiler
//! compares list arguments only up to the shorter one's length, so `packages(refs: [a]) packages(refs: [a, b])` would
//! pass it and be answered as if the second list had not been written.

use std::collections::HashMap;
use std::collections::HashSet;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::ast::Value;
use apollo_compiler::executable::{Field, Selection, SelectionSet};

use crate::error::{Code, QueryError};

/// Refuses a document whose operations have root fields that cannot be merged. Only root fields have list arguments.
pub(super) fn check(document: &ExecutableDocument) -> Result<(), QueryError> {
    for operation in document.operations.iter() {
        let mut fields = HashMap::new();
        walk(document, &operation.selection_set, &mut fields, &mut HashSet::new())?;
    }
    Ok(())
}

fn walk<'a>(
    document: &'a ExecutableDocument,
    set: &'a SelectionSet,
    fields: &mut HashMap<&'a str, &'a Field>,
    visited: &mut HashSet<&'a str>,
) -> Result<(), QueryError> {
    for selection in &set.selections {
        match selection {
            Selection::Field(field) => {
                let first = fields.entry(field.response_key()).or_insert(field);
                if !same_arguments(first, field) {
                    let message = format!(
                        "fields `{}` have different arguments and cannot be merged; use an alias",
                        field.response_key()
                    );
                    return Err(QueryError::new(Code::ValidationFailed, message)
                        .at(field.name.location(), &document.sources));
                }
            }
            Selection::InlineFragment(inline) => {
                walk(document, &inline.selection_set, fields, visited)?;
            }
            Selection::FragmentSpread(spread) => {
                if visited.insert(&spread.fragment_name)
                    && let Some(fragment) = document.fragments.get(&spread.fragment_name)
                {
                    walk(document, &fragment.selection_set, fields, visited)?;
                }
            }
        }
    }
    Ok(())
}

fn same_arguments(left: &Field, right: &Field) -> bool {
    std::ptr::eq(left, right)
        || left.arguments.len() == right.arguments.len()
            && left.arguments.iter().all(|argument| {
                let other = right.arguments.iter().find(|other| other.name == argument.name);
                other.is_some_and(|other| same(&argument.value, &other.value))
            })
}

/// The order of an object's fields says nothing.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| {
                    let other = right.iter().find(|(other, _)| other == name);
                    other.is_some_and(|(_, other)| same(value, other))
                })
        }
        _ => left == right,
    }
}
