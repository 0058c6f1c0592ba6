//! The settings of the query daemon. `config/query.toml` shows each key with its reason.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use model::Purl;
use serde::{Deserialize, Serialize};
use service::config::{ConfigError, Settings};
use service::telemetry::LogSettings;
use store::StoreSettings;

/// The prefix of the environment variables.
pub const PREFIX: &str = "QUERY_";
/// The file that is read when the command line names none.
pub const DEFAULT_FILE: &str = "config/query.toml";

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuerySettings {
    /// The public listener.
    pub http: HttpSettings,
    /// The listener for probes and Prometheus.
    pub admin: AdminSettings,
    /// The database.
    pub store: StoreSettings,
    /// The registry that is served.
    pub registry: RegistrySettings,
    /// Limits of a request, and of all requests together.
    pub limits: Limits,
    /// The caches.
    pub cache: CacheSettings,
    /// Tokens, rate limit, proxies and origins.
    pub access: AccessSettings,
    /// The stop of the daemon.
    pub shutdown: ShutdownSettings,
    /// Logs.
    pub log: LogSettings,
}

/// The table `http`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Maximum number of connections. One more closes the connection that has been idle longest, or one whose body is not
    /// complete.
    pub max_connections: usize,
    /// Maximum number of connections of one address (IPv6: /64). One more closes one of these. Trusted proxies are
    /// exempt.
    pub max_connections_per_address: usize,
    /// A connection that sends no complete request head for so long is closed.
    #[serde(with = "service::config::duration")]
    pub idle_timeout: Duration,
    /// A client is cut off when it is this far behind `min_rate` in receiving its answer.
    #[serde(with = "service::config::duration")]
    pub write_timeout: Duration,
    /// Bytes of an answer that a client must receive per second.
    pub min_rate: ByteSize,
    /// Maximum time from the end of a request's head to its answer.
    #[serde(with = "service::config::duration")]
    pub request_timeout: Duration,
    /// Whether the log has a line for each request.
    pub access_log: bool,
    /// A notice for readers of the data, on the pages, in GraphiQL and in the schema. Empty = none.
    pub notice: String,
}

/// The table `admin`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The table `registry`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// The purl type of the registry.
    pub ecosystem: String,
    /// Hosts that serve the registry's packages: `HOST[:PORT][/PATH]`.
    pub hosts: Vec<String>,
}

impl RegistrySettings {
    /// Whether the URL, with or without a scheme, names one of the hosts.
    pub(crate) fn names(&self, url: &str) -> bool {
        let scheme = url.split_once("://").map_or("https", |(scheme, _)| scheme);
        if !["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web)) {
            return false;
        }
        let own = host(url);
        self.hosts.iter().any(|known| host(known) == own)
    }
}

/// Normalizes a host: no scheme, no default port, no slashes at the end, lower case.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.to_ascii_lowercase();
    let plain = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80")).unwrap_or(&host);
    format!("{plain}{path}")
}

/// Whether the text is `HOST[:PORT][/PATH]`: clients get it as it is, and read it as a URL without a scheme.
fn is_host(text: &str) -> bool {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let port_at = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    let (host, port) = authority.split_at(port_at.unwrap_or(authority.len()));
    let is_port = port.is_empty()
        || port[1..].bytes().all(|byte| byte.is_ascii_digit()) && port[1..].parse::<u16>().is_ok();
    let is_known = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            // A URL's host that ends in a number is an IPv4 address (WHATWG URL, "ends in a number").
            let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
            let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
            host.bytes().all(is_name) && (!is_number || host.parse::<Ipv4Addr>().is_ok())
        }
    };
    let is_path = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
    is_known && is_port && path.bytes().all(is_path)
}

/// The table `limits`. A request over a limit is refused with a message that names the key.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Publications that one operation may ask for.
    pub max_refs: u32,
    /// `publications` fields of one operation, and the same number of `search` fields. Each is one statement.
    pub max_pages: u32,
    /// Rows that are read for the histories of one operation.
    pub max_history: u64,
    /// The body of a request.
    pub max_body: ByteSize,
    /// The text of a document.
    pub max_document: ByteSize,
    /// Tokens of a document; white space, commas and comments count.
    pub max_tokens: usize,
    /// Nesting of a document: as written, and of selections with fragments expanded.
    pub max_depth: usize,
    /// Operations and fragments of a document.
    pub max_definitions: usize,
    /// Selections of an operation with fragments expanded.
    pub max_selections: u64,
    /// The same, with each selection in a list of the introspection multiplied by the list's length.
    pub max_cost: u64,
    /// Errors in one answer.
    pub max_errors: usize,
    /// Bytes of an error's message.
    pub max_error_length: usize,
    /// The body of an answer.
    pub max_answer: ByteSize,
    /// All answers that are being sent. One client may use half of it.
    pub max_answers: ByteSize,
    /// All bodies that are being read. One client may use half of it.
    pub max_bodies: ByteSize,
    /// Publications that all bulk requests together work on at the same time; more requests wait. Requests for up to
    /// 1,000 publications have their own permits.
    pub max_refs_in_progress: u32,
    /// The memory of the process. The sum of all limits must not exceed it.
    pub max_memory: ByteSize,
}

