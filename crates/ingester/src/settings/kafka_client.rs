//! The permitted keys of `kafka.client`. Some settings of librdkafka would break the ingester's guarantees, so only listed keys
//! are permitted (crates/ingester/README.md, Configuration); the error for any other key names the alternative.

use std::collections::BTreeMap;

use service::config::ConfigError;

use super::{Limits, SESSION_MILLIS};

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
const OTHERWISE: &str = "is not accepted: kafka.client sets only security, connection, session, fetching and compression; \
                         crates/ingester/README.md lists the keys";

/// The limit of an unpacked batch.
pub(crate) const BATCH_BYTES: u64 = 256 * 1024 * 1024;
/// The limit of a dead letter.
pub(crate) const DEAD_LETTER_BYTES: u64 = 1_000_000_000;

/// The least values, and why.
const AT_LEAST: [(&str, u64, &str); 2] = [
    (
        "receive.message.max.bytes",
        BATCH_BYTES,
        "with less, batches that other clients can read would be lost",
    ),
    (
        "message.max.bytes",
        DEAD_LETTER_BYTES,
        "with less, dead letters would be cut that their topic takes",
    ),
];

/// Checks the sizes.
///
/// # Errors
/// The first value that is out of its range, or not a decimal number, which librdkafka may take in another base.
pub(super) fn check_sizes(
    client: &BTreeMap<String, String>,
    limits: &Limits,
) -> Result<(), ConfigError> {
    let value = |key: &str| client.get(key).map(|value| value.trim().parse::<u64>().ok());
    for (key, least, why) in AT_LEAST {
        if value(key).is_some_and(|value| value.is_none_or(|value| value < least)) {
            let reason = format!("must be at least {least}: {why}");
            return Err(ConfigError::invalid(format!("kafka.client.{key}"), reason));
        }
    }
    for (key, most, why) in [
        (
            "queued.max.messages.kbytes",
            limits.client_kib(),
            ", which follows from limits.max_buffered_bytes",
        ),
        (
            "queued.min.messages",
            QUEUED_MESSAGES,
            ": small records take more memory than their size",
        ),
    ] {
        if value(key).is_some_and(|value| value.is_none_or(|value| value > most)) {
            let reason = format!("must be at most {most}{why}");
            return Err(ConfigError::invalid(format!("kafka.client.{key}"), reason));
        }
    }
    Ok(())
}

/// Enough for 50 ms of the fastest reading. The default of 100,000 holds a whole backlog of small records, and librdkafka needs
/// about 500 bytes more for each of them than its size.
pub(crate) const QUEUED_MESSAGES: u64 = 10_000;

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
    // librdkafka has one value for both, and would take either.
    let spelled_twice = |names: &&[&str; 2]| names.iter().all(|name| client.contains_key(*name));
    if let Some([one, other]) = SPELLINGS.iter().find(spelled_twice) {
        let reason = format!("is another name of {other}, which is set too: set one of them");
        return Err(ConfigError::invalid(format!("kafka.client.{one}"), reason));
    }
    if let Some(key) = client.keys().find(|key| is_of_oidc(key)) {
        return Err(ConfigError::invalid(format!("kafka.client.{key}"), NO_OIDC));
    }
    check_numbers(client)?;
    check_protocol(client)?;
    check_files(client)?;
    check_login(client)
}

/// librdkafka ignores what follows a number: "60s" in milliseconds would be 60 ms.
fn check_numbers(client: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let is_whole = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    for (key, value) in client {
        let is_number = match key.as_str() {
            "linger.ms" => value.parse().is_ok_and(f64::is_finite),
            key if [".ms", ".bytes", ".kbytes", ".messages"]
                .iter()
                .any(|end| key.ends_with(end)) =>
            {
                is_whole(value)
            }
            _ => true,
        };
        if !is_number {
            let reason = "must be a number, without a unit";
            return Err(ConfigError::invalid(format!("kafka.client.{key}"), reason));
        }
    }
    Ok(())
}

const NO_OIDC: &str = "cannot be set: this build has no OIDC; use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or certificates";

/// librdkafka has these settings only where it is built with an HTTP client.
fn is_of_oidc(key: &str) -> bool {
    key.starts_with("sasl.oauthbearer.") && key != "sasl.oauthbearer.config"
}

/// Two names of one setting.
const SPELLINGS: [[&str; 2]; 3] = [
    ["sasl.mechanism", "sasl.mechanisms"],
    ["compression.type", "compression.codec"],
    ["max.partition.fetch.bytes", "fetch.message.max.bytes"],
];

