//! The configuration: every key, its default, and the values derived from it; `config/ingester.toml` has the same.

mod brokers;
mod checks;
mod kafka_client;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use enrich::{TfaRules, TorRules};
use model::Purl;
use serde::{Deserialize, Serialize};
use service::config::{ConfigError, Settings as LayeredSettings};
use service::telemetry::LogSettings;
use store::StoreSettings;

use crate::decode::DecodeRules;
#[cfg(test)]
pub(crate) use kafka_client::LOGINS;
pub(crate) use kafka_client::{BATCH_BYTES, DEAD_LETTER_BYTES, QUEUED_MESSAGES};

/// All of the ingester's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The registry.
    pub registry: Registry,
    /// The source of the records.
    pub kafka: Kafka,
    /// The events to read.
    pub events: Events,
    /// The limit of rejections in a row.
    pub reject: Reject,
    /// The limits of record size and memory.
    pub limits: Limits,
    /// The limits of a batch.
    pub batch: Batch,
    /// The generation of the verdicts.
    pub enrich: Enrich,
    /// Evidence about Tor.
    pub tor: Tor,
    /// Rules about second factors.
    pub tfa: Tfa,
    /// The database of the publications.
    pub store: StoreSettings,
    /// The listener for probes and metrics.
    pub admin: Admin,
    /// The time limit of a stop.
    pub shutdown: Shutdown,
    /// The settings of the log.
    pub log: LogSettings,
}

/// `[registry]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// The purl type of the registry; one ingester serves one registry.
    pub ecosystem: String,
}

/// `[kafka]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// Bootstrap brokers, `host:port` separated by commas.
    pub brokers: String,
    /// The topic of publish events.
    pub topic: String,
    /// The consumer group. Its positions are its committed offsets and the database's account.
    pub group: String,
    /// The topic for whole rejected records.
    pub dead_letter_topic: String,
    /// How often written offsets are committed.
    #[serde(with = "service::config::duration")]
    pub commit_interval: Duration,
    /// How long a revocation waits for the write of the records that were read.
    #[serde(with = "service::config::duration")]
    pub revoke_timeout: Duration,
    /// The reaction to records that were lost before they were read.
    pub on_gap: OnGap,
    /// Settings for librdkafka: the keys that `kafka_client` allows.
    pub client: BTreeMap<String, String>,
}

/// `kafka.on_gap`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Count and log them, and read on: they cannot be restored, and a stop may lose more.
    #[default]
    Continue,
    /// Log them and end with exit code 65, also at each restart, until an operator has decided.
    Stop,
}

/// Prints only the keys of `kafka.client`, because the values can be secrets.
impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("dead_letter_topic", &self.dead_letter_topic)
            .field("commit_interval", &self.commit_interval)
            .field("revoke_timeout", &self.revoke_timeout)
            .field("on_gap", &self.on_gap)
            .field("client", &self.client.keys())
            .finish()
    }
}

/// `[events]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// The CloudEvents type to read; other events are skipped.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `[reject]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reject {
    /// Reading stops until a restart after this many rejections in a row; 0 = never.
    pub max_consecutive: u64,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest record value; a longer one is rejected as `too_large`.
    pub max_event_bytes: ByteSize,
    /// The limit of records read but not written, in bytes; at it the ingester stops reading.
    pub max_buffered_bytes: ByteSize,
}

/// `[batch]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// The largest number of records in a write.
    pub max_rows: usize,
    /// The largest number of bytes in a write.
    pub max_bytes: ByteSize,
    /// How long a record waits for more records in its batch.
    #[serde(with = "service::config::duration")]
    pub linger: Duration,
    /// The number of parallel writes.
    pub in_flight: usize,
}

/// `[enrich]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrich {
    /// Increased by an operator who changed the inputs of the flags (crates/model/README.md, Merge); 0 to 2³¹−1.
    #[serde(deserialize_with = "checks::generation")]
    pub generation: u32,
}

