//! The configuration: every key, its default, and what follows from it. `config/ingester.toml` says the same.

mod brokers;
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

/// All of the ingester's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which registry this is.
    pub registry: Registry,
    /// Where records come from.
    pub kafka: Kafka,
    /// Which events are read.
    pub events: Events,
    /// What to do when everything is rejected.
    pub reject: Reject,
    /// Bounds of what is read and held.
    pub limits: Limits,
    /// How records are gathered for the database.
    pub batch: Batch,
    /// What the flags are derived from.
    pub enrich: Enrich,
    /// Evidence about Tor.
    pub tor: Tor,
    /// Rules about second factors.
    pub tfa: Tfa,
    /// Where publications are kept.
    pub store: StoreSettings,
    /// The listener for probes and metrics.
    pub admin: Admin,
    /// How to stop.
    pub shutdown: Shutdown,
    /// How to log.
    pub log: LogSettings,
}

/// `[registry]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// The purl type of the one registry that is served.
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
    /// The consumer group; its committed offset is the only position.
    pub group: String,
    /// Where rejected records go, whole.
    pub dead_letter_topic: String,
    /// How often finished offsets are committed while records flow.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// How long a rebalance waits for what was read to be written before the partitions are let go.
    #[serde(with = "humantime_serde")]
    pub revoke_timeout: Duration,
    /// What to do about records that are lost before they were read.
    pub on_gap: OnGap,
    /// Handed to librdkafka: the keys that `kafka_client` takes.
    pub client: BTreeMap<String, String>,
}

/// `kafka.on_gap`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Count and name them, and read on: nothing brings them back, and standing still loses more.
    #[default]
    Continue,
    /// Name them and end with exit code 65, again at each start, until an operator has decided.
    Stop,
}

/// Values of `kafka.client` can be secrets and are not printed.
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
    /// The CloudEvents type that is read; others are skipped.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `[reject]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reject {
    /// After so many rejections in a row reading stops until a restart; 0 = never.
    pub max_consecutive: u64,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The greatest record value; a longer one is rejected as `too_large`.
    pub max_event_bytes: ByteSize,
    /// Records read and not yet written, in bytes; at the bound the ingester stops reading.
    pub max_buffered_bytes: ByteSize,
}

/// `[batch]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Records of one write at most.
    pub max_rows: usize,
    /// Bytes of one write at most.
    pub max_bytes: ByteSize,
    /// How long a record waits for others to be written with.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Writes at once.
    pub in_flight: usize,
}

/// `[enrich]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrich {
    /// Raised by an operator who changed what the flags are derived from (crates/model/README.md, Merge); 0 to 2³¹−1.
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
    /// A MaxMind Anonymous IP database, or a folder with one a build; empty = none.
    pub anonymous_ip: PathBuf,
    /// Networks that count as Tor by themselves.
    pub prefixes: Vec<String>,
    /// How long after a sighting an address counts as an exit.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How old the newest list may be for its silence to count.
    #[serde(with = "humantime_serde")]
    pub coverage: Duration,
    /// How long after an act lists still concern it.
    #[serde(with = "humantime_serde")]
    pub settle_after: Duration,
    /// Window and coverage of an Anonymous IP database.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Distinct addresses that a list must hold.
    pub min_addresses: usize,
    /// Where the newest exit list is fetched from and filed in `exit_lists`; empty = nowhere.
    pub poll_url: String,
    /// How often it is fetched.
    #[serde(with = "humantime_serde")]
    pub poll_every: Duration,
    /// How long one fetch may take.
    #[serde(with = "humantime_serde")]
    pub poll_timeout: Duration,
    /// How often the directories are looked through for new lists.
    #[serde(with = "humantime_serde")]
    pub refresh_every: Duration,
    /// How far back new evidence is applied by itself; beyond that it is a replay.
    #[serde(with = "humantime_serde")]
    pub settle_horizon: Duration,
}

/// `[tfa]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tfa {
    /// Assurance levels that say a second factor was verified.
    pub acr_true: Vec<String>,
    /// Assurance levels that say none was.
    pub acr_false: Vec<String>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where `/livez`, `/readyz` and `/metrics` answer.
    pub listen: SocketAddr,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// From the signal to the end, whatever happens.
    #[serde(with = "humantime_serde")]
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
        Self { max_event_bytes: ByteSize::mib(1), max_buffered_bytes: ByteSize::mib(48) }
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

