//! The settings for librdkafka, and its log lines written to the ingester's log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::BaseProducer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use service::config::ConfigError;

use crate::settings::{
    BATCH_BYTES, DEAD_LETTER_BYTES, OUR_ASSIGNOR, QUEUED_MESSAGES, SESSION_MILLIS, Settings,
};

/// The version of the linked librdkafka.
pub(crate) fn version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// The consumer's settings: the defaults, then `kafka.client`, then the settings that an operator cannot change.
pub(super) fn consumer(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.kafka.brokers)
        .set("group.id", &settings.kafka.group)
        .set("client.id", settings.kafka.client_id())
        // New partitions, and a topic created after the start, are seen within this time.
        .set("topic.metadata.refresh.interval.ms", "10000")
        // A connection that does not answer is replaced after this time. The default is a minute.
        .set("socket.timeout.ms", "20000")
        // librdkafka holds a whole answer beside its queue, and all of it must arrive within the time above. The default
        // is 50 MB. A larger batch still comes whole.
        .set("fetch.max.bytes", "2097152")
        .set("queued.max.messages.kbytes", settings.limits.client_kib().to_string())
        .set("queued.min.messages", QUEUED_MESSAGES.to_string())
        // The interval after which a full buffer is checked again. The default of 1 s starves a small buffer.
        .set("fetch.queue.backoff.ms", "20")
        // The limit of an unpacked batch. The default of 100 MB is too small for some batches that other clients can
        // read: librdkafka starts with twice the packed size and triples it.
        .set("receive.message.max.bytes", BATCH_BYTES.to_string());
    if !settings.kafka.is_broker_assigned() {
        config
            // A killed member is noticed sooner than with Kafka's 45 s, so its partitions stop for a shorter time.
            .set("session.timeout.ms", SESSION_MILLIS.to_string())
            .set("partition.assignment.strategy", OUR_ASSIGNOR);
    }
    pass_through(&mut config, settings);
    // Only this program moves the position: it commits after the write, and `kafka::group` alone chooses a start.
    config
        .set("statistics.interval.ms", "1000")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        // A record that the disk has damaged becomes an error.
        .set("check.crcs", "true")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error");
    config
}

/// The settings of the producer of dead letters.
pub(super) fn producer(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.kafka.brokers)
        .set("client.id", settings.kafka.client_id())
        .set("linger.ms", "5")
        // The broker checks the size, not the client: a letter that it refuses is sent again with less content.
        .set("message.max.bytes", DEAD_LETTER_BYTES.to_string())
        // Longer than brokers take to drop a follower that hangs: until then the letter waits in the leader's log, and one that is
        // sent anew would be there twice.
        .set("message.timeout.ms", "60000")
        // A topic that was deleted is noticed sooner.
        .set("topic.metadata.propagation.max.ms", "10000");
    pass_through(&mut config, settings);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // A topic that the broker makes by itself has the broker's defaults, and would delete old letters.
        .set("allow.auto.create.topics", "false");
    config
}

/// Checks all settings, so that every command refuses the same ones. Only the making of a client compares them with each other.
///
/// # Errors
/// The first setting that librdkafka refuses.
pub(crate) fn check(settings: &Settings) -> Result<(), ConfigError> {
    // Clients without a broker's address connect to nothing. They would log that they have none.
    let alone = |mut config: ClientConfig| {
        config.remove("bootstrap.servers");
        config.remove("debug");
        config.set("log_level", "0");
        config
    };
    let made = alone(consumer(settings)).create().map(|_: BaseConsumer| ());
    let made = made.and_then(|()| alone(producer(settings)).create().map(|_: BaseProducer| ()));
    made.or_else(|error| refused_setting(&error).map_or(Ok(()), Err))
}

/// The error when a client cannot be created: a configuration error where librdkafka refused a setting.
pub(crate) fn refused(error: KafkaError) -> anyhow::Error {
    match refused_setting(&error) {
        Some(refused) => refused.into(),
        None => anyhow::Error::new(error).context("the kafka client could not be made"),
    }
}

/// The setting that librdkafka refused. Its own message is left out: it quotes the value, which may be a secret.
fn refused_setting(error: &KafkaError) -> Option<ConfigError> {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            Some(ConfigError::invalid(format!("kafka.client.{key}"), "is refused by librdkafka"))
        }
        // Two settings that contradict each other. Messages of this form have their names alone; some lack the blank before it.
        KafkaError::ClientCreation(words) if words.contains("must be ") => {
            Some(ConfigError::invalid("kafka.client", words.clone()))
        }
        _ => None,
    }
}

fn pass_through(config: &mut ClientConfig, settings: &Settings) {
    for (key, value) in &settings.kafka.client {
        config.set(key, value);
    }
    let is_debug = settings.kafka.client.contains_key("debug");
    config.set_log_level(if is_debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
}

/// A list of one partition with its offset.
pub(super) fn place(topic: &str, partition: i32, at: Offset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, at)?;
    Ok(list)
}

/// Whether a position is outside of the partition's log. librdkafka then stops until it gets another position.
pub(super) fn is_out_of_range(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset)
}

/// Whether an error says that the topic does not exist.
pub(super) fn is_no_topic(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
}

/// Whether the cluster is librdkafka's in-process broker, which the quickstart uses. It has no controller, so requests
/// that only a controller answers would end with their timeout.
pub(super) fn is_in_process(cluster_id: Option<&str>) -> bool {
    cluster_id.is_some_and(|id| id.starts_with("mockCluster"))
}