/// `[tor]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tor {
    /// A directory of exit lists in the TorDNSEL format; empty = none.
    pub exit_lists: PathBuf,
    /// A directory of lists with one address a line; empty = none.
    pub snapshots: PathBuf,
    /// A MaxMind Anonymous IP database, or a directory with one file per build; empty = none.
    pub anonymous_ip: PathBuf,
    /// Networks whose addresses always count as Tor.
    pub prefixes: Vec<String>,
    /// How long after a sighting an address counts as an exit.
    #[serde(with = "service::config::duration")]
    pub window: Duration,
    /// The largest age of the newest list at which a missing address means "not Tor".
    #[serde(with = "service::config::duration")]
    pub coverage: Duration,
    /// How long after a publication a list can still concern it.
    #[serde(with = "service::config::duration")]
    pub settle_after: Duration,
    /// Window and coverage of an Anonymous IP database.
    #[serde(with = "service::config::duration")]
    pub max_age: Duration,
    /// The smallest number of distinct addresses in a valid list.
    pub min_addresses: usize,
    /// The URL of the newest exit list, which is stored in `exit_lists`; empty = no fetch.
    pub poll_url: String,
    /// The interval of the fetches.
    #[serde(with = "service::config::duration")]
    pub poll_every: Duration,
    /// The time limit of a fetch.
    #[serde(with = "service::config::duration")]
    pub poll_timeout: Duration,
    /// The interval of the checks of the directories for new lists.
    #[serde(with = "service::config::duration")]
    pub refresh_every: Duration,
    /// How old a publication may be for new evidence to change it automatically; older ones need a replay.
    #[serde(with = "service::config::duration")]
    pub settle_horizon: Duration,
}

/// `[tfa]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tfa {
    /// Assurance levels that mean that a second factor was verified.
    pub acr_true: Vec<String>,
    /// Assurance levels that mean that none was verified.
    pub acr_false: Vec<String>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// The address of `/livez`, `/readyz` and `/metrics`.
    pub listen: SocketAddr,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// The time from the signal to the end of the process at the latest.
    #[serde(with = "service::config::duration")]
    pub grace: Duration,
}

impl Default for Registry {
    fn default() -> Self {
        Self { ecosystem: "npm".into() }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            topic: "package-publications".into(),
            group: "publication-ingester".into(),
            dead_letter_topic: "package-publications.dead-letters".into(),
            commit_interval: Duration::from_millis(200),
            revoke_timeout: Duration::from_secs(20),
            on_gap: OnGap::Continue,
            client: BTreeMap::new(),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { kind: "registry.package.published.v1".into() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_event_bytes: ByteSize::mib(1), max_buffered_bytes: ByteSize::mib(16) }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_rows: 5_000,
            max_bytes: ByteSize::mib(8),
            linger: Duration::from_millis(4),
            in_flight: 4,
        }
    }
}

impl Default for Tor {
    fn default() -> Self {
        let rules = TorRules::default();
        Self {
            exit_lists: PathBuf::new(),
            snapshots: PathBuf::new(),
            anonymous_ip: PathBuf::new(),
            prefixes: rules.prefixes.iter().map(ToString::to_string).collect(),
            window: rules.window,
            coverage: rules.coverage,
            settle_after: rules.settle_after,
            max_age: rules.max_age,
            min_addresses: rules.min_addresses,
            poll_url: String::new(),
            poll_every: Duration::from_secs(3_600),
            poll_timeout: Duration::from_secs(30),
            refresh_every: Duration::from_secs(20),
            settle_horizon: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(9) }
    }
}

/// `session.timeout.ms`, if it is not set.
pub(crate) const SESSION_MILLIS: u64 = 10_000;

/// The assignor, by which the members share the partitions.
pub(crate) const OUR_ASSIGNOR: &str = "cooperative-sticky";

impl Kafka {
    /// Whether the broker, not the members, assigns partitions and sets the session timeout (KIP-848).
    pub(crate) fn is_broker_assigned(&self) -> bool {
        let protocol = self.client.get("group.protocol");
        protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
    }