/// The table `cache`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Memory for validated documents.
    pub documents: ByteSize,
    /// Memory for the texts of persisted queries; 0 turns them off.
    pub persisted_queries: ByteSize,
    /// `max-age` of the answer to a GET request when every row is settled.
    #[serde(with = "service::config::duration")]
    pub settled_max_age: Duration,
    /// The same for answers with rows that are unsettled or missing, and for pages.
    #[serde(with = "service::config::duration")]
    pub unsettled_max_age: Duration,
}

/// The header that the proxies write. Only one is read, because a proxy that writes one of them passes the other on as
/// the client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

/// The table `access`.
#[derive(Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessSettings {
    /// A file with a name and the SHA-256 of a token on each line; empty = none.
    pub tokens_file: PathBuf,
    /// The same as a list, in addition to the file.
    pub tokens: Vec<String>,
    /// Publications that a client may ask for within `rate_window`; 0 = no limit.
    pub rate_limit: u32,
    /// The time in which an empty bucket fills.
    #[serde(with = "service::config::duration")]
    pub rate_window: Duration,
    /// Clients that are counted at the same time.
    pub rate_clients: usize,
    /// Addresses and networks of the proxies whose header is trusted.
    pub trusted_proxies: Vec<String>,
    /// The header in which they name the client.
    pub forwarded_header: ForwardedHeader,
    /// Origins whose pages may send requests; `*` = all.
    pub cors_origins: Vec<String>,
}

/// The token hashes are left out, because they belong in no log.
impl fmt::Debug for AccessSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessSettings")
            .field("tokens_file", &self.tokens_file)
            .field("tokens", &format_args!("{} [redacted]", self.tokens.len()))
            .field("rate_limit", &self.rate_limit)
            .field("rate_window", &self.rate_window)
            .field("rate_clients", &self.rate_clients)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("forwarded_header", &self.forwarded_header)
            .field("cors_origins", &self.cors_origins)
            .finish()
    }
}

/// The table `shutdown`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownSettings {
    /// How long requests in progress may take after SIGTERM.
    #[serde(with = "service::config::duration")]
    pub grace: Duration,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            max_connections: 2_048,
            max_connections_per_address: 256,
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            min_rate: ByteSize::kib(32),
            request_timeout: Duration::from_secs(10),
            access_log: false,
            notice: String::new(),
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: loopback(9465) }
    }
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self { ecosystem: "npm".into(), hosts: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_refs: 5_000,
            max_pages: 10,
            max_history: 500_000,
            max_body: ByteSize::mib(2),
            max_document: ByteSize::kib(64),
            max_tokens: 4_000,
            max_depth: 32,
            max_definitions: 64,
            max_selections: 2_000,
            max_cost: 200_000,
            max_errors: 10,
            max_error_length: 300,
            max_answer: ByteSize::mib(8),
            max_answers: ByteSize::mib(16),
            max_bodies: ByteSize::mib(8),
            max_refs_in_progress: 10_000,
            max_memory: ByteSize::mib(128),
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            documents: ByteSize::mib(4),
            persisted_queries: ByteSize::mib(2),
            settled_max_age: Duration::from_secs(3_600),
            unsettled_max_age: Duration::from_secs(30),
        }
    }
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            tokens_file: PathBuf::new(),
            tokens: Vec::new(),
            rate_limit: 0,
            rate_window: Duration::from_secs(3_600),
            rate_clients: 50_000,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::XForwardedFor,
            cors_origins: Vec::new(),
        }
    }
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10) }
    }
}

