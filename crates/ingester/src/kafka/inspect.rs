//! Asks the broker about the topics and the user's rights, without changing anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ClientCallbacks, Unanswered, ask};
use super::commit_metadata::CommitMetadata;
use super::config;
use super::ffi::{self, CommitAnswer, Group, TopicIds};
use crate::settings::Settings;

/// The time limit of a request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an ordinary transaction may take.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(3);

/// The state of a topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicFacts {
    pub(crate) partitions: usize,
    /// The replica count of the partition with the fewest replicas.
    pub(crate) replicas: usize,
    /// The topic's settings; empty where they cannot be read.
    pub(crate) config: BTreeMap<String, String>,
    /// The reason why they cannot be read.
    pub(crate) unread: Option<String>,
}

impl TopicFacts {
    /// A numeric setting of the topic.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.config.get(name)?.parse().ok()
    }
}

/// The result of the check of a right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Right {
    Given,
    Refused(String),
    /// The broker does not report it.
    Unknown(String),
}

/// All answers. Errors have the broker's message.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) brokers: usize,
    pub(crate) source: Result<TopicFacts, String>,
    pub(crate) read: Right,
    pub(crate) group: Right,
    pub(crate) members: Result<Group, String>,
    pub(crate) dead_letters: Result<TopicFacts, String>,
    pub(crate) write: Right,
    /// The id of the source topic, if the broker has topic ids.
    pub(crate) topic_id: Option<String>,
    /// The group's position in each partition.
    pub(crate) positions: Result<Vec<GroupPosition>, String>,
}

/// The group's position in a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupPosition {
    pub(crate) partition: i32,
    pub(crate) committed: Option<i64>,
    /// Whether the commit's metadata says that the table has an account.
    pub(crate) has_account: bool,
    /// The first offset of the log.
    pub(crate) start: i64,
    /// The high watermark: one more than the last offset.
    pub(crate) end: i64,
    /// The last stable offset: records after it wait for the end of a transaction.
    pub(crate) stable: i64,
}

/// Asks the broker for all facts of a check.
///
/// # Errors
/// When the broker does not answer, or librdkafka refuses a setting.
pub(crate) async fn inspect(settings: &Settings) -> anyhow::Result<Inspected> {
    let owned = settings.clone();
    let mut inspected = tokio::task::spawn_blocking(move || ask_all(&owned)).await??;
    let admin: AdminClient<ClientCallbacks> = config::producer(settings)
        .create_with_context(ClientCallbacks::default())
        .map_err(config::refused)?;
    for (topic, facts) in [
        (&settings.kafka.topic, &mut inspected.source),
        (&settings.kafka.dead_letter_topic, &mut inspected.dead_letters),
    ] {
        if let Ok(facts) = facts {
            match config(&admin, topic).await {
                Ok(config) => facts.config = config,
                Err(error) => facts.unread = Some(error),
            }
        }
    }
    Ok(inspected)
}

/// The settings of a consumer outside of the group.
pub(super) fn probe(settings: &Settings) -> ClientConfig {
    let mut config = config::consumer(settings);
    // librdkafka then reports an end even where the last offsets have no record (transaction markers, compaction).
    config.set("enable.partition.eof", "true").set("statistics.interval.ms", "0");
    config.remove("group.instance.id");
    // A follower in the client's rack may lag behind the leader, whose ends are those of a range.
    config.remove("client.rack");
    config
}

/// Whether the user may read the topic. `probe` has the settings of [`probe`].
pub(super) fn may_read(probe: &ClientConfig, topic: &str) -> bool {
    let consumer: KafkaResult<BaseConsumer<ClientCallbacks>> =
        probe.create_with_context(ClientCallbacks::default());
    consumer.is_ok_and(|consumer| can_read(&consumer, topic) == Right::Given)
}

fn ask_all(settings: &Settings) -> anyhow::Result<Inspected> {
    let consumer: BaseConsumer<ClientCallbacks> =
        probe(settings).create_with_context(ClientCallbacks::default()).map_err(config::refused)?;
    let brokers = metadata(&consumer, &settings.kafka.topic)?.brokers().len();
    let source = facts(&consumer, &settings.kafka.topic);
    let read = match &source {
        Ok(_) => can_read(&consumer, &settings.kafka.topic),
        Err(error) => Right::Refused(error.clone()),
    };
    let count = source.as_ref().map_or(0, |source| source.partitions);
    Ok(Inspected {
        topic_id: TopicIds::of(consumer.client(), &settings.kafka.topic, REQUEST_TIMEOUT)
            .ok()
            .flatten(),
        positions: positions(settings, &consumer, count),
        brokers,
        read,
        source,
        group: can_use_group(&consumer, &settings.kafka.topic),
        members: ffi::describe_group(consumer.client(), &settings.kafka.group, REQUEST_TIMEOUT),
        dead_letters: facts(&consumer, &settings.kafka.dead_letter_topic),
        write: can_write(&consumer, &settings.kafka.dead_letter_topic),
    })
}

