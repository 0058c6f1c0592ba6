//! From a record to what becomes of it: decoding and the two verdicts together. Pure.

use std::sync::Arc;

use enrich::{ExitHistory, TfaRules, tfa, tor};
use model::Publication;

use crate::decode::rejection::Rejection;
use crate::decode::{DecodeRules, Decoded, SkipReason, decode};
use crate::record::Record;

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A row.
    Row(Publication),
    /// Nothing.
    Skip(SkipReason),
    /// A dead letter.
    Reject(Rejection),
}

/// Everything that decides about a record: the rules and the evidence.
#[derive(Debug, Clone)]
pub struct Evaluator {
    /// What makes a record an event.
    pub decode: DecodeRules,
    /// The exits over time, with the rules of `tor`.
    pub history: Arc<ExitHistory>,
    /// The rules of `tfa`.
    pub tfa: TfaRules,
    /// The operator's generation of all of these.
    pub generation: u32,
}

impl Evaluator {
    /// Decides about one record.
    #[must_use]
    pub fn evaluate(&self, record: &Record) -> Outcome {
        match decode(record, &self.decode) {
            Decoded::Event(event) => {
                let tor = tor::verdict(&event, &self.history);
                let tfa = tfa::verdict(&event, &self.tfa);
                Outcome::Row(Publication::new(event, tor, tfa, self.generation))
            }
            Decoded::Skip(reason) => Outcome::Skip(reason),
            Decoded::Reject(rejection) => Outcome::Reject(rejection),
        }
    }
}