/// Whether an error only means that no answer came. The cause is in librdkafka's messages about the brokers.
pub(super) fn is_no_answer(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::AllBrokersDown
            | Code::DestroyBroker
            | Code::QueueFull
            | Code::Resolve
    )
}

/// The lines that were logged within the last minute. librdkafka repeats itself while it recovers.
#[derive(Debug)]
struct Recent<T>(Mutex<Vec<(T, Instant)>>);

/// The shortest time between two logs of the same line.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

impl<T: PartialEq> Recent<T> {
    /// Whether this was not logged within the last minute; it counts as logged from now on.
    fn is_new(&self, line: T, now: Instant) -> bool {
        let mut logged = self.0.lock();
        logged.retain(|(_, at)| now.saturating_duration_since(*at) < REPEAT_INTERVAL);
        let is_new = logged.iter().all(|(known, _)| *known != line);
        if is_new {
            logged.push((line, now));
        }
        is_new
    }
}

/// Limits errors that librdkafka repeats: each error code is logged once a minute.
#[derive(Debug)]
pub(super) struct ErrorFilter(Recent<RDKafkaErrorCode>);

impl Default for ErrorFilter {
    fn default() -> Self {
        Self(Recent(Mutex::default()))
    }
}

impl ErrorFilter {
    /// Whether this error was not logged within the last minute. Always `false` for errors of a broker's
    /// connection, because librdkafka logs those itself.
    pub(super) fn is_new(&self, error: &KafkaError) -> bool {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if is_no_answer(code)
            || matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)
        {
            return false;
        }
        self.0.is_new(code, Instant::now())
    }
}

/// librdkafka's latest message about a broker.
#[derive(Debug, Default)]
pub(super) struct LastBrokerMessage(Mutex<Option<(String, Instant)>>);

impl LastBrokerMessage {
    /// Takes an error of librdkafka. `AllBrokersDown` follows from the errors of the single brokers, which are more precise.
    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.set(reason);
        }
    }

    /// Takes a line of librdkafka's log: it reports no error for a broker that closes the connection silently or does not
    /// answer. An error is more precise, so a line counts only if there was no recent message.
    pub(super) fn line(&self, facility: &str, message: &str) {
        let is_of_a_broker = ["FAIL", "REQTMOUT"].contains(&facility);
        let is_new = self.0.lock().as_ref().is_none_or(|(_, at)| at.elapsed() >= PRECEDENCE);
        if is_of_a_broker && is_new {
            // The line begins with the name of a thread.
            self.set(message.split_once("]: ").map_or(message, |(_, words)| words));
        }
    }

    /// The latest message; `None` if there was none.
    pub(super) fn text(&self) -> Option<String> {
        self.0.lock().as_ref().map(|(words, _)| words.clone())
    }

    fn set(&self, words: &str) {
        *self.0.lock() = Some((words.to_owned(), Instant::now()));
    }
}

/// How long a message takes precedence over a line of the log.
const PRECEDENCE: Duration = Duration::from_secs(20);

/// librdkafka's log lines of the last minute, for all clients of the process. Each client writes several lines a second
/// about a broker that it cannot reach.
static LINES: Recent<String> = Recent(Mutex::new(Vec::new()));

/// Writes a log line of librdkafka to the ingester's log, at most once a minute. Warnings that a producer ignores
/// consumer settings, or the reverse, are dropped, because `kafka.client` is for both.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if facility == "CONFWARN" && message.contains("will be ignored") {
        return;
    }
    let is_debug = matches!(level, RDKafkaLogLevel::Debug);
    if !is_debug && !is_new_line(facility, message, Instant::now()) {
        return;
    }
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, "{message}")
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Whether no such line was written within the last minute. The time in it ("(after …") is not compared.
pub(super) fn is_new_line(facility: &str, message: &str, now: Instant) -> bool {
    let what = message.split(" (after ").next().unwrap_or(message);
    LINES.is_new(format!("{facility} {what}"), now)
}

/// Whether an error says that the group refuses the member.
pub(super) fn is_group_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::InconsistentGroupProtocol
            | Code::GroupAuthorizationFailed
            | Code::GroupMaxSizeReached
            | Code::InvalidGroupId
            | Code::InvalidSessionTimeout
            | Code::UnsupportedVersion
            | Code::UnreleasedInstanceId
            | Code::FencedInstanceId
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::LOGINS;

    #[test]
    fn librdkafka_takes_each_login_that_the_settings_take() {
        for login in LOGINS {
            let mut settings = Settings::default();
            let pairs = login.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            settings.kafka.client.extend(pairs);
            let made: KafkaResult<BaseConsumer> = consumer(&settings).create();
            let made = made.and_then(|_| producer(&settings).create::<BaseProducer>());
            assert_eq!(made.map(|_| ()), Ok(()), "{login:?}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let mut settings = Settings::default();
        assert_eq!(check(&settings), Ok(()));
        settings.kafka.client.insert("max.poll.interval.ms".into(), "9000".into());
        let error = check(&settings).unwrap_err().to_string();
        assert!(
            error.contains("max.poll.interval.ms") && error.contains("session.timeout.ms"),
            "{error}"
        );
    }

    #[test]
    fn a_line_is_said_once_a_minute() {
        let refused = |millis| {
            format!("b:9092/1: Connect failed: refused (after {millis}ms in state CONNECT)")
        };
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(is_new_line("FAIL", &refused(1), start));
        assert!(!is_new_line("FAIL", &refused(25), after(30)));
        assert!(
            is_new_line("FAIL", "b:9093/2: Connect failed: refused", after(30)),
            "another broker"
        );
        assert!(is_new_line("FAIL", &refused(1), after(60)));
    }
}