    /// How long the group waits for a member's heartbeat. Where the broker decides: the broker's default.
    pub(crate) fn session_timeout(&self) -> Duration {
        let millis = self.client.get("session.timeout.ms").and_then(|text| text.parse().ok());
        let default = if self.is_broker_assigned() { 45_000 } else { SESSION_MILLIS };
        Duration::from_millis(millis.unwrap_or(default))
    }

    /// Whether the connections to the brokers use TLS.
    pub(crate) fn has_tls(&self) -> bool {
        kafka_client::has_tls(&self.client)
    }

    /// The name by which brokers list this program's clients.
    pub(crate) fn client_id(&self) -> &str {
        self.client.get("client.id").map_or("publication-ingester", String::as_str)
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, name) in
            [("kafka.topic", &self.topic), ("kafka.dead_letter_topic", &self.dead_letter_topic)]
        {
            if !is_topic_name(name) {
                let message = "must be a topic's name: 1 to 249 letters, digits, dots, underscores and hyphens";
                return Err(ConfigError::invalid(key, message));
            }
        }
        if self.dead_letter_topic == self.topic {
            let message = "must be a topic of its own";
            return Err(ConfigError::invalid("kafka.dead_letter_topic", message));
        }
        if self.group.is_empty() || self.group.contains(char::is_control) {
            let message = "must not be empty, and have no control characters";
            return Err(ConfigError::invalid("kafka.group", message));
        }
        brokers::check(&self.brokers)
            .map_err(|reason| ConfigError::invalid("kafka.brokers", reason))?;
        kafka_client::check(&self.client)
    }
}

/// A size as a number of bytes in memory.
pub(crate) fn in_memory(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// Kafka's own rule (`org.apache.kafka.common.internals.Topic`). librdkafka treats a name that begins with `^` as a
/// pattern, and would subscribe to the dead letters as well.
fn is_topic_name(name: &str) -> bool {
    let may_have = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && ![".", ".."].contains(&name) && name.bytes().all(may_have)
}

impl Limits {
    /// With less, a settling pass, which gets a twelfth of it, has no room for a record of the usual size.
    const LEAST_BUFFER: ByteSize = ByteSize::kib(64);
    /// A third of it is `queued.max.messages.kbytes`, which librdkafka limits to 2 GiB minus 1 KiB.
    const GREATEST_BUFFER: ByteSize = ByteSize::gib(4);
    /// Kafka stores a record's size in 31 bits.
    const GREATEST_EVENT: ByteSize = ByteSize::gib(2);

    /// librdkafka's own buffer, in KiB: a third of the limit. Its default is 64 MiB.
    pub(crate) fn client_kib(&self) -> u64 {
        (self.max_buffered_bytes.as_u64() / 3 / 1024).max(1024)
    }

    /// The bytes that are left for the ingester's own batches.
    pub(crate) fn own_bytes(&self) -> usize {
        in_memory(self.max_buffered_bytes) / 3 * 2
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.max_event_bytes > Self::GREATEST_EVENT {
            return Err(ConfigError::invalid("limits.max_event_bytes", "must be at most 2GiB"));
        }
        if !(Self::LEAST_BUFFER..=Self::GREATEST_BUFFER).contains(&self.max_buffered_bytes) {
            let message = "must be from 64KiB to 4GiB";
            return Err(ConfigError::invalid("limits.max_buffered_bytes", message));
        }
        Ok(())
    }
}

impl LayeredSettings for Settings {
    const PASS_THROUGH: &'static [&'static str] = &["kafka.client"];

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("batch.max_rows", self.batch.max_rows as u64),
            ("batch.max_bytes", self.batch.max_bytes.as_u64()),
            ("batch.in_flight", self.batch.in_flight as u64),
            ("limits.max_event_bytes", self.limits.max_event_bytes.as_u64()),
            // A list without an address of a family must not cover the family.
            ("tor.min_addresses", self.tor.min_addresses as u64),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(*key, "must be greater than 0"));
        }
        if !Purl::is_canonical_type(&self.registry.ecosystem) {
            let message = "must be a purl type in lower case, such as \"npm\"";
            return Err(ConfigError::invalid("registry.ecosystem", message));
        }
        if i32::try_from(self.enrich.generation).is_err() {
            return Err(ConfigError::invalid("enrich.generation", checks::GREATEST_GENERATION));
        }
        self.kafka.check()?;
        kafka_client::check_sizes(&self.kafka.client, &self.limits)?;
        self.limits.check()?;
        self.events.check()?;
        self.store.check().map_err(|(key, reason)| ConfigError::invalid(key, reason))?;
        // With no grace time, a stop would interrupt all writes and commits.
        if self.shutdown.grace.is_zero() {
            return Err(ConfigError::invalid("shutdown.grace", "must be greater than 0s"));
        }
        for (key, span, most) in [
            ("kafka.commit_interval", self.kafka.commit_interval, 60),
            // The group gives the partitions away after max.poll.interval.ms, five minutes by default.
            ("kafka.revoke_timeout", self.kafka.revoke_timeout, 5 * 60),
            ("batch.linger", self.batch.linger, 60),
            ("shutdown.grace", self.shutdown.grace, 3_600),
        ] {
            let most = Duration::from_secs(most);
            if span > most {
                let message = format!("must be at most {}", humantime::format_duration(most));
                return Err(ConfigError::invalid(key, message));
            }
        }
        self.tor.check()?;
        self.tfa.check()?;
        self.tor_rules().map(|_| ())
    }
}