impl Limits {
    /// The limits of a single request, by key.
    pub(crate) const fn of_a_request(&self) -> [(&'static str, u64); 11] {
        [
            ("limits.max_refs", self.max_refs as u64),
            ("limits.max_pages", self.max_pages as u64),
            ("limits.max_history", self.max_history),
            ("limits.max_body", self.max_body.as_u64()),
            ("limits.max_document", self.max_document.as_u64()),
            ("limits.max_tokens", self.max_tokens as u64),
            ("limits.max_depth", self.max_depth as u64),
            ("limits.max_definitions", self.max_definitions as u64),
            ("limits.max_selections", self.max_selections),
            ("limits.max_cost", self.max_cost),
            ("limits.max_answer", self.max_answer.as_u64()),
        ]
    }
}

impl QuerySettings {
    /// Lowers `http.max_connections` to fit the limit of open files, with a warning. Without a free file the daemon
    /// could neither answer probes nor reach the database.
    pub fn fit(&mut self, open_files: u64) {
        let files = usize::try_from(open_files).unwrap_or(usize::MAX);
        // Files for the admin listener, for the store (SQLite opens three per connection), and for the process itself.
        let others = (files / 4).min(256) + 3 * self.store.max_connections as usize + 64;
        let most = files.saturating_sub(others).max(1);
        if self.http.max_connections > most {
            tracing::warn!(
                "{files} open files (`ulimit -n`) are too few for http.max_connections = {}: there are {most} at most",
                self.http.max_connections
            );
            self.http.max_connections = most;
        }
    }
}

impl Settings for QuerySettings {
    /// No limit may be 0: each one protects the process from small documents that cost much.
    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let others = [
            ("limits.max_errors", limits.max_errors as u64),
            ("limits.max_error_length", limits.max_error_length as u64),
            ("http.max_connections", self.http.max_connections as u64),
            ("http.max_connections_per_address", self.http.max_connections_per_address as u64),
            ("http.min_rate", self.http.min_rate.as_u64()),
        ];
        let mut sizes = limits.of_a_request().into_iter().chain(others);
        if let Some((key, _)) = sizes.find(|(_, value)| *value == 0) {
            return Err(ConfigError::invalid(key, "must not be 0"));
        }
        let HttpSettings { idle_timeout, write_timeout, request_timeout, .. } = &self.http;
        for (key, span) in [
            ("http.idle_timeout", idle_timeout),
            ("http.write_timeout", write_timeout),
            ("http.request_timeout", request_timeout),
        ] {
            if span.is_zero() {
                return Err(ConfigError::invalid(key, "must be greater than 0s"));
            }
        }
        let notice = &self.http.notice;
        if notice.len() > LONGEST_NOTICE || notice.chars().any(char::is_control) {
            let message = format!("must be one line of at most {LONGEST_NOTICE} bytes");
            return Err(ConfigError::invalid("http.notice", message));
        }
        self.store.check().map_err(|(key, reason)| ConfigError::invalid(key, reason))?;
        if !Purl::is_canonical_type(&self.registry.ecosystem) {
            let message = "must be a purl type in lower case, such as \"npm\"";
            return Err(ConfigError::invalid("registry.ecosystem", message));
        }
        // Never printed: the text may hold a password.
        if let Some(index) = self.registry.hosts.iter().position(|host| !is_host(host)) {
            let message = "is not HOST[:PORT][/PATH] such as registry.example, without scheme, user, query and fragment";
            return Err(ConfigError::invalid(format!("registry.hosts[{index}]"), message));
        }
        if limits.max_depth > MAX_DEPTH {
            return Err(ConfigError::invalid("limits.max_depth", "must not be over 64"));
        }
        for (all, one, is_below) in [
            ("max_answers", "max_answer", limits.max_answers < limits.max_answer),
            ("max_bodies", "max_body", limits.max_bodies < limits.max_body),
            ("max_refs_in_progress", "max_refs", limits.max_refs_in_progress < limits.max_refs),
        ] {
            if is_below {
                let message = format!("must not be below limits.{one}");
                return Err(ConfigError::invalid(format!("limits.{all}"), message));
            }
        }
        Ok(())
    }
}

/// Maximum bytes of `http.notice`: a few sentences, because every page and the schema repeat it.
const LONGEST_NOTICE: usize = 500;

/// Maximum number of request heads over 4 KiB that may be arriving: GET requests with documents in their URLs.
pub(crate) const MAX_LONG_HEADS: usize = 256;

