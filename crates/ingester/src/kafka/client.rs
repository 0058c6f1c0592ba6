//! The callbacks of clients outside of the group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::config;
use super::damage::unreadable_batch;

/// The callbacks of clients outside of the group. They only log and keep the latest errors, which clones share.
#[derive(Clone, Default)]
pub(super) struct ClientCallbacks(Arc<LastErrors>);

#[derive(Default)]
struct LastErrors {
    errors: config::ErrorFilter,
    /// The first offset of the last batch that could not be read.
    unreadable: Mutex<Option<i64>>,
    last_broker_message: config::LastBrokerMessage,
}

/// The broker did not answer, or refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Unanswered {
    text: String,
    code: Option<RDKafkaErrorCode>,
}

impl Unanswered {
    pub(super) const fn new(text: String, code: RDKafkaErrorCode) -> Self {
        Self { text, code: Some(code) }
    }

    pub(super) const fn code(&self) -> Option<RDKafkaErrorCode> {
        self.code
    }
}

impl From<KafkaError> for Unanswered {
    fn from(error: KafkaError) -> Self {
        Self { text: error.to_string(), code: error.rdkafka_error_code() }
    }
}

/// The time limit of the first attempt of a request. It doubles with each further attempt.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long librdkafka may take to deliver its messages.
const LOG_DELIVERY: Duration = Duration::from_millis(100);

/// Repeats a request until the broker answers or `timeout` is over. librdkafka delivers its messages about brokers only
/// when it is polled, and the log should have them while the caller waits. Only for a consumer that has no assignment.
pub(super) fn ask<T>(
    consumer: &BaseConsumer<ClientCallbacks>,
    timeout: Duration,
    request: impl Fn(Duration) -> KafkaResult<T>,
) -> Result<T, Unanswered> {
    let (deadline, mut time) = (Instant::now() + timeout, FIRST_TIMEOUT);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match request(time.min(left)) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let until = Instant::now() + LOG_DELIVERY;
        while Instant::now() < until {
            // The context keeps the text of an error; there are no records.
            drop(consumer.poll(until.saturating_duration_since(Instant::now())));
        }
        let code = error.rdkafka_error_code();
        // The broker that leads a new partition may not know it yet.
        let passes =
            |code| config::is_no_answer(code) || code == RDKafkaErrorCode::NotLeaderForPartition;
        if !code.is_some_and(passes) || Instant::now() >= deadline {
            return Err(Unanswered { text: consumer.context().text_of(&error), code });
        }
        time *= 2;
    }
}

impl ClientCallbacks {
    /// The text for an error. Where it only means "no answer": librdkafka's latest message about a broker.
    pub(super) fn text_of(&self, error: &KafkaError) -> String {
        self.broker_message(error).unwrap_or_else(|| error.to_string())
    }

    /// librdkafka's latest message about a broker, which may be the cause of an error that only means "no answer".
    pub(super) fn broker_message(&self, error: &KafkaError) -> Option<String> {
        let is_no_answer = error.rdkafka_error_code().is_some_and(config::is_no_answer);
        self.0.last_broker_message.text().filter(|_| is_no_answer)
    }

    /// Takes the first offset of the last batch that could not be read, if there was one.
    pub(super) fn take_unreadable(&self) -> Option<i64> {
        self.0.unreadable.lock().take()
    }
}

impl ClientContext for ClientCallbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.last_broker_message.line(facility, message);
        config::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::PartitionEOF)) {
            return;
        }
        if let Some(offset) = unreadable_batch(reason) {
            *self.0.unreadable.lock() = Some(offset);
        }
        self.0.last_broker_message.error(&error, reason);
        // Clients are recreated while something is missing, each with errors of its own.
        let is_new = self.0.errors.is_new(&error);
        if is_new && config::is_new_line("ERROR", reason, Instant::now()) {
            tracing::warn!(%error, reason, "kafka, outside of the group");
        }
    }
}

impl ConsumerContext for ClientCallbacks {}
