//! The client of the query API: requests, retries, and the checks of an answer.

mod batches;
mod http;
mod proxy;

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use model::PublicationId;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use crate::answer::Package;
use crate::location::{InvalidHost, Registry, RegistryHost, RegistryHosts};

pub use batches::{Answered, ask_all};
pub use http::Endpoint;

/// Exactly the fields that the rules read.
const PACKAGES: &str = "query PublicationAudit($refs: [PackageRef!]!) { packages(refs: $refs) { name version \
    publicationInfo { username created tor tfa disputed integrity } \
    history { strongest { version publicationInfo { created method } } weaker newPublisher publisherLast } } }";
const REGISTRY: &str = "query PublicationAuditRegistry { registry { ecosystem hosts } }";

/// Maximum number of tries after failures that may be temporary.
const TRIES: u32 = 4;
/// The pause before the second try. It doubles with each try, and the service may ask for a longer one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest pause that the service did not ask for, so that a limit that passes soon does not use up the time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// The service cannot be reached or returns an error.
    Away(String),
    /// The timeout of the whole run has passed.
    TimeOut,
    /// The service returned 401 or 403.
    Refused(u16),
    /// The rate limit requires a wait that is longer than the run may take.
    RateLimited,
    /// A limit of the service is exceeded even by a single package.
    Limit(String),
    /// The service does not have a required field.
    TooOld,
    /// The response is not an answer to the request.
    NotUnderstood(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(what) => write!(f, "the service is away: {what}"),
            Self::TimeOut => f.write_str("the service did not answer in time (--timeout)"),
            Self::Refused(401) => f.write_str("the service asks for a valid token (--token-file)"),
            Self::Refused(status) => write!(f, "the service refuses the request ({status})"),
            Self::RateLimited => f.write_str("the rate limit of the service is used up"),
            Self::Limit(limit) => write!(f, "over a limit of the service: {limit}"),
            Self::TooOld => {
                f.write_str("the service is too old: it has no `registry` or no `history`")
            }
            Self::NotUnderstood(what) => write!(f, "the answer cannot be used: {what}"),
        }
    }
}

impl Unanswered {
    /// Whether all other requests would fail for the same reason.
    const fn is_for_all(&self) -> bool {
        !matches!(self, Self::Limit(_) | Self::NotUnderstood(_))
    }
}

/// A failed request.
#[derive(Debug)]
enum Failure {
    /// It may be temporary; with the wait that the service asks for.
    Passing(Unanswered, Option<Duration>),
    /// The batch exceeds a limit.
    TooLarge(String),
    Final(Unanswered),
}

/// A client of the API with a deadline.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    deadline: Instant,
}

#[derive(Deserialize)]
struct RegistryData {
    registry: RegistryFields,
}

#[derive(Deserialize)]
struct RegistryFields {
    ecosystem: String,
    hosts: Vec<String>,
}

#[derive(Deserialize)]
struct PackagesData {
    packages: Vec<Option<Package>>,
}

impl Client {
    /// A client that stops at `deadline`.
    #[must_use]
    pub const fn new(endpoint: Endpoint, deadline: Instant) -> Self {
        Self { endpoint, deadline }
    }

    /// Requests the registry that the deployment serves. It may have no hosts.
    ///
    /// # Errors
    /// [`Unanswered`] when the service gives no usable answer.
    pub fn registry(&self) -> Result<Registry, Unanswered> {
        let body = json!({ "query": REGISTRY }).to_string();
        let data: RegistryData = self.ask(&body).map_err(|failure| match failure {
            Failure::Final(why) | Failure::Passing(why, _) => why,
            Failure::TooLarge(limit) => Unanswered::Limit(limit),
        })?;
        let hosts: Result<Vec<_>, InvalidHost> =
            data.registry.hosts.iter().map(|host| RegistryHost::parse(host)).collect();
        let hosts =
            hosts.map_err(|_| Unanswered::NotUnderstood("registry.hosts has no host".into()))?;
        Ok(Registry { ecosystem: data.registry.ecosystem, hosts: RegistryHosts(hosts) })
    }

    /// Requests some publications. The answers have the order of `ids`; `None` where there is no record.
    fn packages(&self, ids: &[PublicationId]) -> Result<Vec<Option<Package>>, Failure> {
        let refs: Vec<_> = ids
            .iter()
            .map(|id| json!({"name": id.name.as_str(), "version": id.version.as_str()}))
            .collect();
        let body = json!({ "query": PACKAGES, "variables": { "refs": refs } }).to_string();
        let data: PackagesData = self.ask(&body)?;
        let fits = |(id, package): (&PublicationId, &Option<Package>)| {
            package.as_ref().is_none_or(|package| {
                package.name == id.name.as_str() && package.version == id.version.as_str()
            })
        };
        if data.packages.len() != ids.len() || !ids.iter().zip(&data.packages).all(fits) {
            let text = "it is not for the packages that were asked about".to_owned();
            return Err(Failure::Final(Unanswered::NotUnderstood(text)));
        }
        Ok(data.packages)
    }

    /// Sends a request until it is answered, fails permanently, or the deadline has passed.
    fn ask<T: for<'de> Deserialize<'de>>(&self, body: &str) -> Result<T, Failure> {
        let mut wait = FIRST_WAIT;
        let mut tries = 0;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Final(Unanswered::TimeOut));
            }
            let (why, after) = match self.endpoint.post(body, left) {
                Err(Failure::Passing(why, after)) => (why, after),
                other => return other,
            };
            tries += 1;
            // With a wait given by the service, retry until the deadline; otherwise only a few times.
            if after.is_none() && tries >= TRIES {
                return Err(Failure::Final(why));
            }
            // `Retry-After: 0`, or a date that has passed by this machine's clock, must not lead to a flood of requests.
            let pause = after.map_or(wait, |after| after.max(wait));
            if pause >= self.deadline.saturating_duration_since(Instant::now()) {
                let says_why = matches!(why, Unanswered::Away(_) | Unanswered::RateLimited);
                let is_time_out = after.is_none() && !says_why;
                return Err(Failure::Final(if is_time_out { Unanswered::TimeOut } else { why }));
            }
            std::thread::sleep(pause);
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }
}

/// The wait in a `Retry-After` header: seconds or a date.
fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// An address or a token that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEndpoint {
    /// The address is not http(s), or has a user, a query or a fragment.
    #[error("--url is not a http or https address without user, query and fragment")]
    Address,
    /// The token would be sent over plain HTTP.
    #[error(
        "--token-file is only for https or a loopback address: the token would be readable on its way"
    )]
    TokenInClear,
    /// The token cannot be sent in a header.
    #[error("--token-file does not hold one token")]
    Token,
    /// The proxy speaks SOCKS, or its address is not valid.
    #[error("the proxy in {0} is not a http or https address; SOCKS is not supported")]
    Proxy(&'static str),
}

/// Whether the address is a loopback address.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("3", now), Some(Duration::from_secs(3)));
        let date = "Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(retry_after(date, now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("soon", now), None);
    }
}
