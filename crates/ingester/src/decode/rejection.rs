//! Rejections: the problem of a record, as a stable code (crates/model/README.md, Rejections).

use std::borrow::Cow;
use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $word:literal at $stage:ident,)*) => {
        /// Why a record is rejected. The words are stable, because operators group and redrive by them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $code,)* }

        impl Code {
            /// Every code, in the order of the checks.
            pub const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// The stable word of the code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $word,)* }
            }

            /// The stage of the rejection, in Kafka Connect's terms.
            #[must_use]
            pub const fn stage(self) -> &'static str {
                match self { $(Self::$code => codes!(@stage $stage),)* }
            }
        }
    };
    (@stage value) => { "VALUE_CONVERTER" };
    (@stage transformation) => { "TRANSFORMATION" };
    (@stage put) => { "TASK_PUT" };
}

codes! {
    /// The value is larger than `limits.max_event_bytes`.
    TooLarge = "too_large" at value,
    /// The value is not a JSON text, or is nested deeper than 128.
    NotJson = "not_json" at value,
    /// The CloudEvents attributes are missing, or the value is a batch.
    NotCloudevent = "not_cloudevent" at value,
    /// A known field has the wrong JSON type or is out of its limits.
    BadField = "bad_field" at value,
    /// A required field is missing.
    MissingField = "missing_field" at value,
    /// The package is of another registry.
    WrongEcosystem = "wrong_ecosystem" at transformation,
    /// `subject` names another package, or is not a purl.
    SubjectMismatch = "subject_mismatch" at transformation,
    /// A time is not an RFC 3339 time, or the staging act is after the approval.
    InvalidTime = "invalid_time" at transformation,
    /// Published more than five minutes after the record's own timestamp.
    FutureTime = "future_time" at transformation,
    /// The database refused this single row because of its data.
    RefusedByStore = "refused_by_store" at put,
}

/// The path of a field in the event: an object, which can occur in two places, and the path within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    within: &'static str,
    rest: &'static str,
}

impl Path {
    /// `rest` (for example `actor.kind`) within an object (for example `data.staged`; empty for the event itself).
    #[must_use]
    pub const fn within(within: &'static str, rest: &'static str) -> Self {
        Self { within, rest }
    }

    /// The path as a JSON pointer (RFC 6901) into the event in structured mode.
    #[must_use]
    pub fn pointer(self) -> String {
        format!("/{self}").replace('.', "/")
    }
}

impl From<&'static str> for Path {
    fn from(rest: &'static str) -> Self {
        Self { within: "", rest }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.within.is_empty() {
            f.write_str(self.rest)
        } else {
            write!(f, "{}.{}", self.within, self.rest)
        }
    }
}

/// A rejection is a value, not an error. The message names fields and limits and never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The stable code.
    pub code: Code,
    /// The message for a person.
    pub message: Cow<'static, str>,
    /// The wrong field, if a single field is wrong.
    pub path: Option<Path>,
}

impl Rejection {
    /// A rejection of a whole record.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), path: None }
    }

    /// A rejection for one field. The message is the field's path and then `problem`, for example "is missing".
    pub fn of_field(code: Code, path: impl Into<Path>, problem: impl fmt::Display) -> Self {
        let path = path.into();
        Self { code, message: format!("{path} {problem}").into(), path: Some(path) }
    }
}
