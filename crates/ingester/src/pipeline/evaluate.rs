//! From a record to its outcome: decoding and the two verdicts. Pure.

use std::sync::Arc;

use enrich::{ExitHistory, TfaRules, tfa, tor};
use model::Publication;

use crate::decode::rejection::Rejection;
use crate::decode::{DecodeRules, decode};
use crate::record::Record;
use crate::settings::Settings;

/// The outcome of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A row.
    Row(Publication),
    /// Nothing is written.
    Skip,
    /// A dead letter.
    Reject(Rejection),
}

/// All inputs of the evaluation besides the record: the rules and the evidence.
#[derive(Debug, Clone)]
pub struct Evaluator {
    /// The rules for events.
    pub decode: DecodeRules,
    /// The known exits over time, with the rules of `tor`.
    pub history: Arc<ExitHistory>,
    /// The rules of `tfa`.
    pub tfa: TfaRules,
    /// The operator's generation of the rules and the evidence (`enrich.generation`).
    pub generation: u32,
}

/// Refuses a generation lower than the table's, because new verdicts would be older than those in the table.
pub(crate) fn check_generation(settings: &Settings, table: u32) -> anyhow::Result<()> {
    let ours = settings.enrich.generation;
    anyhow::ensure!(
        ours >= table,
        "enrich.generation is {ours}, and the table has verdicts of generation {table}: set it to {table} or higher"
    );
    Ok(())
}

impl Evaluator {
    /// An evaluator by the rules of the settings.
    pub(crate) fn new(settings: &Settings, history: Arc<ExitHistory>) -> Self {
        Self {
            decode: settings.decode_rules(),
            history,
            tfa: settings.tfa_rules(),
            generation: settings.enrich.generation,
        }
    }

    /// Evaluates one record.
    #[must_use]
    pub fn evaluate(&self, record: &Record) -> Outcome {
        match decode(record, &self.decode) {
            Ok(Some(event)) => {
                let tor = tor::verdict(&event, &self.history);
                let tfa = tfa::verdict(&event, &self.tfa);
                Outcome::Row(Publication::new(event, tor, tfa, self.generation))
            }
            Ok(None) => Outcome::Skip,
            Err(rejection) => Outcome::Reject(rejection),
        }
    }
}
