//! The parameters of `store.url`. A parameter that affects security or routing works as in libpq, or is refused by
//! name. No parameter is ignored silently, and no value is printed.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::SqliteConnectOptions;

/// The problem with a URL, without the URL's values.
pub(crate) type Problem = Cow<'static, str>;

/// A parsed `postgres://` URL.
#[derive(Debug, Clone)]
pub(crate) struct PostgresUrl {
    pub(crate) options: PgConnectOptions,
    /// `connect_timeout`, which overrides `store.connect_timeout`.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) target: SessionKind,
}

impl PostgresUrl {
    /// The server's address, for error messages. `store.url_file` does not show it to an operator.
    pub(crate) fn address(&self) -> String {
        match self.options.get_socket() {
            Some(folder) => format!("{} port {}", folder.display(), self.options.get_port()),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }
}

/// `target_session_attrs`: the kind of server that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionKind {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

impl SessionKind {
    fn parse(word: &str) -> Result<Self, Problem> {
        Ok(match word {
            "any" => Self::Any,
            "read-write" => Self::ReadWrite,
            "read-only" => Self::ReadOnly,
            "primary" => Self::Primary,
            "standby" => Self::Standby,
            // With a single host, libpq's `prefer-standby` accepts every server.
            "prefer-standby" => Self::Any,
            _ => return Err(invalid("target_session_attrs")),
        })
    }

