//! GraphQL errors: a message, a stable code, locations in the document.

use std::num::NonZeroU32;
use std::time::Duration;

use apollo_compiler::parser::{LineColumn, SourceMap, SourceSpan};
/// A part of an error's path: a response key or a list index.
pub(crate) use apollo_compiler::response::ResponseDataPathSegment as Segment;
use serde::{Serialize, Serializer};

/// The stable values of `extensions.code`. The first four are Apollo's, which clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The document is not GraphQL.
    ParseFailed,
    /// The document does not fit the schema.
    ValidationFailed,
    /// A variable or an argument has a wrong value.
    BadUserInput,
    /// No operation of that name, or no name although there are several operations.
    OperationResolution,
    /// A limit is exceeded; `extensions.limit` names its configuration key.
    LimitExceeded,
    /// The HTTP request is not a GraphQL request.
    BadRequest,
    /// The path does not exist.
    NotFound,
    /// The path does not have this method.
    MethodNotAllowed,
    /// The body is not JSON in UTF-8, or is compressed.
    UnsupportedMediaType,
    /// The client accepts neither media type of GraphQL over HTTP.
    NotAcceptable,
    /// The request was sent by a page of another site.
    CrossSite,
    /// The API token is missing or unknown.
    Unauthenticated,
    /// The rate limit is exceeded; `extensions.retryAfter` says in how many seconds to try again.
    RateLimited,
    /// The persisted query is not (or no longer) in the cache; send its text.
    PersistedQueryNotFound,
    /// Persisted queries are turned off.
    PersistedQueryNotSupported,
    /// The text does not have that hash.
    PersistedQueryMismatch,
    /// The database is not available; try again.
    StoreUnavailable,
    /// There is no room for the request at the moment; try again.
    Busy,
    /// The request timed out.
    Timeout,
    /// A bug in this program; the log has the details.
    Internal,
}

impl Code {
    /// All values of the metrics' label `outcome`. Outcomes without an error come first.
    pub(crate) const OUTCOMES: &'static [&'static str] = &[
        "ok",
        "partial",
        "not_modified",
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
        "store_unavailable",
        "busy",
        "timeout",
        "internal",
    ];

    /// The code in the answer, the label value in the metrics, and the status. Of a well-formed GraphQL request the status
    /// is 200, and 400 for the newer media type.
    const fn row(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::ParseFailed => ("GRAPHQL_PARSE_FAILED", "parse_failed", 200),
            Self::ValidationFailed => ("GRAPHQL_VALIDATION_FAILED", "validation_failed", 200),
            Self::BadUserInput => ("BAD_USER_INPUT", "bad_input", 200),
            Self::OperationResolution => ("OPERATION_RESOLUTION_FAILURE", "no_operation", 200),
            Self::LimitExceeded => ("LIMIT_EXCEEDED", "limited", 200),
            Self::BadRequest => ("BAD_REQUEST", "bad_request", 400),
            Self::NotFound => ("NOT_FOUND", "bad_request", 404),
            Self::MethodNotAllowed => ("METHOD_NOT_ALLOWED", "bad_request", 405),
            Self::UnsupportedMediaType => ("UNSUPPORTED_MEDIA_TYPE", "bad_request", 415),
            Self::NotAcceptable => ("NOT_ACCEPTABLE", "bad_request", 406),
            Self::CrossSite => ("CROSS_SITE_REFUSED", "cross_site", 403),
            Self::Unauthenticated => ("UNAUTHENTICATED", "unauthenticated", 401),
            Self::RateLimited => ("RATE_LIMITED", "rate_limited", 429),
            Self::PersistedQueryNotFound => {
                ("PERSISTED_QUERY_NOT_FOUND", "persisted_not_found", 200)
            }
            Self::PersistedQueryNotSupported => {
                ("PERSISTED_QUERY_NOT_SUPPORTED", "persisted_not_found", 200)
            }
            Self::PersistedQueryMismatch => ("PERSISTED_QUERY_HASH_MISMATCH", "bad_request", 400),
            Self::StoreUnavailable => ("STORE_UNAVAILABLE", "store_unavailable", 503),
            Self::Busy => ("BUSY", "busy", 503),
            Self::Timeout => ("TIMEOUT", "timeout", 503),
            Self::Internal => ("INTERNAL_SERVER_ERROR", "internal", 500),
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The label value in the metrics.
    pub(crate) const fn outcome(self) -> &'static str {
        self.row().1
    }

    /// The status for `application/json`.
    pub(crate) const fn status(self) -> u16 {
        self.row().2
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A limit that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Exceeded {
    /// The configuration key, `limits.max_refs`.
    pub(crate) limit: &'static str,
    pub(crate) maximum: u64,
    /// The actual number, when it was counted to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actual: Option<u64>,
}

/// One error of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct QueryError {
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) locations: Vec<LineColumn>,
    /// The place in `data` that is null because of the error. Empty for a refused request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) path: Vec<Segment>,
    pub(crate) extensions: Extensions,
}

