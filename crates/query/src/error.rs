//! Errors as GraphQL shows them: a message, a stable code, places in the document.

use std::num::NonZeroU32;
use std::time::Duration;

use apollo_compiler::parser::{LineColumn, SourceMap, SourceSpan};

use crate::json;

/// The stable words of `extensions.code`. The first four are Apollo's, which clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The document is no GraphQL.
    ParseFailed,
    /// The document does not fit the schema.
    ValidationFailed,
    /// A variable or an argument has a wrong value.
    BadUserInput,
    /// No such operation, or none named where there are several.
    OperationResolution,
    /// More than a limit allows; `extensions.limit` names the configuration key.
    LimitExceeded,
    /// The HTTP request is no GraphQL request.
    BadRequest,
    /// Sent by another site's page.
    CrossSite,
    /// No API token, or an unknown one.
    Unauthenticated,
    /// More than the rate limit allows; `extensions.retryAfter` says in how many seconds it fits.
    RateLimited,
    /// A persisted query that is not there (any more); send its text.
    PersistedQueryNotFound,
    /// No persisted queries are kept.
    PersistedQueryNotSupported,
    /// The text is not the one of that hash.
    PersistedQueryMismatch,
    /// The database is away; try again.
    StoreUnavailable,
    /// Not done in time.
    Timeout,
    /// A mistake of ours; the log has it.
    Internal,
}

impl Code {
    /// All of them, for the metrics.
    pub(crate) const OUTCOMES: &'static [&'static str] = &[
        "ok",
        "partial",
        "parse_failed",
        "validation_failed",
        "bad_input",
        "no_operation",
        "limited",
        "bad_request",
        "cross_site",
        "unauthenticated",
        "rate_limited",
        "persisted_not_found",
        "not_modified",
        "store_unavailable",
        "timeout",
        "internal",
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ParseFailed => "GRAPHQL_PARSE_FAILED",
            Self::ValidationFailed => "GRAPHQL_VALIDATION_FAILED",
            Self::BadUserInput => "BAD_USER_INPUT",
            Self::OperationResolution => "OPERATION_RESOLUTION_FAILURE",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::BadRequest => "BAD_REQUEST",
            Self::CrossSite => "CROSS_SITE_REFUSED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::RateLimited => "RATE_LIMITED",
            Self::PersistedQueryNotFound => "PERSISTED_QUERY_NOT_FOUND",
            Self::PersistedQueryNotSupported => "PERSISTED_QUERY_NOT_SUPPORTED",
            Self::PersistedQueryMismatch => "PERSISTED_QUERY_HASH_MISMATCH",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::Timeout => "TIMEOUT",
            Self::Internal => "INTERNAL_SERVER_ERROR",
        }
    }

    /// The label value in the metrics.
    pub(crate) const fn outcome(self) -> &'static str {
        match self {
            Self::ParseFailed => "parse_failed",
            Self::ValidationFailed => "validation_failed",
            Self::BadUserInput => "bad_input",
            Self::OperationResolution => "no_operation",
            Self::LimitExceeded => "limited",
            Self::BadRequest | Self::PersistedQueryMismatch => "bad_request",
            Self::CrossSite => "cross_site",
            Self::Unauthenticated => "unauthenticated",
            Self::RateLimited => "rate_limited",
            Self::PersistedQueryNotFound | Self::PersistedQueryNotSupported => {
                "persisted_not_found"
            }
            Self::StoreUnavailable => "store_unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// A limit that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// The configuration key, `limits.max_refs`.
    pub(crate) limit: &'static str,
    pub(crate) maximum: u64,
    /// How much there was, where it was counted to the end.
    pub(crate) actual: Option<u64>,
}

/// One error of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QueryError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) locations: Vec<LineColumn>,
    /// The response key of the root field, for an error within `data`.
    pub(crate) path: Option<String>,
    pub(crate) exceeded: Option<Exceeded>,
    /// In how many seconds the same would be answered.
    pub(crate) retry_after: Option<NonZeroU32>,
}

impl QueryError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, locations: Vec::new(), path: None, exceeded: None, retry_after: None }
    }

    pub(crate) fn limit(exceeded: Exceeded, message: impl Into<String>) -> Self {
        Self { exceeded: Some(exceeded), ..Self::new(Code::LimitExceeded, message) }
    }

    /// More than the client's rate limit has left; `wait` until it has enough.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let message = format!("too many publications asked for; try again in {seconds} s");
        Self { retry_after: NonZeroU32::new(seconds), ..Self::new(Code::RateLimited, message) }
    }

    pub(crate) fn at(mut self, location: Option<SourceSpan>, sources: &SourceMap) -> Self {
        self.locations = location.and_then(|span| span.line_column(sources)).into_iter().collect();
        self
    }

    pub(crate) fn under(mut self, response_key: &str) -> Self {
        self.path = Some(response_key.to_owned());
        self
    }

    /// Writes the error as JSON. Messages can carry pieces of the document, so they are cut at `max_length` bytes.
    pub(crate) fn write(&self, out: &mut String, max_length: usize) {
        out.push_str("{\"message\":");
        json::write_str(out, truncated(&self.message, max_length));
        if !self.locations.is_empty() {
            out.push_str(",\"locations\":[");
            for (index, LineColumn { line, column }) in self.locations.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                out.push_str(&format!("{comma}{{\"line\":{line},\"column\":{column}}}"));
            }
            out.push(']');
        }
        if let Some(key) = &self.path {
            out.push_str(",\"path\":[");
            json::write_str(out, key);
            out.push(']');
        }
        out.push_str(",\"extensions\":{\"code\":");
        json::write_str(out, self.code.as_str());
        if let Some(Exceeded { limit, maximum, actual }) = self.exceeded {
            out.push_str(&format!(",\"limit\":\"{limit}\",\"maximum\":{maximum}"));
            if let Some(actual) = actual {
                out.push_str(&format!(",\"actual\":{actual}"));
            }
        }
        if let Some(seconds) = self.retry_after {
            out.push_str(&format!(",\"retryAfter\":{seconds}"));
        }
        out.push_str("}}");
    }
}

/// `"errors":[…]` without braces around it.
pub(crate) fn write_errors(out: &mut String, errors: &[QueryError], max_length: usize) {
    out.push_str("\"errors\":[");
    for (index, error) in errors.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        error.write(out, max_length);
    }
    out.push(']');
}

fn truncated(text: &str, max_length: usize) -> &str {
    &text[..text.floor_char_boundary(max_length)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut out = String::new();
        QueryError::new(Code::BadUserInput, "aé\"").write(&mut out, 2);
        assert_eq!(out, r#"{"message":"a","extensions":{"code":"BAD_USER_INPUT"}}"#);
    }

    #[test]
    fn a_limit_names_itself_and_the_count() {
        let exceeded = Exceeded { limit: "limits.max_refs", maximum: 5_000, actual: Some(5_001) };
        let mut out = String::new();
        QueryError::limit(exceeded, "too many").under("p").write(&mut out, 100);
        assert_eq!(
            out,
            r#"{"message":"too many","path":["p"],"extensions":{"code":"LIMIT_EXCEEDED","limit":"limits.max_refs","maximum":5000,"actual":5001}}"#
        );
    }
}