/// Upper bound of `limits.max_depth`. The validation recurses; this depth, twice the default, was tested to fit a 2 MiB
/// stack, also without optimisation.
const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn load(environment: &[(&str, &str)]) -> Result<QuerySettings, ConfigError> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        service::config::load(PREFIX, None, Path::new("/no/such/file"), environment)
    }

    #[test]
    fn connections_leave_room_for_other_files() {
        let fitted = |files| {
            let mut settings = QuerySettings::default();
            settings.fit(files);
            settings.http.max_connections
        };
        assert_eq!([fitted(1 << 20), fitted(1_024), fitted(256), fitted(8)], [2_048, 680, 104, 1]);
    }

    #[test]
    fn the_file_shows_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/query.toml");
        let differences = service::config::differences::<QuerySettings>(&path).unwrap();
        assert_eq!(differences, Vec::<String>::new());
    }

    #[test]
    fn no_limit_can_be_switched_off() {
        for key in ["TOKENS", "REFS", "DEPTH", "SELECTIONS", "COST", "DEFINITIONS", "BODY"] {
            let error = load(&[(&format!("QUERY_LIMITS__MAX_{key}"), "0")]).unwrap_err();
            let name = format!("`limits.max_{}`", key.to_lowercase());
            assert!(error.to_string().contains(&name), "{error}");
        }
        for key in ["IDLE", "WRITE", "REQUEST"] {
            let error = load(&[(&format!("QUERY_HTTP__{key}_TIMEOUT"), "0s")]).unwrap_err();
            let name = format!("`http.{}_timeout`", key.to_lowercase());
            assert!(error.to_string().contains(&name), "{error}");
        }
        assert!(load(&[("QUERY_LIMITS__MAX_TOKENS", "-1")]).is_err());
        assert!(load(&[("QUERY_LIMITS__MAX_DEPTH", "65")]).is_err());
        assert!(load(&[("QUERY_LIMITS__MAX_ANSWERS", "1MiB")]).is_err());
        assert!(load(&[("QUERY_LIMITS__MAX_BODIES", "1MiB")]).is_err());
        assert!(load(&[("QUERY_LIMITS__MAX_REFS_IN_PROGRESS", "4999")]).is_err());
    }

    #[test]
    fn a_url_has_no_control_characters() {
        let error = load(&[("QUERY_STORE__URL", "sqlite://a\u{7}b")]).unwrap_err();
        assert!(error.to_string().contains("`store.url`"), "{error}");
    }

    #[test]
    fn a_notice_is_one_line() {
        for wrong in ["two\nlines".to_owned(), "x".repeat(501)] {
            let error = load(&[("QUERY_HTTP__NOTICE", &wrong)]).unwrap_err();
            assert!(error.to_string().contains("`http.notice`"), "{error}");
        }
        assert_eq!(
            load(&[("QUERY_HTTP__NOTICE", "made-up data")]).unwrap().http.notice,
            "made-up data"
        );
    }

    #[test]
    fn a_host_has_many_spellings() {
        let hosts = vec!["registry.example".to_owned(), "npm.example:8443/private/".to_owned()];
        let registry = RegistrySettings { hosts, ..RegistrySettings::default() };
        for url in [
            "registry.example",
            "https://registry.example/",
            "HTTPS://Registry.EXAMPLE:443",
            "https://npm.example:8443/private",
        ] {
            assert!(registry.names(url), "{url}");
        }
        for url in [
            "",
            "example",
            "ftp://registry.example",
            "https://npm.example/private",
            "npm.example:8443/Private",
        ] {
            assert!(!registry.names(url), "{url}");
        }
    }

    #[test]
    fn the_hosts_are_checked_and_never_printed() {
        let hosts = |hosts: &[&str]| {
            let list = serde_json::to_string(hosts).unwrap();
            load(&[("QUERY_REGISTRY__HOSTS", &list)])
        };
        let good = [
            "registry.example",
            "Registry.Example.:8443",
            "192.0.2.1:80/npm/",
            "[2001:db8::1]:8080",
            "proxy_1/feed@Local/npm",
        ];
        assert_eq!(hosts(&good).unwrap().registry.hosts, good);
        for wrong in [
            "",
            "https://registry.example",
            "user:secret@registry.example",
            "secret@registry.example/path",
            "registry.example?secret",
            "registry.example/#secret",
            "registry .example",
            " registry.example",
            "registry.example/a b",
            "registry.example/a\\b",
            "registry.example:",
            "registry.example:+80",
            "registry.example:65536",
            ":80",
            "/npm",
            "2001:db8::1",
            "[2001:db8::1",
            "256.0.0.1",
            "r%65gistry.example",
            "münchen.example",
        ] {
            let error = hosts(&["registry.example", wrong]).unwrap_err().to_string();
            assert!(error.contains("`registry.hosts[1]`"), "{wrong}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn keys_can_be_set_by_the_environment() {
        let settings = load(&[
            ("QUERY_HTTP__LISTEN", "127.0.0.1:0"),
            ("QUERY_STORE__URL", "postgres://host/db"),
            ("QUERY_LIMITS__MAX_BODY", "1KiB"),
        ])
        .unwrap();
        assert_eq!(settings.http.listen.port(), 0);
        assert_eq!(settings.store.url, "postgres://host/db");
        assert_eq!(settings.limits.max_body, ByteSize::kib(1));
    }
}
