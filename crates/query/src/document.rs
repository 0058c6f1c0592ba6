//! Documents: parsed within limits, measured, validated once, and kept by their text.

mod cache;
mod inputs;
mod measure;
mod merge;

use std::sync::Arc;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::ast;
use apollo_compiler::executable::OperationType;
use apollo_compiler::parser::Parser;
use apollo_compiler::validation::{DiagnosticList, Valid};

use crate::config::Limits;
use crate::error::{Code, Exceeded, QueryError};
use crate::schema::ApiSchema;

pub(crate) use cache::DocumentCache;

/// The name that stands for the document where apollo-compiler wants a file.
const PATH: &str = "query";

/// Why a document is not executed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is wrong, or too large.
    Errors(Vec<QueryError>),
    /// The operation asked for writes, which a GET request must not.
    NotAQuery,
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        Self::Errors(vec![error])
    }
}

/// How the document came, as far as that decides whether it may be executed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// By a GET request.
    pub(crate) safe_method: bool,
    /// Which operation of it.
    pub(crate) operation_name: Option<&'a str>,
}

/// Parses, measures and validates. All limits are checked before the validation, which is not linear in the document.
pub(crate) fn prepare(
    schema: &ApiSchema,
    limits: &Limits,
    text: &str,
    asked: Asked<'_>,
) -> Result<Arc<Valid<ExecutableDocument>>, Refusal> {
    let parsed = parse(limits, text)?;
    if asked.safe_method && writes(&parsed, asked.operation_name) {
        return Err(Refusal::NotAQuery);
    }
    measure::check(&parsed, limits)?;
    let document = parsed.to_executable_validate(&schema.valid).map_err(|failed| {
        Refusal::Errors(diagnostics(&failed.errors, Code::ValidationFailed, limits))
    })?;
    inputs::check(&document)?;
    merge::check(&document)?;
    Ok(Arc::new(document))
}

fn parse(limits: &Limits, text: &str) -> Result<ast::Document, Refusal> {
    let maximum = limits.max_document.as_u64();
    let length = text.len() as u64;
    if length > maximum {
        let exceeded = Exceeded { limit: "limits.max_document", maximum, actual: Some(length) };
        let message = format!(
            "the document has {length} bytes, at most {maximum} are read (limits.max_document); pass values as variables"
        );
        return Err(QueryError::limit(exceeded, message).into());
    }
    let mut parser = Parser::new().token_limit(limits.max_tokens).recursion_limit(limits.max_depth);
    let parsed = parser.parse_ast(text, PATH);
    if parser.tokens_reached() > limits.max_tokens {
        let maximum = limits.max_tokens as u64;
        let exceeded = Exceeded { limit: "limits.max_tokens", maximum, actual: None };
        let message = format!(
            "the document has more than {maximum} tokens, white space counted (limits.max_tokens); pass values as variables"
        );
        return Err(QueryError::limit(exceeded, message).into());
    }
    if parser.recursion_reached() > limits.max_depth {
        return Err(measure::too_deep(limits).into());
    }
    parsed.map_err(|failed| Refusal::Errors(diagnostics(&failed.errors, Code::ParseFailed, limits)))
}

/// Whether the operation that would be executed is a mutation or a subscription.
fn writes(document: &ast::Document, operation_name: Option<&str>) -> bool {
    let mut operations = document.definitions.iter().filter_map(|definition| match definition {
        ast::Definition::OperationDefinition(operation) => Some(operation),
        _ => None,
    });
    let asked = match operation_name {
        Some(name) => {
            operations.find(|operation| operation.name.as_ref().is_some_and(|own| own == name))
        }
        None => operations.next(),
    };
    asked.is_some_and(|operation| operation.operation_type != OperationType::Query)
}

fn diagnostics(list: &DiagnosticList, code: Code, limits: &Limits) -> Vec<QueryError> {
    list.iter()
        .take(limits.max_errors)
        .map(|diagnostic| {
            let plain = diagnostic.to_json();
            QueryError { locations: plain.locations, ..QueryError::new(code, plain.message) }
        })
        .collect()
}

#[cfg(test)]
mod tests;
