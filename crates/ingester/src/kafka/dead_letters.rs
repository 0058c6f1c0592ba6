//! The dead-letter topic: rejected records go there whole, with the headers that Kafka Connect made the convention and
//! ours (contract, section 1).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use model::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::config;
use crate::decode::rejection::Rejection;
use crate::pipeline::ports::{self, Undelivered};
use crate::record::Record;
use crate::settings::Settings;

/// The longest `__connect.errors.exception.message`, in bytes.
const MAX_MESSAGE_BYTES: usize = 500;
/// How many dead letters came before this one of the same record.
const ATTEMPTS: &str = "publication.error.attempts";
/// Room for the headers that a dead letter has over its record.
const HEADER_ROOM: u64 = 64 * 1024;

/// What a dead letter repeats of its record. Each step is for a broker that refuses the one before it for its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// Only where the record stands, and its timestamp.
    Nothing,
    /// All but the value.
    KeyAndHeaders,
    /// The record as it came.
    All,
}

/// The producer of dead letters.
pub(crate) struct DeadLetters {
    producer: FutureProducer<Context>,
    /// One record a request, made when it is first needed: a broker judges the size of a whole request, so a refusal
    /// says nothing about any one record of it.
    single: OnceLock<FutureProducer<Context>>,
    single_config: ClientConfig,
    topic: String,
    group: String,
}

#[derive(Clone, Default)]
struct Context(Arc<config::Repeated>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        config::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if self.0.is_news(&error) {
            tracing::warn!(%error, reason, "kafka, writing dead letters");
        }
    }
}

impl DeadLetters {
    /// # Errors
    /// When librdkafka refuses a setting, by name.
    pub(crate) fn open(settings: &Settings) -> KafkaResult<Self> {
        let config = config::producer(settings);
        let mut single_config = config.clone();
        single_config.set("batch.num.messages", "1");
        Ok(Self {
            producer: config.create_with_context(Context::default())?,
            single: OnceLock::new(),
            single_config,
            topic: settings.kafka.dead_letter_topic.clone(),
            group: settings.kafka.group.clone(),
        })
    }

    /// What was refused for its size among others, once more by itself; then less of it.
    async fn deliver_alone(&self, rejection: &Rejection, record: &Record) -> KafkaResult<()> {
        let single = match self.single.get() {
            Some(single) => single,
            None => {
                let made = self.single_config.create_with_context(Context::default())?;
                self.single.get_or_init(|| made)
            }
        };
        for kept in [Kept::All, Kept::KeyAndHeaders] {
            match self.send(single, rejection, record, kept).await {
                Err(error) if is_size(&error) => {}
                result => return result,
            }
        }
        self.send(single, rejection, record, Kept::Nothing).await
    }