/// The machine-readable part of an error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Extensions {
    pub(crate) code: Code,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) exceeded: Option<Exceeded>,
    /// Seconds until the client should try again.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<NonZeroU32>,
}

impl QueryError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let extensions = Extensions { code, exceeded: None, retry_after: None };
        Self { message: message.into(), locations: Vec::new(), path: Vec::new(), extensions }
    }

    /// An error for an exceeded limit.
    pub(crate) fn limit(
        limit: &'static str,
        maximum: u64,
        actual: Option<u64>,
        message: impl Into<String>,
    ) -> Self {
        let mut error = Self::new(Code::LimitExceeded, message);
        error.extensions.exceeded = Some(Exceeded { limit, maximum, actual });
        error
    }

    /// An error for an exceeded rate limit; `wait` is the time until the bucket has enough.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let message = format!("too many publications asked for; try again in {seconds} s");
        Self::new(Code::RateLimited, message).retry_after(seconds)
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.extensions.retry_after = NonZeroU32::new(seconds);
        self
    }

    pub(crate) const fn code(&self) -> Code {
        self.extensions.code
    }

    pub(crate) fn at(mut self, location: Option<SourceSpan>, sources: &SourceMap) -> Self {
        self.locations = location.and_then(|span| span.line_column(sources)).into_iter().collect();
        self
    }

    /// Cuts the message to `max_length` bytes, because it can quote parts of the document.
    pub(crate) fn cut(mut self, max_length: usize) -> Self {
        self.message.truncate(self.message.floor_char_boundary(max_length));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apollo_compiler::name;

    fn json(error: &QueryError) -> String {
        serde_json::to_string(error).unwrap()
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let error = QueryError::new(Code::BadUserInput, "aé\"").cut(2);
        assert_eq!(json(&error), r#"{"message":"a","extensions":{"code":"BAD_USER_INPUT"}}"#);
    }

    #[test]
    fn a_limit_names_itself_and_the_count() {
        let mut error = QueryError::limit("limits.max_refs", 5_000, Some(5_001), "too many");
        error.path = vec![Segment::Field(name!("p")), Segment::ListIndex(1)];
        assert_eq!(
            json(&error),
            r#"{"message":"too many","path":["p",1],"extensions":{"code":"LIMIT_EXCEEDED","limit":"limits.max_refs","maximum":5000,"actual":5001}}"#
        );
    }

    #[test]
    fn who_asks_for_too_much_is_told_when_to_come_again() {
        let error = QueryError::rate_limited(Duration::from_millis(1_200));
        assert!(json(&error).contains(r#""retryAfter":2}"#), "{error:?}");
    }

    #[test]
    fn every_outcome_is_a_label_value() {
        use Code::*;
        let all = [
            ParseFailed,
            ValidationFailed,
            BadUserInput,
            OperationResolution,
            LimitExceeded,
            BadRequest,
            NotFound,
            MethodNotAllowed,
            UnsupportedMediaType,
            NotAcceptable,
            CrossSite,
            Unauthenticated,
            RateLimited,
            PersistedQueryNotFound,
            PersistedQueryNotSupported,
            PersistedQueryMismatch,
            StoreUnavailable,
            Busy,
            Timeout,
            Internal,
        ];
        // The list is complete: the last code stands at its own number.
        assert_eq!(all.len(), Internal as usize + 1);
        for code in all {
            assert!(Code::OUTCOMES.contains(&code.outcome()), "{code:?}");
        }
    }
}