impl Settings {
    /// The rules of `tor`.
    ///
    /// # Errors
    /// When an entry of `tor.prefixes` is not a network.
    pub fn tor_rules(&self) -> Result<TorRules, ConfigError> {
        let invalid = |_| {
            ConfigError::invalid("tor.prefixes", "must be networks such as \"2405:8100:8000::/48\"")
        };
        let prefixes = self.tor.prefixes.iter().map(|text| text.parse().map_err(invalid));
        Ok(TorRules {
            window: self.tor.window,
            settle_after: self.tor.settle_after,
            coverage: self.tor.coverage,
            max_age: self.tor.max_age,
            min_addresses: self.tor.min_addresses,
            prefixes: prefixes.collect::<Result<_, _>>()?,
        })
    }

    /// The rules of `tfa`.
    #[must_use]
    pub fn tfa_rules(&self) -> TfaRules {
        TfaRules { acr_true: self.tfa.acr_true.clone(), acr_false: self.tfa.acr_false.clone() }
    }

    /// The rules by which records are decoded.
    #[must_use]
    pub fn decode_rules(&self) -> DecodeRules {
        DecodeRules {
            ecosystem: self.registry.ecosystem.clone(),
            event_type: self.events.kind.clone(),
            max_event_bytes: in_memory(self.limits.max_event_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_file_shows_every_key_with_its_default() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/ingester.toml");
        assert_eq!(service::config::differences::<Settings>(&file).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn secrets_of_the_client_are_not_printed() {
        let mut settings = Settings::default();
        settings.kafka.client.insert("sasl.password".into(), "secret".into());
        assert!(!format!("{settings:?}").contains("secret\""));
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        for (change, key) in [
            ((|settings| settings.batch.max_rows = 0) as fn(&mut Settings), "batch.max_rows"),
            (|settings| settings.tor.min_addresses = 0, "tor.min_addresses"),
            (|settings| settings.enrich.generation = 1 << 31, "enrich.generation"),
            (|settings| settings.tor.prefixes = vec!["x".into()], "tor.prefixes"),
            (
                |settings| settings.kafka.dead_letter_topic = settings.kafka.topic.clone(),
                "kafka.dead_letter_topic",
            ),
            (|settings| settings.kafka.group.clear(), "kafka.group"),
            (|settings| settings.kafka.group.push('\u{7}'), "kafka.group"),
            (|settings| settings.events.kind.clear(), "events.type"),
            (|settings| settings.events.kind.push(' '), "events.type"),
            (|settings| settings.events.kind.insert(3, '\t'), "events.type"),
            (|settings| settings.store.url = "sqlite://a\nb".into(), "store.url"),
            (|settings| settings.tor.window = settings.tor.coverage, "tor.coverage"),
            (|settings| settings.tor.window = Duration::from_secs(31 * 86_400), "tor.window"),
            (
                |settings| {
                    settings.tfa.acr_true = vec!["aal1".into(), "aal2".into()];
                    settings.tfa.acr_false = vec!["aal2".into()];
                },
                "tfa.acr_false",
            ),
            (|settings| settings.store.max_connections = 0, "store.max_connections"),
            (|settings| settings.shutdown.grace = Duration::ZERO, "shutdown.grace"),
            (|settings| settings.tor.poll_timeout = Duration::ZERO, "tor.poll_timeout"),
            (
                |settings| settings.store.statement_timeout = Duration::from_secs(1 << 40),
                "store.statement_timeout",
            ),
            (
                |settings| {
                    settings.tor.exit_lists = "lists".into();
                    settings.tor.poll_url = "onionoo.example/secret".into();
                },
                "tor.poll_url",
            ),
            (
                |settings| settings.limits.max_event_bytes = ByteSize(u64::MAX),
                "limits.max_event_bytes",
            ),
            (
                |settings| settings.limits.max_buffered_bytes = ByteSize(1),
                "limits.max_buffered_bytes",
            ),
            (
                |settings| settings.limits.max_buffered_bytes = ByteSize(u64::MAX),
                "limits.max_buffered_bytes",
            ),
        ] {
            assert!(refused(change).contains(&format!("`{key}`")), "{key}: {}", refused(change));
        }
    }

    #[test]
    fn a_time_that_is_too_long_is_refused_with_its_bound() {
        let of = |change: fn(&mut Settings, Duration), seconds| {
            let mut settings = Settings::default();
            change(&mut settings, Duration::from_secs(seconds));
            settings.check().map_err(|error| error.to_string())
        };
        for (change, seconds, message) in [
            (
                (|settings, time| settings.kafka.commit_interval = time)
                    as fn(&mut Settings, Duration),
                60,
                "`kafka.commit_interval`: must be at most 1m",
            ),
            (
                |settings, time| settings.kafka.revoke_timeout = time,
                300,
                "`kafka.revoke_timeout`: must be at most 5m",
            ),
            (
                |settings, time| settings.batch.linger = time,
                60,
                "`batch.linger`: must be at most 1m",
            ),
            (
                |settings, time| settings.shutdown.grace = time,
                3_600,
                "`shutdown.grace`: must be at most 1h",
            ),
        ] {
            assert_eq!(of(change, seconds), Ok(()), "{message}");
            assert!(of(change, seconds + 1).unwrap_err().ends_with(message), "{message}");
        }
    }

    #[test]
    fn a_generation_that_is_too_large_is_refused_with_its_bound() {
        for generation in ["2147483648", "5000000000"] {
            let variable = ("INGESTER_ENRICH__GENERATION".into(), generation.into());
            let loaded = service::config::load::<Settings>(
                "INGESTER_",
                None,
                Path::new("/no/such/file.toml"),
                [variable].into_iter(),
            );
            let error = loaded.unwrap_err().to_string();
            assert!(error.contains("`enrich.generation`"), "{error}");
            assert!(error.ends_with("must be at most 2147483647"), "{error}");
        }
    }

    #[test]
    fn a_topic_is_named_as_kafka_names_it() {
        for name in ["a", "package-publications.dead-letters", "A_1", &"x".repeat(249)] {
            assert!(is_topic_name(name), "{name}");
        }
        for name in ["", ".", "..", "^rx", "a b", "a/b", "ä", "\"ops\"", &"x".repeat(250)] {
            assert!(!is_topic_name(name), "{name}");
        }
    }
}
