//! An input object that is written in the document names each field once (GraphQL, "Input Object Field Uniqueness").
//! apollo-compiler does not check it, and the first of two would be answered as if the other had not been written.

use std::collections::HashSet;

use apollo_compiler::ast::Value;
use apollo_compiler::{ExecutableDocument, Node};

use crate::error::{Code, QueryError};

/// Refuses a document with an input object that names a field twice, in an argument or as a variable's default. Only
/// root fields take input objects.
pub(super) fn check(document: &ExecutableDocument) -> Result<(), QueryError> {
    for operation in document.operations.iter() {
        let arguments = operation.root_fields(document).flat_map(|field| &field.arguments);
        let defaults = operation.variables.iter().filter_map(|own| own.default_value.as_ref());
        for value in arguments.map(|argument| &argument.value).chain(defaults) {
            walk(document, value)?;
        }
    }
    Ok(())
}

fn walk(document: &ExecutableDocument, value: &Node<Value>) -> Result<(), QueryError> {
    match &**value {
        Value::List(items) => items.iter().try_for_each(|item| walk(document, item)),
        Value::Object(fields) => {
            let mut names = HashSet::new();
            fields.iter().try_for_each(|(name, value)| {
                if names.insert(name) {
                    return walk(document, value);
                }
                let message = format!("the input field `{name}` is given twice in one object");
                Err(QueryError::new(Code::ValidationFailed, message)
                    .at(name.location(), &document.sources))
            })
        }
        _ => Ok(()),
    }
}