    pub(crate) const fn takes(self, is_standby: bool, is_read_only: bool) -> bool {
        match self {
            Self::Any => true,
            Self::ReadWrite => !is_read_only,
            Self::ReadOnly => is_read_only,
            Self::Primary => !is_standby,
            Self::Standby => is_standby,
        }
    }
}

fn invalid(parameter: &str) -> Problem {
    format!("has a value of {parameter} that cannot be used").into()
}

fn unsupported(parameter: &str, known: &[&str]) -> Problem {
    if known.contains(&parameter) {
        return format!("has the parameter {parameter}, which is not supported").into();
    }
    // The rest of a password that has an `&` of its own looks like a parameter.
    "has a parameter that is not known; if the password has an &, write %26".into()
}

/// libpq's other parameters (PostgreSQL manual, "Parameter Key Words").
const UNSUPPORTED: [&str; 24] = [
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
    "sslsni",
    "tcp_user_timeout",
];

/// Parameters that are passed to sqlx, which treats them as libpq does.
const HANDED_ON: [&str; 6] = ["port", "dbname", "user", "password", "application_name", "options"];

/// Parameters that are accepted with these values only, because the values are this program's behaviour anyway.
const WITHOUT_EFFECT: [(&str, &[&str]); 5] = [
    ("channel_binding", &["disable", "prefer"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslnegotiation", &["postgres"]),
    ("load_balance_hosts", &["disable"]),
    ("client_encoding", &["utf8", "UTF8", "auto"]),
];

/// libpq's variables for the security and the routing of a connection. sqlx reads some of them, and none as libpq does.
const VARIABLES: [&str; 18] = [
    "PGCHANNELBINDING",
    "PGGSSENCMODE",
    "PGHOSTADDR",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLCERT",
    "PGSSLCERTMODE",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLKEY",
    "PGSSLMAXPROTOCOLVERSION",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMODE",
    "PGSSLNEGOTIATION",
    "PGSSLROOTCERT",
    "PGTARGETSESSIONATTRS",
];

impl PostgresUrl {
    /// Parses a URL and checks that the certificate files that it names can be read.
    pub(crate) fn parse(url: &str) -> Result<Self, Problem> {
        let is_set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if let Some(name) = VARIABLES.iter().find(is_set) {
            let hint = "write it into the URL and unset the variable";
            return Err(format!("is not all: {name} is set, which is not followed; {hint}").into());
        }
        if let Some(value) = std::env::var_os("PGPORT") {
            port(&value.to_string_lossy())?;
        }
        // A `/` or `#` ends the user and password of a URL. The rest of the password would become the host, the port or the
        // database, and an error message would print it.
        let path = url.split('?').next().and_then(|url| url.splitn(4, '/').nth(3));
        if url.contains('#') || path.is_some_and(|path| path.contains('@')) {
            let problem =
                "has a / or # in its password, or an @ in its database's name: write %2F, %23, %40";
            return Err(problem.into());
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        // Likewise a `?`: an error message would print the rest of the password as the name of a parameter.
        if query.contains('@') {
            return Err("has a ? in its password, or an @ in a parameter: write %3F, %40".into());
        }
        let given = Given::of(query)?;
        // sqlx would read a plus as a space, which libpq does not.
        let parameters = given.handed_on.join("&").replace('+', "%2B");
        let url = format!("{}?{parameters}", given.with_host(base)?);
        // sqlx's error message would quote the value.
        let unreadable = |_| Problem::Borrowed("cannot be read as a database URL");
        let mut options = PgConnectOptions::from_str(&url).map_err(unreadable)?;
        // The URL's parser keeps the brackets of an IPv6 address, which the resolver does not know.
        let host = options.get_host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if options.get_socket().is_none() {
            options = options.host(&host);
        }
        options = given.secured(options)?;
        if options.get_application_name().is_none() {
            options = options.application_name("publication");
        }
        // The metrics report slow statements; sqlx would log their full text. A pooler refuses `extra_float_digits`.
        let options = options.disable_statement_logging().extra_float_digits(None);
        Ok(Self { options, connect_timeout: given.connect_timeout, target: given.target })
    }
}

/// Checks `PGPORT`, instead of which sqlx would take 5432. libpq takes an empty one as none.
fn port(value: &str) -> Result<(), Problem> {
    if value.is_empty() || value.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(());
    }
    Err("is not all: PGPORT is set, and is no port number".into())
}

const SEVERAL: &str = "names several hosts, which is not supported";

/// The parameters of a URL.
struct Given<'u> {
    /// Those that sqlx reads.
    handed_on: Vec<&'u str>,
    host: Option<String>,
    hostaddr: Option<String>,
    connect_timeout: Option<Duration>,
    target: SessionKind,
    mode: PgSslMode,
    root: Option<String>,
}

impl<'u> Given<'u> {
    fn of(query: &'u str) -> Result<Self, Problem> {
        let mut given = Self {
            handed_on: Vec::new(),
            host: None,
            hostaddr: None,
            connect_timeout: None,
            target: SessionKind::Any,
            mode: PgSslMode::Prefer,
            root: None,
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, raw) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(raw).decode_utf8();
            let value = value.map_err(|_| "has a parameter that is not UTF-8")?;
            match key {
                "host" | "hostaddr" | "port" if value.contains(',') => return Err(SEVERAL.into()),
                "host" => given.host = Some(value.into()),
                "hostaddr" => {
                    value.parse::<IpAddr>().map_err(|_| invalid(key))?;
                    given.hostaddr = Some(value.into());
                }
                "sslmode" => given.mode = mode(&value)?,
                "sslrootcert" => given.root = Some(value.into()),
                "sslcert" | "sslkey" => {
                    certificate_or_key(key, &value)?;
                    given.handed_on.push(parameter);
                }
                "connect_timeout" => {
                    let seconds = value.parse().ok().filter(|&seconds| seconds > 0);
                    let seconds = seconds.ok_or_else(|| invalid(key))?;
                    given.connect_timeout = Some(Duration::from_secs(seconds));
                }
                "target_session_attrs" => given.target = SessionKind::parse(&value)?,
                _ if HANDED_ON.contains(&key) => given.handed_on.push(parameter),
                _ if key.starts_with("options[") && key.ends_with(']') => {
                    given.handed_on.push(parameter);
                }
                _ => {
                    let known = WITHOUT_EFFECT.iter().find(|(known, _)| *known == key);
                    let (_, values) = known.ok_or_else(|| unsupported(key, &UNSUPPORTED))?;
                    if !values.contains(&&*value) {
                        return Err(format!("asks for a {key} that is not supported").into());
                    }
                }
            }
        }
        Ok(given)
    }

    /// The URL with the host that libpq would connect to: `hostaddr`, else `host`, else the URL's own, else that of `PGHOST`, else
    /// this machine's socket.
    fn with_host(&self, base: &str) -> Result<String, Problem> {
        let (scheme, rest) = base.split_once("://").ok_or("cannot be read as a database URL")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let port = place.rfind(':').filter(|&at| !place[at..].contains(']'));
        let (own, port) = place.split_at(port.unwrap_or(place.len()));
        let host = match self.hostaddr.as_ref().or(self.host.as_ref()) {
            _ if place.contains(',') => return Err(SEVERAL.into()),
            Some(host) => host.clone(),
            None if !own.is_empty() => return Ok(base.to_owned()),
            None => PgConnectOptions::new_without_pgpass().get_host().to_owned(),
        };
        if host.contains(',') {
            return Err(SEVERAL.into());
        }
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) if host.starts_with('/') => {
                utf8_percent_encode(&host, NON_ALPHANUMERIC).to_string()
            }
            Err(_)
                if host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) =>
            {
                host
            }
            Err(_) => return Err(invalid("host")),
        };
        let at = if user.is_empty() { "" } else { "@" };
        Ok(format!("{scheme}://{user}{at}{host}{port}{path}"))
    }

    fn has(&self, key: &str) -> bool {
        self.handed_on.iter().any(|parameter| parameter.split('=').next() == Some(key))
    }

    /// Applies `sslmode` and the certificates.
    fn secured(&self, options: PgConnectOptions) -> Result<PgConnectOptions, Problem> {
        if self.has("sslcert") != self.has("sslkey") {
            return Err("has one of sslcert and sslkey, which belong together".into());
        }
        let is_verified = matches!(self.mode, PgSslMode::VerifyFull);
        if is_verified && self.hostaddr.is_some() {
            // sqlx would compare the address with the certificate, not the host's name.
            return Err("has hostaddr with sslmode=verify-full, which is not supported".into());
        }
        let options = options.ssl_mode(self.mode);
        match self.root.as_deref() {
            None => Ok(options),
            Some(_) if !is_verified => Err("has sslrootcert without sslmode=verify-full".into()),
            // The system's root certificates, which are the default.
            Some("system") => Ok(options),
            Some(path) if readable("sslrootcert", path)?.contains(CERTIFICATE) => {
                Ok(options.ssl_root_cert(path))
            }
            Some(path) => {
                Err(format!("names in sslrootcert {path}, which holds no certificate").into())
            }
        }
    }
}