/// Files that librdkafka reads for TLS. It says that one cannot be read, and not which.
const FILES: [&str; 5] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
];

/// `security.protocol`, in lower case and without outer blanks, which librdkafka ignores.
fn protocol(client: &BTreeMap<String, String>) -> String {
    let protocol = client.get("security.protocol").map_or("", String::as_str);
    protocol.trim().to_ascii_lowercase()
}

/// Whether the connections to the brokers use TLS.
pub(super) fn has_tls(client: &BTreeMap<String, String>) -> bool {
    protocol(client).ends_with("ssl")
}

fn check_files(client: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if !has_tls(client) {
        return Ok(());
    }
    for key in FILES {
        // A word of librdkafka's, for the places where systems keep their authorities.
        let path = client.get(key).filter(|path| *path != "probe" && !path.is_empty());
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            let reason = format!("names {path}, which cannot be read: {error}");
            return Err(ConfigError::invalid(format!("kafka.client.{key}"), reason));
        }
    }
    Ok(())
}

/// How a password can be proved, with this build of librdkafka.
const PASSWORD: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const TOKEN: &str = "OAUTHBEARER";

/// Checks what librdkafka needs for its login. Its own error does not name the key, without a token it waits and reports nothing,
/// and it repeats a name that it does not know, which may be a password in the wrong place.
fn check_login(client: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let refused =
        |key: &str, reason: &str| Err(ConfigError::invalid(format!("kafka.client.{key}"), reason));
    let named = ["sasl.mechanism", "sasl.mechanisms"];
    let named = named.iter().find_map(|key| Some((*key, client.get(*key)?.as_str())));
    let is_known = |name: &str| name == TOKEN || PASSWORD.contains(&name);
    if let Some((key, name)) = named
        && !is_known(name)
    {
        return refused(key, "must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER");
    }
    if !protocol(client).starts_with("sasl") {
        return Ok(());
    }
    let has = |key: &str, value: &str| {
        client.get(key).is_some_and(|given| given.eq_ignore_ascii_case(value))
    };
    let unsecured = "enable.sasl.oauthbearer.unsecure.jwt";
    match named {
        None => refused(
            "sasl.mechanisms",
            "is needed with this security.protocol: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        ),
        Some((_, TOKEN)) if has(unsecured, "true") => Ok(()),
        Some((key, TOKEN)) => refused(
            key,
            "is OAUTHBEARER, and this build has no OIDC: it has tokens only with enable.sasl.oauthbearer.unsecure.jwt",
        ),
        Some(_) => {
            match ["sasl.username", "sasl.password"].iter().find(|key| !client.contains_key(**key))
            {
                Some(key) => refused(key, "is needed with this sasl.mechanisms"),
                None => Ok(()),
            }
        }
    }
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
    if let Some(key) = refused.iter().find(|key| client.contains_key(**key)) {
        return Err(ConfigError::invalid(format!("kafka.client.{key}"), reason));
    }
    let millis = |key: &str| client.get(key).and_then(|text| text.parse::<u64>().ok());
    let session = millis("session.timeout.ms").unwrap_or(SESSION_MILLIS);
    if millis("heartbeat.interval.ms").is_some_and(|heartbeat| heartbeat >= session) {
        // Members would lose their partitions again and again.
        let reason = format!("must be less than session.timeout.ms, which is {session}");
        return Err(ConfigError::invalid("kafka.client.heartbeat.interval.ms", reason));
    }
    Ok(())
}

/// Settings of whole logins, from which `kafka::config` makes clients.
#[cfg(test)]
pub(crate) const LOGINS: [&[(&str, &str)]; 4] = [
    &[
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "u"),
        ("sasl.password", "hunter2"),
    ],
    &[
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanisms", "SCRAM-SHA-512"),
        ("sasl.username", "u"),
        ("sasl.password", "hunter2"),
    ],
    &[
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("enable.sasl.oauthbearer.unsecure.jwt", "true"),
        ("sasl.oauthbearer.config", "principal=u"),
    ],
    // Without a protocol that asks for it a login is not used.
    &[("sasl.mechanism", "PLAIN")],
];

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> Option<String> {
        let client = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        check(&client.collect()).err().map(|error| error.to_string())
    }

    #[test]
    fn a_setting_has_one_name() {
        for [one, other] in SPELLINGS {
            let said = refused(&[(one, "1"), (other, "1")]).unwrap();
            assert!(said.contains(one) && said.contains(other), "{said}");
        }
    }

    #[test]
    fn a_size_that_would_lose_records_or_take_more_memory_is_refused() {
        let of = |key: &str, value: &str| {
            let client = [(key.to_owned(), value.to_owned())].into();
            check_sizes(&client, &Limits::default()).err().map(|error| error.to_string())
        };
        for (key, bad, good) in [
            ("receive.message.max.bytes", "67109376", "268435456"),
            ("message.max.bytes", "1000", "1000000000"),
            ("queued.max.messages.kbytes", "5462", "5461"),
            ("queued.min.messages", "1000000", "10000"),
            ("queued.min.messages", "0xFFFFF", "10000"),
        ] {
            assert!(of(key, bad).unwrap().contains(key), "{key}");
            assert_eq!(of(key, good), None, "{key}");
        }
    }

    #[test]
    fn what_may_be_set_is_taken() {
        for taken in TAKEN {
            let key = if taken.ends_with('.') { format!("{taken}x") } else { taken.to_owned() };
            if !key.starts_with("group.") {
                assert_eq!(refused(&[(&key, "9999")]), None, "{key}");
            }
        }
        assert_eq!(refused(&[("group.instance.id", "x")]), None);
    }

    #[test]
    fn a_number_with_a_unit_is_refused() {
        for (key, bad, good) in [
            ("socket.timeout.ms", "60s", "60000"),
            ("fetch.max.bytes", "2MiB", "2097152"),
            ("queued.max.messages.kbytes", "0x10", "16"),
            ("batch.num.messages", "", "10"),
            ("topic.metadata.refresh.interval.ms", "-", "-1"),
            ("linger.ms", "5ms", "0.5"),
        ] {
            let said = refused(&[(key, bad)]).unwrap();
            assert!(said.contains(&format!("`kafka.client.{key}`: must be a number")), "{said}");
            assert_eq!(refused(&[(key, good)]), None, "{key}");
        }
    }

    #[test]
    fn a_heartbeat_is_shorter_than_the_session() {
        let (heartbeat, session) = ("heartbeat.interval.ms", "session.timeout.ms");
        for pairs in [&[(heartbeat, "10000")][..], &[(heartbeat, "6000"), (session, "6000")]] {
            let said = refused(pairs).unwrap();
            assert!(said.contains("`kafka.client.heartbeat.interval.ms`"), "{said}");
        }
        assert_eq!(refused(&[(heartbeat, "5999"), (session, "6000")]), None);
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
    fn what_a_login_lacks_is_named() {
        let sasl = ("security.protocol", "SASL_SSL");
        let plain = ("sasl.mechanism", "PLAIN");
        let (name, password) = (("sasl.username", "u"), ("sasl.password", "hunter2"));
        let token = ("sasl.mechanisms", "OAUTHBEARER");
        for (pairs, key) in [
            (&[("sasl.mechanisms", "hunter2")][..], "sasl.mechanisms"),
            (&[("sasl.mechanisms", "GSSAPI"), sasl], "sasl.mechanisms"),
            (&[sasl, name, password], "sasl.mechanisms"),
            (&[("security.protocol", " Sasl_Ssl\t"), name, password], "sasl.mechanisms"),
            (&[sasl, plain, password], "sasl.username"),
            (&[sasl, plain, name], "sasl.password"),
            (&[sasl, token, name, password], "sasl.mechanisms"),
            (&[sasl, token, ("sasl.oauthbearer.method", "OIDC")], "sasl.oauthbearer.method"),
            (&[("sasl.oauthbearer.client.secret", "hunter2")], "sasl.oauthbearer.client.secret"),
        ] {
            let refused = refused(pairs).unwrap();
            assert!(refused.contains(&format!("`kafka.client.{key}`")), "{pairs:?}: {refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        for pairs in LOGINS {
            assert_eq!(refused(pairs), None, "{pairs:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_path() {
        let place = ("ssl.ca.location", "/no/such/ca.pem");
        let refused_file = refused(&[("security.protocol", "ssl"), place]).unwrap();
        assert!(refused_file.contains("`kafka.client.ssl.ca.location`"), "{refused_file}");
        assert!(
            refused_file.contains("/no/such/ca.pem, which cannot be read: No such"),
            "{refused_file}"
        );
        assert!(refused(&[("security.protocol", " SSL"), place]).is_some());
        assert_eq!(refused(&[place]), None, "it is not used");
        assert_eq!(refused(&[("security.protocol", "ssl"), ("ssl.ca.location", "probe")]), None);
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