/// How members share partitions out among themselves.
pub(crate) const OUR_ASSIGNOR: &str = "cooperative-sticky";

impl Kafka {
    /// Whether the broker assigns partitions and decides about sessions (KIP-848), instead of the members.
    pub(crate) fn is_broker_assigned(&self) -> bool {
        let protocol = self.client.get("group.protocol");
        protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
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
        if self.group.is_empty() {
            return Err(ConfigError::invalid("kafka.group", "must not be empty"));
        }
        brokers::check(&self.brokers)
            .map_err(|reason| ConfigError::invalid("kafka.brokers", reason))?;
        kafka_client::check(&self.client)
    }
}

/// Kafka's own rule (`org.apache.kafka.common.internals.Topic`). librdkafka takes a name that begins with `^` for a
/// pattern, and would subscribe to the dead letters as well.
fn is_topic_name(name: &str) -> bool {
    let may_have = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && ![".", ".."].contains(&name) && name.bytes().all(may_have)
}

impl Limits {
    /// Below the least, a settling pass, which gets a twelfth of it, has no room for a record of the usual size.
    const LEAST_BUFFER: ByteSize = ByteSize::kib(64);
    /// A third of it is `queued.max.messages.kbytes`, of which librdkafka takes 2 GiB less a KiB.
    const GREATEST_BUFFER: ByteSize = ByteSize::gib(4);
    /// No record is greater: Kafka counts the bytes of one with 31 bits.
    const GREATEST_EVENT: ByteSize = ByteSize::gib(2);

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
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(*key, "must be greater than 0"));
        }
        if !Purl::is_canonical_type(&self.registry.ecosystem) {
            let message = "must be a purl type in lower case, such as \"npm\"";
            return Err(ConfigError::invalid("registry.ecosystem", message));
        }
        if i32::try_from(self.enrich.generation).is_err() {
            return Err(ConfigError::invalid("enrich.generation", "must be at most 2147483647"));
        }
        self.kafka.check()?;
        self.limits.check()?;
        self.store.check().map_err(|(key, reason)| ConfigError::invalid(key, reason))?;
        // Without any, a stop would cut off whatever is being written and committed.
        if self.shutdown.grace.is_zero() {
            return Err(ConfigError::invalid("shutdown.grace", "must be greater than 0s"));
        }
        if !self.tor.poll_url.is_empty() && self.tor.exit_lists.as_os_str().is_empty() {
            return Err(ConfigError::invalid(
                "tor.poll_url",
                "needs tor.exit_lists to file what it fetches",
            ));
        }
        for (key, span) in
            [("tor.poll_every", self.tor.poll_every), ("tor.refresh_every", self.tor.refresh_every)]
        {
            if span < Duration::from_secs(1) {
                return Err(ConfigError::invalid(key, "must be at least 1s"));
            }
        }
        self.tor_rules().map(|_| ())
    }
}

impl Settings {
    /// The rules of `tor`.
    ///
    /// # Errors
    /// When `tor.prefixes` holds something that is no network.
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

    /// What decides about a record.
    #[must_use]
    pub fn decode_rules(&self) -> DecodeRules {
        DecodeRules {
            ecosystem: self.registry.ecosystem.clone(),
            event_type: self.events.kind.clone(),
            max_event_bytes: usize::try_from(self.limits.max_event_bytes.as_u64())
                .unwrap_or(usize::MAX),
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
            (|settings| settings.enrich.generation = 1 << 31, "enrich.generation"),
            (|settings| settings.tor.prefixes = vec!["x".into()], "tor.prefixes"),
            (
                |settings| settings.kafka.dead_letter_topic = settings.kafka.topic.clone(),
                "kafka.dead_letter_topic",
            ),
            (|settings| settings.kafka.group.clear(), "kafka.group"),
            (|settings| settings.store.max_connections = 0, "store.max_connections"),
            (|settings| settings.shutdown.grace = Duration::ZERO, "shutdown.grace"),
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
    fn a_topic_is_named_as_kafka_names_it() {
        for name in ["a", "package-publications.dead-letters", "A_1", &"x".repeat(249)] {
            assert!(is_topic_name(name), "{name}");
        }
        for name in ["", ".", "..", "^rx", "a b", "a/b", "ä", "\"ops\"", &"x".repeat(250)] {
            assert!(!is_topic_name(name), "{name}");
        }
    }
}
