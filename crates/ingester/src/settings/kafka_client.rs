//! The permitted keys of `kafka.client`. Some settings of librdkafka would break the ingester's guarantees, so only listed keys
//! are permitted (crates/ingester/README.md, Configuration); the error for any other key names the alternative.

use std::collections::BTreeMap;

use service::config::ConfigError;

/// The permitted keys; an entry that ends with a dot permits all keys with that prefix.
pub(crate) const TAKEN: [&str; 30] = [
    "security.protocol",
    "ssl.",
    "enable.ssl.certificate.verification",
    "sasl.",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "socket.",
    "broker.address.",
    "client.dns.lookup",
    "connections.max.idle.ms",
    "reconnect.backoff.",
    "retry.backoff.",
    "metadata.max.age.ms",
    "topic.metadata.",
    "client.id",
    "client.rack",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "fetch.",
    "max.partition.fetch.bytes",
    "queued.",
    "message.max.bytes",
    "receive.message.max.bytes",
    "compression.",
    "linger.ms",
    "batch.",
    "debug",
];

/// The alternatives to keys that an operator may try to set.
const INSTEAD: [(&[&str], &str); 13] = [
    (&["bootstrap.servers", "metadata.broker.list"], "is set by kafka.brokers"),
    (&["group.id"], "is set by kafka.group"),
    (&["auto.commit.interval.ms"], "use kafka.commit_interval"),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "auto.offset.reset",
        ],
        "cannot be set: offsets are committed after their rows are written, and never otherwise; a group without an \
         offset begins with the first record, and kafka.on_gap decides about records that are lost",
    ),
    (
        &["partition.assignment.strategy"],
        "cannot be set: it is cooperative-sticky; use group.protocol and group.remote.assignor for the broker's",
    ),
    (
        &[
            "enable.idempotence",
            "acks",
            "request.required.acks",
            "transactional.id",
            "retries",
            "message.send.max.retries",
            "message.timeout.ms",
            "delivery.timeout.ms",
            "request.timeout.ms",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "enable.gapless.guarantee",
        ],
        "cannot be set: a dead letter counts when all replicas in sync have it, and is tried until then",
    ),
    (
        &["statistics.interval.ms"],
        "cannot be set: health, lag and the recovery from gaps go by librdkafka's statistics, once a second",
    ),
    (&["isolation.level"], "cannot be set: it is read_committed"),
    (&["check.crcs"], "cannot be set: it is on"),
    (&["queue.buffering.max.ms"], "use linger.ms"),
    (
        &["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
        "use limits.max_buffered_bytes",
    ),
    (&["compression"], "use compression.codec"),
    (
        &["log_level", "log.queue", "log.thread.name", "log.connection.close"],
        "use log.filter (target librdkafka)",
    ),
];
const OTHERWISE: &str = "is not taken: set by kafka.client are security, connection, session, fetching and compression; \
                         crates/ingester/README.md lists the keys";

/// # Errors
/// The first key that is not permitted, with its alternative.
pub(super) fn check(client: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for key in client.keys() {
        if !is_taken(key) {
            let instead = INSTEAD.iter().find(|(keys, _)| keys.contains(&key.as_str()));
            let instead = instead.map_or(OTHERWISE, |(_, instead)| instead);
            return Err(ConfigError::invalid(format!("kafka.client.{key}"), instead));
        }
    }
    check_protocol(client)
}

fn is_taken(key: &str) -> bool {
    TAKEN.iter().any(|taken| key == *taken || (taken.ends_with('.') && key.starts_with(taken)))
}

/// With the newer protocol the broker controls sessions (KIP-848), and librdkafka refuses these keys without naming the
/// ones that were set.
fn check_protocol(client: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let protocol = client.get("group.protocol").map_or("classic", String::as_str);
    let (refused, reason): (&[&str], _) = match protocol.to_ascii_lowercase().as_str() {
        "classic" => (&["group.remote.assignor"], "needs group.protocol = \"consumer\""),
        "consumer" => (
            &["session.timeout.ms", "heartbeat.interval.ms"],
            "cannot be set with group.protocol = \"consumer\": use the broker's group.consumer.session.timeout.ms and \
             group.consumer.heartbeat.interval.ms",
        ),
        _ => (&["group.protocol"], "must be \"classic\" or \"consumer\""),
    };
    match refused.iter().find(|key| client.contains_key(**key)) {
        Some(key) => Err(ConfigError::invalid(format!("kafka.client.{key}"), reason)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> Option<String> {
        let client = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        check(&client.collect()).err().map(|error| error.to_string())
    }

    #[test]
    fn what_may_be_set_is_taken() {
        for taken in TAKEN {
            let key = if taken.ends_with('.') { format!("{taken}x") } else { taken.to_owned() };
            if !key.starts_with("group.") {
                assert_eq!(refused(&[(&key, "1")]), None, "{key}");
            }
        }
        assert_eq!(refused(&[("group.instance.id", "x")]), None);
    }

    #[test]
    fn everything_else_is_refused_with_what_to_use_instead() {
        for (key, instead) in [
            ("statistics.interval.ms", "statistics"),
            ("bootstrap.servers", "kafka.brokers"),
            ("group.id", "kafka.group"),
            ("enable.auto.commit", "after their rows"),
            ("auto.offset.reset", "kafka.on_gap"),
            ("acks", "replicas in sync"),
            ("isolation.level", "read_committed"),
            ("plugin.library.paths", "README"),
            ("test.mock.num.brokers", "README"),
            ("ssl", "README"),
            ("debugger", "README"),
            ("Session.Timeout.Ms", "README"),
        ] {
            let refused = refused(&[(key, "false")]).unwrap();
            assert!(refused.contains(&format!("`kafka.client.{key}`")), "{refused}");
            assert!(refused.contains(instead), "{refused}");
        }
    }

    #[test]
    fn each_protocol_has_its_own_keys() {
        let consumer = ("group.protocol", "consumer");
        assert_eq!(refused(&[consumer, ("group.remote.assignor", "uniform")]), None);
        assert_eq!(refused(&[("group.protocol", "classic"), ("session.timeout.ms", "6000")]), None);
        for (pairs, key) in [
            (&[consumer, ("session.timeout.ms", "6000")][..], "session.timeout.ms"),
            (&[("group.remote.assignor", "uniform")], "group.remote.assignor"),
            (&[("group.protocol", "x")], "group.protocol"),
        ] {
            let refused = refused(pairs).unwrap();
            assert!(refused.contains(&format!("`kafka.client.{key}`")), "{refused}");
        }
    }
}
