//! The producer of dead letters: whole rejected records with error headers (crates/ingester/README.md, Dead letters). If
//! the topic refuses one letter, a reduced letter is sent; if it refuses all of them, they wait.

mod letter;
mod topic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use self::letter::{Changes, Letter, is_letter_fault, needed, reduced};
pub(crate) use self::topic::{HEADER_BYTES, create_topic};
use super::client::ClientCallbacks;
use super::config;
use crate::decode::rejection::Rejection;
use crate::pipeline;
use crate::pipeline::ports::{self, Undelivered};
use crate::record::Record;
use crate::settings::Settings;

/// How long a letter waits for space in the producer's queue, which empties as the broker acknowledges.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two attempts to create the topic.
const CREATE_INTERVAL: Duration = Duration::from_secs(5);

/// The producer of dead letters.
pub(crate) struct DeadLetters {
    producers: Mutex<Arc<Producers>>,
    config: ClientConfig,
    settings: Settings,
    /// When the last attempt to create the topic ended.
    created: tokio::sync::Mutex<Option<Instant>>,
}

/// Two producers that are replaced together: an idempotent producer with a fatal error never sends again.
struct Producers {
    batched: FutureProducer<ClientCallbacks>,
    /// One record per request. The broker checks the size of a whole request, so a refusal of a batch does not say which
    /// record caused it.
    single: FutureProducer<ClientCallbacks>,
    context: ClientCallbacks,
}

impl Producers {
    fn open(config: &ClientConfig) -> KafkaResult<Self> {
        let context = ClientCallbacks::default();
        let mut single = config.clone();
        single.set("batch.num.messages", "1");
        Ok(Self {
            batched: config.create_with_context(context.clone())?,
            single: single.create_with_context(context.clone())?,
            context,
        })
    }

    /// The message of the fatal error of either producer. `topic`: the topic that they write to.
    fn fatal(&self, topic: &str) -> Option<String> {
        let both = [&self.batched, &self.single];
        let (code, message) =
            both.into_iter().find_map(|producer| producer.client().fatal_error())?;
        // A user who may write to any topic needs no right of the cluster (KIP-679).
        let is_no_right = code == RDKafkaErrorCode::ClusterAuthorizationFailed;
        let why = if is_no_right {
            format!("; the right to write {topic} is missing")
        } else {
            String::new()
        };
        Some(message + &why)
    }
}

impl DeadLetters {
    /// # Errors
    /// When librdkafka refuses a setting; the error names it.
    pub(crate) fn open(settings: &Settings) -> KafkaResult<Self> {
        let config = config::producer(settings);
        Ok(Self {
            producers: Mutex::new(Arc::new(Producers::open(&config)?)),
            config,
            settings: settings.clone(),
            created: tokio::sync::Mutex::default(),
        })
    }

    fn producers(&self) -> Arc<Producers> {
        self.producers.lock().clone()
    }

    /// Replaces producers that had a fatal error, so that letters are sent again when the cause is over.
    fn replace_producers(&self, failed: &Arc<Producers>) -> KafkaResult<()> {
        let mut current = self.producers.lock();
        if Arc::ptr_eq(&current, failed) {
            *current = Arc::new(Producers::open(&self.config)?);
        }
        Ok(())
    }

    /// Tries to create a topic that was deleted: one attempt for all letters that wait, because each has a client of its own.
    async fn recreate_topic(&self) {
        let Ok(mut created) = self.created.try_lock() else { return };
        if created.is_some_and(|at| at.elapsed() < CREATE_INTERVAL) {
            return;
        }
        if let Err(error) = create_topic(&self.settings).await {
            tracing::debug!(%error, "the broker has not answered the request to create the dead-letter topic");
        }
        *created = Some(Instant::now());
    }

    /// Sends the whole letter in a batch, then alone, then the reduced letters alone.
    async fn send_all(
        &self,
        producers: &Producers,
        rejected: (&Record, &Rejection),
    ) -> Result<(), Failed> {
        let record = rejected.0;
        let whole = needed(record);
        let Err(first) = self.send(&producers.batched, rejected, whole).await else {
            return Ok(());
        };
        if !may_be_reduced(&first) {
            return Err(Failed::Environment(first));
        }
        for changes in std::iter::once(whole).chain(reduced(record)) {
            match self.send(&producers.single, rejected, changes).await {
                Ok(()) => {
                    self.log_reduced(record, changes, &first);
                    return Ok(());
                }
                Err(error) if may_be_reduced(&error) => {}
                Err(error) => return Err(Failed::Environment(error)),
            }
        }
        Err(Failed::EveryLetter(first))
    }

    fn log_reduced(&self, record: &Record, changes: Changes, error: &KafkaError) {
        if changes != needed(record) {
            let at = &record.position;
            tracing::warn!(
                topic = %at.topic, partition = at.partition, offset = at.offset, %error, ?changes,
                "the dead-letter topic refused a whole dead letter and accepted a reduced one"
            );
        }
    }

    async fn send(
        &self,
        producer: &FutureProducer<ClientCallbacks>,
        rejected: (&Record, &Rejection),
        changes: Changes,
    ) -> KafkaResult<()> {
        let letter = Letter::new(rejected, changes, &self.settings.kafka.group, pipeline::now());
        let mut headers = OwnedHeaders::new_with_capacity(letter.headers.len());
        for (key, value) in &letter.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let topic = &self.settings.kafka.dead_letter_topic;
        let mut sent: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
        sent.key = letter.key.as_deref();
        sent.payload = letter.value;
        sent.timestamp = letter.timestamp;
        producer.send(sent, QUEUE_TIMEOUT).await.map(|_| ()).map_err(|(error, _)| error)
    }
}

/// The reason why a letter was not written.
enum Failed {
    /// An error that no other letter content would avoid.
    Environment(KafkaError),
    /// Even the smallest letter was refused: the topic accepts no letter.
    EveryLetter(KafkaError),
}

fn may_be_reduced(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_letter_fault)
}

#[async_trait]
impl ports::DeadLetters for DeadLetters {
    async fn deliver(&self, rejection: &Rejection, record: &Record) -> Result<(), Undelivered> {
        let producers = self.producers();
        let Err(failed) = self.send_all(&producers, (record, rejection)).await else {
            return Ok(());
        };
        if let Failed::Environment(error) = &failed
            && error.rdkafka_error_code().is_some_and(config::is_no_topic)
        {
            self.recreate_topic().await;
        }
        let reason = match (producers.fatal(&self.settings.kafka.dead_letter_topic), failed) {
            (Some(fatal), _) => match self.replace_producers(&producers) {
                Ok(()) => fatal,
                Err(error) => format!("{fatal}; and no new producer: {error}"),
            },
            // The message about a broker may be an old one, because a producer lives long.
            (None, Failed::Environment(error)) => match producers.context.broker_message(&error) {
                Some(message) => format!("{error}: {message}"),
                None => error.to_string(),
            },
            (None, Failed::EveryLetter(error)) => {
                format!("the topic refuses every dead letter, even one without a value: {error}")
            }
        };
        Err(Undelivered { position: record.position.clone(), reason })
    }
}
