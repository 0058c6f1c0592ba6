//! The callbacks of consumers outside of the group.

use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::config;
use super::damage::unreadable_batch;

/// The callbacks of a consumer outside of the group. They only log and keep the latest errors.
#[derive(Default)]
pub(super) struct Quiet {
    repeated: config::Repeated,
    /// The first offset of the last batch that could not be read.
    unreadable: Mutex<Option<i64>>,
    /// The latest error message about a broker.
    trouble: Mutex<String>,
}

impl Quiet {
    /// The text for an error. Where it only means "no answer": librdkafka's latest message about a broker.
    pub(super) fn words(&self, error: &KafkaError) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let is_no_answer = error.rdkafka_error_code().is_some_and(config::is_no_answer);
        if is_no_answer && !trouble.is_empty() { trouble.clone() } else { error.to_string() }
    }

    /// Takes the first offset of the last batch that could not be read, if there was one.
    pub(super) fn take_unreadable(&self) -> Option<i64> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        config::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::PartitionEOF)) {
            return;
        }
        if let Some(offset) = unreadable_batch(reason) {
            *self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
        }
        // `AllBrokersDown` follows from the errors of the single brokers, which are more precise.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        }
        if self.repeated.is_news(&error) {
            tracing::warn!(%error, reason, "kafka, reading a range");
        }
    }
}

impl ConsumerContext for Quiet {}