/// A consumer that sees the records of open transactions, and so the high watermark. `probe` has the settings of [`probe`].
pub(super) fn uncommitted(probe: &ClientConfig) -> KafkaResult<BaseConsumer<ClientCallbacks>> {
    let mut config = probe.clone();
    config.set("isolation.level", "read_uncommitted");
    config.create_with_context(ClientCallbacks::default())
}

fn positions(
    settings: &Settings,
    consumer: &BaseConsumer<ClientCallbacks>,
    count: usize,
) -> Result<Vec<GroupPosition>, String> {
    let topic = &settings.kafka.topic;
    let all = uncommitted(&probe(settings)).map_err(|error| error.to_string())?;
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let mut wanted = TopicPartitionList::new();
    if count > 0 {
        wanted.add_partition_range(topic, 0, count - 1);
    }
    let answer =
        ask(consumer, REQUEST_TIMEOUT, |time| consumer.committed_offsets(wanted.clone(), time));
    let answer = answer.map_err(|error| error.to_string())?;
    let bounds = |consumer: &BaseConsumer<ClientCallbacks>, partition| {
        let request = |time| consumer.fetch_watermarks(topic, partition, time);
        ask(consumer, REQUEST_TIMEOUT, request).map_err(|error| error.to_string())
    };
    // All ends before the first stable offset: records that come in between must not pass for those of a transaction.
    let mut positions = Vec::new();
    for element in answer.elements() {
        element.error().map_err(|error| error.to_string())?;
        let partition = element.partition();
        let (start, end) = bounds(&all, partition)?;
        let committed = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let has_account = CommitMetadata::parse(element.metadata()).has_account;
        positions.push(GroupPosition { partition, committed, has_account, start, end, stable: 0 });
    }
    // A transaction that is not left open ends soon.
    let deadline = Instant::now() + TRANSACTION_TIMEOUT;
    for position in &mut positions {
        position.stable = bounds(consumer, position.partition)?.1;
        while position.stable < position.end && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
            position.stable = bounds(consumer, position.partition)?.1;
        }
    }
    Ok(positions)
}

/// A message that names those of the wanted partitions that have no leader; `None` where all have one.
pub(super) fn without_leader(
    topic: &MetadataTopic,
    is_wanted: impl Fn(&i32) -> bool,
) -> Option<String> {
    let missing: Vec<i32> = leaderless(topic).filter(is_wanted).collect();
    (!missing.is_empty()).then(|| no_leader(topic.name(), &missing))
}

/// The partitions without a leader.
pub(super) fn leaderless(topic: &MetadataTopic) -> impl Iterator<Item = i32> {
    let missing = topic.partitions().iter().filter(|partition| partition.leader() < 0);
    missing.map(MetadataPartition::id)
}

/// The message for partitions without a leader.
pub(super) fn no_leader(topic: &str, partitions: &[i32]) -> String {
    format!(
        "partitions {partitions:?} of {topic} have no leader: the brokers that hold them are away"
    )
}

fn metadata(consumer: &BaseConsumer<ClientCallbacks>, topic: &str) -> Result<Metadata, Unanswered> {
    ask(consumer, REQUEST_TIMEOUT, |time| consumer.fetch_metadata(Some(topic), time))
}

fn facts(consumer: &BaseConsumer<ClientCallbacks>, topic: &str) -> Result<TopicFacts, String> {
    let metadata = metadata(consumer, topic).map_err(|error| error.to_string())?;
    let Some(found) = metadata.topics().first() else { return Err("no answer".to_owned()) };
    if let Some(error) = found.error() {
        return Err(RDKafkaErrorCode::from(error).to_string());
    }
    if let Some(message) = without_leader(found, |_| true) {
        return Err(message);
    }
    let replicas = found.partitions().iter().map(|partition| partition.replicas().len()).min();
    Ok(TopicFacts {
        partitions: found.partitions().len(),
        replicas: replicas.unwrap_or(0),
        ..TopicFacts::default()
    })
}

/// Fetches from the end of the topic. The first answer is the end, a record or a refusal. Any other error may be over with
/// the next attempt: one of several addresses of a broker may be unreachable.
fn can_read(consumer: &BaseConsumer<ClientCallbacks>, topic: &str) -> Right {
    let last = config::place(topic, 0, Offset::End);
    let assigned = last.and_then(|last| consumer.assign(&last));
    if let Err(error) = assigned {
        return Right::Refused(error.to_string());
    }
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut message = format!("no answer to a fetch within {REQUEST_TIMEOUT:?}");
    loop {
        match consumer.poll(deadline.saturating_duration_since(Instant::now())) {
            Some(Ok(_)) | Some(Err(KafkaError::PartitionEOF(_))) => return Right::Given,
            Some(Err(error)) => {
                let is_missing = error.rdkafka_error_code().is_some_and(config::is_no_topic);
                message = consumer.context().text_of(&error);
                if is_missing || is_refused(&error, RDKafkaErrorCode::TopicAuthorizationFailed) {
                    return Right::Refused(message);
                }
            }
            None => return Right::Refused(message),
        }
    }
}

