//! Creates the dead-letter topic where it does not exist.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};

use super::config;
use crate::kafka::client::ClientCallbacks;
use crate::kafka::inspect;
use crate::settings::Settings;

/// The space for the headers that a dead letter has in addition to its record's.
pub(crate) const HEADER_BYTES: i64 = 64 * 1024;
/// Kafka's default for `segment.bytes`, set because a cluster may have a lower one: a batch must fit into a segment.
const SEGMENT_BYTES: i64 = 1024 * 1024 * 1024;
/// No limit on a timestamp's distance from the present, because letters keep their records' timestamps.
const ANY_TIME: &str = "9223372036854775807";
/// The time limit of a request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The settings that decide whether letters are kept.
const RETENTION_SETTINGS: [&str; 3] = ["retention.ms", "retention.bytes", "cleanup.policy"];

/// Creates the dead-letter topic if it is missing. Records are kept for ever, because they have the old timestamps of
/// their source records, and every record of the source fits. An existing topic is not changed, and a warning names the
/// settings by which it deletes letters. A refusal by the broker is only logged, because an operator may create the topic
/// another way.
///
/// # Errors
/// When the broker did not answer.
pub(crate) async fn create_topic(settings: &Settings) -> KafkaResult<()> {
    let Some(admin) = admin(settings).await? else { return Ok(()) };
    let topic = &settings.kafka.dead_letter_topic;
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
    let source = settings_of(&admin, &settings.kafka.topic).await;
    let fitting = fitting(source.get("max.message.bytes").and_then(|bytes| bytes.parse().ok()));
    let new = NewTopic::new(topic, -1, TopicReplication::Fixed(-1));
    let new = fitting.iter().fold(new, |new, (key, value)| new.set(key, value));
    match admin.create_topics([&new], &options).await?.pop() {
        Some(Ok(_)) => tracing::info!(topic, "made the dead-letter topic"),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
            let existing = settings_of(&admin, topic).await;
            warn_of_deletion(topic, &existing, &fitting);
        }
        // While letters wait, this is tried every few seconds.
        Some(Err((_, error)))
            if config::is_new_line("CREATE", &format!("{topic}: {error}"), Instant::now()) =>
        {
            tracing::warn!(topic, %error, "the dead-letter topic was not made");
        }
        _ => {}
    }
    Ok(())
}

/// A topic's settings; none, and a warning, where they cannot be read.
async fn settings_of(
    admin: &AdminClient<ClientCallbacks>,
    topic: &str,
) -> BTreeMap<String, String> {
    inspect::config(admin, topic).await.unwrap_or_else(|reason| {
        if config::is_new_line("CONFIG", &format!("{topic}: {reason}"), Instant::now()) {
            let effect = "whether the dead-letter topic has room for its records, and keeps them, is not known";
            tracing::warn!(topic, reason, "the topic's settings cannot be read: {effect}");
        }
        BTreeMap::new()
    })
}

fn warn_of_deletion(
    topic: &str,
    existing: &BTreeMap<String, String>,
    fitting: &[(&'static str, String)],
) {
    for (key, ours) in fitting.iter().filter(|(key, _)| RETENTION_SETTINGS.contains(key)) {
        if let Some(value) = existing.get(*key).filter(|value| *value != ours) {
            tracing::warn!(
                topic,
                key,
                value,
                "the dead-letter topic deletes dead letters: set it to {ours}"
            );
        }
    }
}

/// The admin client; `None` for librdkafka's in-process broker, whose topics the quickstart creates.
async fn admin(settings: &Settings) -> KafkaResult<Option<AdminClient<ClientCallbacks>>> {
    let admin: AdminClient<ClientCallbacks> =
        config::producer(settings).create_with_context(ClientCallbacks::default())?;
    let asked = tokio::task::spawn_blocking(move || {
        let cluster = admin.inner().fetch_cluster_id(REQUEST_TIMEOUT);
        (!config::is_in_process(cluster.as_deref())).then_some(admin)
    });
    // The task fails only when the runtime ends.
    Ok(asked.await.unwrap_or_default())
}

/// The topic's settings with which a letter of every source record fits, whatever the cluster's defaults are.
fn fitting(max_message_bytes: Option<i64>) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("cleanup.policy", "delete".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("message.timestamp.before.max.ms", ANY_TIME.to_owned()),
        ("message.timestamp.after.max.ms", ANY_TIME.to_owned()),
    ];
    if let Some(bytes) = max_message_bytes {
        let bytes = bytes.saturating_add(HEADER_BYTES).min(i32::MAX.into());
        settings.push(("max.message.bytes", bytes.to_string()));
        settings.push(("segment.bytes", bytes.max(SEGMENT_BYTES).to_string()));
    } else {
        settings.push(("segment.bytes", SEGMENT_BYTES.to_string()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[tokio::test]
    async fn a_broker_without_a_controller_is_not_waited_for() {
        let cluster = MockCluster::new(1).unwrap();
        let mut settings = Settings::default();
        settings.kafka.brokers = cluster.bootstrap_servers();
        tokio::time::timeout(REQUEST_TIMEOUT * 2, create_topic(&settings)).await.unwrap().unwrap();
    }

    #[test]
    fn letters_are_kept_and_a_segment_is_wide_enough_for_a_batch() {
        let value = |max, key: &str| {
            let settings = fitting(max);
            settings.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let kept = RETENTION_SETTINGS.map(|key| value(None, key).unwrap());
        assert_eq!(kept, ["-1", "-1", "delete"]);
        assert_eq!(value(Some(3_000_000), "max.message.bytes").as_deref(), Some("3065536"));
        assert_eq!(value(Some(3_000_000), "segment.bytes").as_deref(), Some("1073741824"));
        assert_eq!(value(Some(2_000_000_000), "segment.bytes").as_deref(), Some("2000065536"));
        assert_eq!(
            value(Some(i64::from(u32::MAX)), "segment.bytes").as_deref(),
            Some("2147483647")
        );
        assert_eq!(value(None, "max.message.bytes"), None);
    }
}