/// `sslmode`. sqlx has no real `allow`: it would never try TLS. It trusts the system's authorities beside `sslrootcert`, so that
/// with `verify-ca` anybody's certificate would do.
fn mode(word: &str) -> Result<PgSslMode, Problem> {
    match PgSslMode::from_str(word).map_err(|_| invalid("sslmode"))? {
        PgSslMode::Allow => Err("asks for sslmode=allow, which is not supported".into()),
        PgSslMode::VerifyCa => {
            Err("asks for sslmode=verify-ca, which is not supported: use verify-full".into())
        }
        mode => Ok(mode),
    }
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

fn certificate_or_key(key: &str, path: &str) -> Result<(), Problem> {
    let text = readable(key, path)?;
    let (is_one, what) = if key.ends_with("key") {
        let is_key = text.contains("PRIVATE KEY-----") && !text.contains("ENCRYPTED");
        (is_key, "private key without a password")
    } else {
        (text.contains(CERTIFICATE), "certificate")
    };
    if is_one {
        return Ok(());
    }
    Err(format!("names in {key} {path}, which holds no {what}").into())
}

fn readable(key: &str, path: &str) -> Result<String, Problem> {
    let bytes = std::fs::read(Path::new(path))
        .map_err(|error| format!("names in {key} {path}, which cannot be read: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses a `sqlite://` URL.
pub(crate) fn sqlite(url: &str) -> Result<SqliteConnectOptions, Problem> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        // These values are this program's behaviour anyway: a reader writes no row in any mode.
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("mode", "rw" | "rwc") | ("cache", "private") => {}
            (key @ ("mode" | "cache"), _) => {
                return Err(format!("asks for a {key} that is not supported").into());
            }
            (key, _) => {
                return Err(unsupported(key, &["immutable", "key", "psow", "nolock", "vfs"]));
            }
        }
    }
    let options = SqliteConnectOptions::from_str(url);
    let options = options.map_err(|_| Problem::Borrowed("cannot be read as a database URL"))?;
    // SQLite would take a temporary file.
    if options.get_filename().as_os_str().is_empty() {
        return Err(Problem::Borrowed("names no file"));
    }
    // The writer's connections take it as a name, the others as a URI.
    if options.get_filename().as_os_str().as_encoded_bytes().starts_with(b"file:") {
        return Err(Problem::Borrowed("names a file that begins with file:, write ./file:"));
    }
    if options.get_filename().is_dir() {
        return Err(Problem::Borrowed("names a folder, where a file must be"));
    }
    // Only `migrate` creates a file.
    Ok(options.create_if_missing(false).disable_statement_logging())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(parameters: &str) -> Option<String> {
        let url = format!("postgres://u:hunter2@127.0.0.1/db?{parameters}");
        PostgresUrl::parse(&url).err().map(Cow::into_owned)
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_and_without_its_value() {
        for (parameters, names) in [
            ("sslpassword=hunter2", "sslpassword"),
            ("channel_binding=require", "channel_binding"),
            ("gssencmode=require", "gssencmode"),
            ("target_session_attrs=hunter2", "target_session_attrs"),
            ("connect_timeout=hunter2", "connect_timeout"),
            ("connect_timeout=0", "connect_timeout"),
            ("sslmode=hunter2", "sslmode"),
            ("sslmode=allow", "allow"),
            ("hostaddr=127.0.0.1&sslmode=verify-full", "hostaddr"),
            ("options[work_mem=hunter2", "not known"),
            ("password=x&hunter2", "%26"),
            ("password=x&hunter2=y", "%26"),
            ("keepalives=1", "keepalives"),
            ("host=a,b", "several hosts"),
            ("sslmode=verify-full&sslrootcert=/no/such/file", "/no/such/file"),
            ("sslmode=verify-full&sslrootcert=Cargo.toml", "Cargo.toml"),
            ("sslmode=verify-ca", "verify-ca"),
            ("sslcert=Cargo.toml", "no certificate"),
            ("sslkey=Cargo.toml", "no private key"),
            ("sslrootcert=system", "verify-full"),
            ("sslcert=/no/such/file", "sslcert"),
        ] {
            let problem = problem(parameters).unwrap();
            assert!(problem.contains(names) && !problem.contains("hunter2"), "{problem}");
        }
        for (url, hint) in [
            ("postgres://u:1/hunter2@h/db", "%2F"),
            ("postgres://u:1#hunter2@h/db", "%23"),
            ("postgres://u:1?hunter2&x@h/db", "%3F"),
            ("postgres://u:1?hunter2/x@h/db", "%3F"),
        ] {
            let problem = PostgresUrl::parse(url).unwrap_err();
            assert!(problem.contains(hint) && !problem.contains("hunter2"), "{problem}");
        }
        let several = PostgresUrl::parse("postgres://u:p@a:5432,b:5432/db").unwrap_err();
        assert!(several.contains("several hosts"), "{several}");
        let other = sqlite("sqlite://x.db?key=hunter2").unwrap_err();
        assert!(other.contains("key") && !other.contains("hunter2"), "{other}");
        for (parameters, name) in [
            ("mode=ro", "mode"),
            ("cache=shared", "cache"),
            ("immutable=true", "immutable"),
            ("mode=rw&vfs=unix", "vfs"),
        ] {
            let problem = sqlite(&format!("sqlite://x.db?{parameters}")).unwrap_err();
            assert!(problem.contains(name), "{problem}");
        }
        for url in ["sqlite:file:x.db", "sqlite://file:x.db", "sqlite://file%3Ax.db"] {
            assert!(sqlite(url).unwrap_err().contains("begins with file:"), "{url}");
        }
        sqlite("sqlite://./file:x.db").unwrap();
        sqlite("sqlite://x.db?mode=rw&cache=private").unwrap();
        sqlite("sqlite://x.db?mode=rwc").unwrap();
    }

    #[test]
    fn a_port_of_the_environment_is_one() {
        for value in ["5544x", "0", "65536", "a,b"] {
            assert!(port(value).unwrap_err().contains("PGPORT"), "{value}");
        }
        port("5544").unwrap();
        port("").unwrap();
    }

    #[test]
    fn what_is_supported_works_as_in_libpq() {
        let url = "postgres://u@h/db?connect_timeout=3&target_session_attrs=read-write\
                   &channel_binding=prefer&application_name=mine&sslmode=disable";
        let read = PostgresUrl::parse(url).unwrap();
        assert_eq!(read.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(read.target, SessionKind::ReadWrite);
        assert_eq!(read.options.get_application_name(), Some("mine"));
        assert_eq!(read.address(), "h:5432");
        let socket = PostgresUrl::parse("postgres://u@%2Frun%2Fpg:5433/db").unwrap();
        assert_eq!(socket.address(), "/run/pg port 5433");
        for (url, address) in [
            ("postgres://u@/db?host=/run/pg", "/run/pg port 5432"),
            ("postgres://u@%2Frun%2Fpg:5433/db?host=real.example", "real.example:5433"),
            ("postgres://u@h:5433/db?host=other-1.example", "other-1.example:5433"),
            ("postgres://u@h/db?hostaddr=10.0.0.1&host=other", "10.0.0.1:5432"),
            ("postgres://u@h/db?host=%2Frun%2Fpg-1", "/run/pg-1 port 5432"),
            ("postgres://[::1]/db", "::1:5432"),
            ("postgres://u@h/db?hostaddr=fd00::1", "fd00::1:5432"),
        ] {
            assert_eq!(PostgresUrl::parse(url).unwrap().address(), address, "{url}");
        }
        let six = PostgresUrl::parse("postgres://u@[::1]:5433/db?application_name=a+b").unwrap();
        assert_eq!(six.address(), "::1:5433");
        assert_eq!(six.options.get_application_name(), Some("a+b"));
        assert!(!read.target.takes(true, true) && read.target.takes(false, false));
        let plain = PostgresUrl::parse("postgres://u@h/db").unwrap();
        assert_eq!(plain.options.get_application_name(), Some("publication"));
    }

    #[test]
    fn a_root_certificate_is_one_and_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        std::fs::write(&path, "hello").unwrap();
        let parameters = format!("sslmode=verify-full&sslrootcert={}", path.display());
        assert!(problem(&parameters).unwrap().contains("holds no certificate"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let url = format!("postgres://u@h/db?{parameters}");
        let read = PostgresUrl::parse(&url).unwrap();
        assert!(matches!(read.options.get_ssl_mode(), PgSslMode::VerifyFull));
        for mode in ["prefer", "require", "verify-ca"] {
            let parameters = parameters.replace("verify-full", mode);
            assert!(problem(&parameters).unwrap().contains("verify-full"));
        }
    }
}