    async fn send(
        &self,
        producer: &FutureProducer<Context>,
        rejection: &Rejection,
        record: &Record,
        kept: Kept,
    ) -> KafkaResult<()> {
        let mut letter: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&self.topic).headers(self.headers(rejection, record, kept));
        letter.key = record.key.as_deref().filter(|_| kept >= Kept::KeyAndHeaders);
        letter.payload = record.value.as_deref().filter(|_| kept == Kept::All);
        letter.timestamp = record.timestamp;
        // Room in the producer's own queue is waited for: it empties as the broker acknowledges.
        producer.send(letter, Duration::from_secs(10)).await.map(|_| ()).map_err(|(error, _)| error)
    }

    fn headers(&self, rejection: &Rejection, record: &Record, kept: Kept) -> OwnedHeaders {
        let position = &record.position;
        let attempts =
            record.header(ATTEMPTS).and_then(|text| str::from_utf8(text).ok()?.parse::<u32>().ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_micros(0).after(now);
        let ours = [
            ("__connect.errors.topic", position.topic.to_string()),
            ("__connect.errors.partition", position.partition.to_string()),
            ("__connect.errors.offset", position.offset.to_string()),
            ("__connect.errors.connector.name", self.group.clone()),
            ("__connect.errors.stage", rejection.code.stage().to_owned()),
            ("__connect.errors.exception.message", truncated(&rejection.message).to_owned()),
            ("publication.error.code", rejection.code.as_str().to_owned()),
            (ATTEMPTS, attempts.unwrap_or(0).saturating_add(1).to_string()),
            ("publication.error.at", now.to_rfc3339_millis()),
            ("publication.ingester.version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let omitted = [
            (Kept::All, "publication.value.omitted"),
            (Kept::KeyAndHeaders, "publication.key.omitted"),
            (Kept::KeyAndHeaders, "publication.headers.omitted"),
        ];
        let theirs = if kept >= Kept::KeyAndHeaders { &record.headers[..] } else { &[] };
        let mut headers =
            OwnedHeaders::new_with_capacity(theirs.len() + ours.len() + omitted.len());
        for header in theirs {
            headers = headers.insert(Header { key: &header.name, value: header.value.as_deref() });
        }
        for (key, value) in &ours {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        for (_, key) in omitted.into_iter().filter(|&(needed, _)| kept < needed) {
            headers = headers.insert(Header { key, value: Some("true") });
        }
        headers
    }
}

#[async_trait]
impl ports::DeadLetters for DeadLetters {
    /// One that the broker refuses for its size goes without its value, and where that is not enough without its key and
    /// headers: a broker bounds what it gets compressed, so they may be larger than what it takes as it is.
    async fn deliver(&self, rejection: &Rejection, record: &Record) -> Result<(), Undelivered> {
        match self.send(&self.producer, rejection, record, Kept::All).await {
            Err(error) if is_size(&error) => self.deliver_alone(rejection, record).await,
            result => result,
        }
        .map_err(|error| Undelivered {
            position: record.position.clone(),
            reason: error.to_string(),
        })
    }
}

/// Whether the broker refused a request for its size.
fn is_size(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize)
    )
}

fn truncated(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]
}

/// Makes the dead-letter topic where it is missing: kept for ever, since its records carry the times of the records they
/// repeat, and wide enough for every record of the source. A topic that is there is left as it is, and a broker that
/// does not let us is reported: an operator may make it otherwise. `false` when there was no answer.
pub(crate) async fn create_topic(settings: &Settings) -> bool {
    let name = &settings.kafka.dead_letter_topic;
    let result = async {
        let admin: AdminClient<Context> =
            config::producer(settings).create_with_context(Context::default())?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let max_bytes = max_message_bytes(&admin, &settings.kafka.topic, &options).await;
        let max_bytes = max_bytes.map(|bytes| (bytes + HEADER_ROOM).to_string());
        let mut topic =
            NewTopic::new(name, -1, TopicReplication::Fixed(-1)).set("retention.ms", "-1");
        if let Some(max_bytes) = &max_bytes {
            topic = topic.set("max.message.bytes", max_bytes);
        }
        let mut results = admin.create_topics([&topic], &options).await?;
        KafkaResult::Ok(results.pop())
    };
    match result.await {
        Ok(Some(Ok(_))) => tracing::info!(topic = name, "made the dead-letter topic"),
        Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) | Ok(None) => {}
        Ok(Some(Err((_, error)))) => {
            tracing::warn!(topic = name, %error, "the dead-letter topic was not made")
        }
        // librdkafka's in-process broker, which makes topics by itself.
        Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature)) => {}
        Err(error) => {
            tracing::warn!(topic = name, %error, "no answer about the dead-letter topic");
            return false;
        }
    }
    true
}

async fn max_message_bytes(
    admin: &AdminClient<Context>,
    topic: &str,
    options: &AdminOptions,
) -> Option<u64> {
    let described =
        admin.describe_configs(&[ResourceSpecifier::Topic(topic)], options).await.ok()?;
    let resource = described.into_iter().next()?.ok()?;
    resource.get("max.message.bytes")?.value.as_ref()?.parse().ok()
}
