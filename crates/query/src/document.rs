//! Documents: parsed within limits, measured, validated once, and cached by their text.

mod cache;
mod checks;
mod measure;

use std::sync::Arc;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::ast;
use apollo_compiler::executable::OperationType;
use apollo_compiler::introspection;
use apollo_compiler::parser::Parser;
use apollo_compiler::validation::{DiagnosticList, Valid};

use crate::config::Limits;
use crate::error::{Code, Exceeded, QueryError};
use crate::schema::{ApiSchema, one_of};

pub(crate) use cache::{BYTES_PER_BYTE, DocumentCache};

/// The file name that apollo-compiler requires for a document.
const PATH: &str = "query";
/// The fields whose statements may read many rows.
const SCANS: [&str; 3] = ["publications", "search", "history"];

/// A validated document.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) document: Valid<ExecutableDocument>,
    /// The document for the introspection, when it differs: see [`one_of`].
    introspected: Option<Valid<ExecutableDocument>>,
    /// Whether an operation reads pages, searches or histories, which can take much longer than look-ups.
    pub(crate) scans: bool,
}

impl Prepared {
    pub(crate) fn introspected(&self) -> &Valid<ExecutableDocument> {
        self.introspected.as_ref().unwrap_or(&self.document)
    }
}

/// Why a document is not executed.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// It is invalid or too large.
    Errors(Vec<QueryError>),
    /// The operation is not a query, but the request is a GET.
    NotAQuery,
}

impl From<QueryError> for Unfit {
    fn from(error: QueryError) -> Self {
        Self::Errors(vec![error])
    }
}

/// The parts of the request that decide whether the document may be executed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// Whether the request is a GET.
    pub(crate) safe_method: bool,
    /// The operation to execute.
    pub(crate) operation_name: Option<&'a str>,
}

/// Parses, measures and validates a document. Limits are checked first, because the validation is not linear in its
/// size.
pub(crate) fn prepare(
    schema: &ApiSchema,
    limits: &Limits,
    text: &str,
    asked: Asked<'_>,
) -> Result<Arc<Prepared>, Unfit> {
    let parsed = parse(limits, text)?;
    if asked.safe_method && writes(&parsed, asked.operation_name) {
        return Err(Unfit::NotAQuery);
    }
    measure::check(&parsed, limits)?;
    let document = parsed.to_executable_validate(&schema.valid).map_err(|failed| {
        Unfit::Errors(diagnostics(&failed.errors, Code::ValidationFailed, limits))
    })?;
    checks::check(&schema.valid, &document).map_err(|error| error.cut(limits.max_error_length))?;
    for operation in document.operations.iter() {
        introspection::check_max_depth(&document, operation).map_err(|error| {
            QueryError::new(Code::ValidationFailed, error.message().to_string())
                .at(error.location(), &document.sources)
        })?;
    }
    // Each replacement field is valid in its place, so the whole document is still valid.
    let introspected = one_of::substituted(&schema.valid, &document).map(Valid::assume_valid);
    let scans = document
        .operations
        .iter()
        .flat_map(|operation| operation.all_fields(&document))
        .any(|field| SCANS.contains(&field.name.as_str()));
    Ok(Arc::new(Prepared { document, introspected, scans }))
}

/// Refuses a text that is too long. Requests check this before they wait for the permit to validate a document.
pub(crate) fn check_length(limits: &Limits, text: &str) -> Result<(), QueryError> {
    let maximum = limits.max_document.as_u64();
    let length = text.len() as u64;
    if length > maximum {
        let exceeded = Exceeded { limit: "limits.max_document", maximum, actual: Some(length) };
        let message = format!(
            "the document has {length} bytes, at most {maximum} are read (limits.max_document); pass values as variables"
        );
        return Err(QueryError::limit(exceeded, message));
    }
    Ok(())
}

fn parse(limits: &Limits, text: &str) -> Result<ast::Document, Unfit> {
    check_length(limits, text)?;
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
    parsed.map_err(|failed| Unfit::Errors(diagnostics(&failed.errors, Code::ParseFailed, limits)))
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