/// Asks for the group's offset, then commits for a partition that cannot exist: the broker checks the right first and
/// commits nothing in either case. Joining the group would cause a rebalance for the other members.
fn can_use_group(consumer: &BaseConsumer<ClientCallbacks>, topic: &str) -> Right {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let answer =
        ask(consumer, REQUEST_TIMEOUT, |time| consumer.committed_offsets(asked.clone(), time));
    match answer {
        // The right to read the topic is reported separately.
        Err(error) if error.code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {}
        Err(error) => return Right::Refused(error.to_string()),
        Ok(_) => {}
    }
    let absent = config::place(topic, i32::MAX, Offset::Offset(0));
    let asked = absent.and_then(|absent| CommitAnswer::ask(consumer.client(), &absent));
    match asked.map(|answer| answer.get(REQUEST_TIMEOUT)) {
        Ok(Some(Err(error))) | Err(error)
            if is_refused(&error, RDKafkaErrorCode::GroupAuthorizationFailed) =>
        {
            Right::Refused(error.to_string())
        }
        Ok(None) => Right::Refused(format!("no answer to a commit within {REQUEST_TIMEOUT:?}")),
        _ => Right::Given,
    }
}

/// Whether the user lacks this right, or every right in the cluster.
fn is_refused(error: &KafkaError, right: RDKafkaErrorCode) -> bool {
    let code = error.rdkafka_error_code();
    code == Some(right) || code == Some(RDKafkaErrorCode::ClusterAuthorizationFailed)
}

/// The topic's settings.
///
/// # Errors
/// The reason why they cannot be read, such as the missing right.
pub(super) async fn config(
    admin: &AdminClient<ClientCallbacks>,
    topic: &str,
) -> Result<BTreeMap<String, String>, String> {
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let described = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await;
    let context = admin.inner().context();
    let described = described.map_err(|error| context.text_of(&error))?.into_iter().next();
    let resource = described.ok_or("no answer")?.map_err(|code| code.to_string())?;
    let entries = resource.entries.into_iter();
    Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// Asks the broker for the user's rights (KIP-430). A test letter would stay in the topic.
fn can_write(consumer: &BaseConsumer<ClientCallbacks>, topic: &str) -> Right {
    match ffi::may_write(consumer.client(), topic, REQUEST_TIMEOUT) {
        Ok(Some(true)) => Right::Given,
        Ok(Some(false)) => Right::Refused(
            KafkaError::MessageProduction(RDKafkaErrorCode::TopicAuthorizationFailed).to_string(),
        ),
        Ok(None) => Right::Unknown("the broker does not say the user's rights".to_owned()),
        Err(error) => Right::Unknown(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use testkit::{Kafka, NetworkFault, Proxy, eventually, unique};

    use super::*;

    /// Kafka's API key of OffsetCommit requests.
    const OFFSET_COMMIT: u16 = 8;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_without_an_answer_does_not_keep_the_check_waiting() {
        let proxy = Proxy::start();
        let kafka = Kafka::builder().listener("PROXIED", "PLAINTEXT", Some(proxy.port())).start();
        proxy.forward_to(&kafka.listener("PROXIED"));
        let topic = unique("silent");
        testkit::topic(&kafka.brokers(), &topic, 1, &[]).await;
        let mut settings = Settings::default();
        settings.kafka.brokers = proxy.address();
        let consumer: Arc<BaseConsumer<ClientCallbacks>> =
            Arc::new(probe(&settings).create_with_context(ClientCallbacks::default()).unwrap());
        let ask = || {
            let (consumer, topic) = (consumer.clone(), topic.clone());
            tokio::task::spawn_blocking(move || can_use_group(&consumer, &topic))
        };
        eventually("a coordinator", REQUEST_TIMEOUT * 6, async || {
            ask().await.unwrap() == Right::Given
        })
        .await;
        proxy.set(NetworkFault::RequestsLost(OFFSET_COMMIT));
        let right = tokio::time::timeout(REQUEST_TIMEOUT * 2, ask()).await.unwrap().unwrap();
        // Closing a consumer waits for the answer, too.
        proxy.set(NetworkFault::None);
        assert!(matches!(&right, Right::Refused(words) if words.contains("commit")), "{right:?}");
    }
}
