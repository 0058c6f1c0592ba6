//! Documents: parsed within limits, measured, validated once, and cached by their text.

mod checks;
mod measure;

use std::sync::Arc;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::ast;
use apollo_compiler::executable::OperationType;
use apollo_compiler::introspection;
use apollo_compiler::parser::Parser;
use apollo_compiler::validation::{DiagnosticList, Valid};
use bytesize::ByteSize;

use crate::config::{Limits, QuerySettings};
use crate::error::{Code, QueryError};
use crate::schema::{ApiSchema, one_of};

/// The file name that apollo-compiler requires for a document.
const PATH: &str = "query";
/// The fields whose statements may read many rows.
const SCANS: [&str; 3] = ["publications", "search", "history"];

/// Memory of a document per byte of text: dense documents were measured at 59.
pub(crate) const BYTES_PER_BYTE: usize = 64;
/// Memory of a document in addition, whatever its length.
const BYTES_PER_DOCUMENT: usize = 4_096;

/// The estimated memory of a validated document with a text of so many bytes.
pub(crate) const fn weight(length: usize) -> usize {
    length.saturating_mul(BYTES_PER_BYTE).saturating_add(BYTES_PER_DOCUMENT)
}

/// The memory for validated documents: `cache.documents`, or more if the longest document needs more. A request looks its document
/// up again after it has waited for permits, so each document must fit.
pub(crate) fn cache_size(settings: &QuerySettings) -> ByteSize {
    let longest = usize::try_from(settings.limits.max_document.as_u64()).unwrap_or(usize::MAX);
    settings.cache.documents.max(ByteSize::b(weight(longest) as u64))
}

/// A validated document. See [`one_of`] for the field that it has in place of another.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) document: Valid<ExecutableDocument>,
    /// Whether an operation reads pages, searches or histories, which can take much longer than look-ups.
    pub(crate) scans: bool,
}

/// Parses, measures and validates a document. Limits are checked first, because the validation is not linear in its
/// size. `METHOD_NOT_ALLOWED` if the request is a GET and the operation to execute writes.
pub(crate) fn prepare(
    schema: &ApiSchema,
    limits: &Limits,
    text: &str,
    is_get: bool,
    operation_name: Option<&str>,
) -> Result<Arc<Prepared>, Vec<QueryError>> {
    let parsed = parse(limits, text)?;
    if is_get && writes(&parsed, operation_name) {
        let message = "GET executes queries only; use POST";
        return Err(vec![QueryError::new(Code::MethodNotAllowed, message)]);
    }
    measure::check(&parsed, limits).map_err(|error| vec![error])?;
    let document = parsed
        .to_executable_validate(&schema.valid)
        .map_err(|failed| diagnostics(&failed.errors, Code::ValidationFailed, limits))?;
    checks::check(&schema.valid, &document)
        .map_err(|error| vec![error.cut(limits.max_error_length)])?;
    for operation in document.operations.iter() {
        introspection::check_max_depth(&document, operation).map_err(|error| {
            let own = QueryError::new(Code::ValidationFailed, error.message().to_string());
            vec![own.at(error.location(), &document.sources)]
        })?;
    }
    let mut document = document.into_inner();
    one_of::substitute(&schema.valid, &mut document);
    let document = Valid::assume_valid(document);
    let scans = document
        .operations
        .iter()
        .flat_map(|operation| operation.all_fields(&document))
        .any(|field| SCANS.contains(&field.name.as_str()));
    Ok(Arc::new(Prepared { document, scans }))
}

/// Refuses a text that is too long. Requests check this before they wait for the permit to validate a document.
pub(crate) fn check_length(limits: &Limits, text: &str) -> Result<(), QueryError> {
    let maximum = limits.max_document.as_u64();
    let length = text.len() as u64;
    if length > maximum {
        let message = format!(
            "the document has {length} bytes, at most {maximum} are read (limits.max_document); pass values as variables"
        );
        return Err(QueryError::limit("limits.max_document", maximum, Some(length), message));
    }
    Ok(())
}

fn parse(limits: &Limits, text: &str) -> Result<ast::Document, Vec<QueryError>> {
    check_length(limits, text).map_err(|error| vec![error])?;
    // The parser counts the end of the text too.
    let max_tokens = limits.max_tokens.saturating_add(1);
    let mut parser = Parser::new().token_limit(max_tokens).recursion_limit(limits.max_depth);
    let parsed = parser.parse_ast(text, PATH);
    if parser.tokens_reached() > max_tokens {
        let maximum = limits.max_tokens as u64;
        let message = format!(
            "the document has more than {maximum} tokens, white space counted (limits.max_tokens); pass values as variables"
        );
        return Err(vec![QueryError::limit("limits.max_tokens", maximum, None, message)]);
    }
    if parser.recursion_reached() > limits.max_depth {
        return Err(vec![measure::too_deep(limits)]);
    }
    parsed.map_err(|failed| diagnostics(&failed.errors, Code::ParseFailed, limits))
}

/// Whether the operation to execute is a mutation or a subscription.
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

/// The errors of a document. Errors about unused variables and fragments come last, because they often follow from
/// another mistake.
fn diagnostics(list: &DiagnosticList, code: Code, limits: &Limits) -> Vec<QueryError> {
    let mut errors: Vec<QueryError> = list
        .iter()
        .map(|diagnostic| {
            let plain = diagnostic.to_json();
            let error =
                QueryError { locations: plain.locations, ..QueryError::new(code, plain.message) };
            error.cut(limits.max_error_length)
        })
        .collect();
    let follows = |message: &str| {
        message.starts_with("unused variable") || message.ends_with("must be used in an operation")
    };
    errors.sort_by_key(|error| follows(&error.message));
    errors.truncate(limits.max_errors);
    errors
}

#[cfg(test)]
mod tests;
