//! One HTTP request: its endpoint, and how its response is read.

use std::io::{ErrorKind, Read as _};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};
use url::Url;

use super::proxy::proxy;
use super::{Failure, InvalidEndpoint, Unanswered, is_loopback, retry_after};
use crate::location::is_plain;
use crate::settings::Environment;

/// The maximum size of an answer. 5,000 packages with history are about 4 MB.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
const UNTRUSTED: &str = "its certificate is not trusted (SSL_CERT_FILE), or it does not speak TLS";
/// How the standard library's error begins for a host name without an address.
const NO_LOOKUP: &str = "failed to lookup address information";
/// Timeout of one request, after which it is sent again.
const ONE_REQUEST: Duration = Duration::from_secs(30);
/// Maximum number of redirects, all within the same origin.
const MAX_REDIRECTS: u32 = 3;

/// The address of the API and the HTTP client for it.
#[derive(Debug)]
pub struct Endpoint {
    agent: Agent,
    url: Url,
    authorization: Option<String>,
}

impl Endpoint {
    /// The API at `address`; `/graphql` is appended unless the address ends with it. Proxies and certificate
    /// authorities are from the environment (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`); loopback addresses use no
    /// proxy.
    ///
    /// # Errors
    /// [`InvalidEndpoint`] when the address is not a plain http(s) URL, the token must not be sent to it, or its proxy
    /// cannot be used.
    pub fn new(
        address: &str,
        token: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, InvalidEndpoint> {
        let mut url = Url::parse(address).map_err(|_| InvalidEndpoint::Address)?;
        if !is_plain(&url) {
            return Err(InvalidEndpoint::Address);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        if !path.ends_with("/graphql") {
            url.set_path(&format!("{path}/graphql"));
        }
        let is_local = is_loopback(&url);
        if token.is_some() && url.scheme() != "https" && !is_local {
            return Err(InvalidEndpoint::TokenInClear);
        }
        let is_token =
            |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_some_and(|token| !is_token(token)) {
            return Err(InvalidEndpoint::Token);
        }
        let config = Agent::config_builder()
            .proxy(proxy(&url, environment)?)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("publication-audit/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build());
        let authorization = token.map(|token| format!("Bearer {token}"));
        Ok(Self { agent: config.build().new_agent(), url, authorization })
    }

    /// Sends a GraphQL request once and reads the data of the response. `left` is the time left for the whole run.
    pub(super) fn post<T: for<'de> Deserialize<'de>>(
        &self,
        body: &str,
        left: Duration,
    ) -> Result<T, Failure> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, body, left)?;
            if !response.status().is_redirection() {
                return read(response);
            }
            url = self.redirect(&url, &response)?;
        }
        Err(Failure::Final(Unanswered::Away("too many redirects".into())))
    }

    fn send(&self, url: &Url, body: &str, left: Duration) -> Result<Response<Body>, Failure> {
        let mut request = self
            .agent
            .post(url.as_str())
            .header("content-type", "application/json")
            .header("accept", "application/graphql-response+json, application/json;q=0.9");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let timeout = left.min(ONE_REQUEST);
        let request = request.config().timeout_global(Some(timeout)).build();
        request.send(body).map_err(|error| Failure::Passing(self.transport(&error), None))
    }

    /// A failure below HTTP. Until the connection stands, it is the proxy's if there is one, which is named without its
    /// user. The service's address is not repeated.
    fn transport(&self, error: &ureq::Error) -> Unanswered {
        let proxy = self.agent.config().proxy();
        let proxy = proxy.map(|proxy| format!("the proxy {}:{}", proxy.host(), proxy.port()));
        let whose = proxy.as_deref().unwrap_or("it");
        let unknown = match &proxy {
            Some(proxy) => format!("the host of {proxy} is not known"),
            None => "its host is not known".to_owned(),
        };
        Unanswered::Away(match error {
            _ if is_time_out(error) => return Unanswered::TimeOut,
            ureq::Error::HostNotFound => unknown,
            ureq::Error::ConnectProxyFailed(reason) => {
                let status = reason.rsplit('/').next().unwrap_or_default();
                match status.parse::<u16>() {
                    Ok(status) => format!("{whose} answers CONNECT with status {status}"),
                    Err(_) => format!("{whose} does not answer CONNECT"),
                }
            }
            ureq::Error::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused => format!("{whose} refuses connections"),
                ErrorKind::InvalidData => UNTRUSTED.to_owned(),
                // The kind of the error says nothing then.
                _ if error.to_string().starts_with(NO_LOOKUP) => unknown,
                kind => format!("the connection failed ({kind})"),
            },
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => UNTRUSTED.to_owned(),
            _ => "the connection failed".to_owned(),
        })
    }

    /// The target of a redirect. Neither the token nor package names may go to another origin.
    fn redirect(&self, from: &Url, response: &Response<Body>) -> Result<Url, Failure> {
        let keeps_method = matches!(
            response.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        let target = response.headers().get("location").and_then(|value| value.to_str().ok());
        let target = target.and_then(|target| from.join(target).ok());
        match target {
            Some(target) if keeps_method && target.origin() == self.url.origin() => Ok(target),
            _ => Err(Failure::Final(Unanswered::Away(
                "--url leads to another address, which is not followed; give the final one".into(),
            ))),
        }
    }
}

fn is_time_out(error: &ureq::Error) -> bool {
    let is_of_socket = |error: &std::io::Error| {
        matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
    };
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => is_of_socket(error),
        _ => false,
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    #[serde(default)]
    errors: Vec<GraphqlError>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<GraphqlError>,
}

#[derive(Deserialize)]
struct GraphqlError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Deserialize, Default)]
struct Extensions {
    code: Option<String>,
    limit: Option<String>,
    #[serde(rename = "retryAfter")]
    retry_after: Option<f64>,
}

fn read<T: for<'de> Deserialize<'de>>(mut response: Response<Body>) -> Result<T, Failure> {
    let status = response.status();
    let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let after = header.and_then(|header| retry_after(header, SystemTime::now()));
    let reader = response.body_mut().with_config().limit(MAX_ANSWER).reader();
    let mut text = Vec::new();
    let end = std::io::BufReader::new(reader).read_to_end(&mut text).map_err(ureq::Error::from);
    match status.as_u16() {
        401 | 403 => return Err(Failure::Final(Unanswered::Refused(status.as_u16()))),
        413 => return Err(Failure::TooLarge(limit_of(&text))),
        429 => {
            let after = after.or_else(|| Some(Duration::from_secs(1)));
            return Err(Failure::Passing(Unanswered::RateLimited, after));
        }
        _ if end.as_ref().is_err_and(is_time_out) => {
            return Err(Failure::Passing(Unanswered::TimeOut, after));
        }
        _ if end.is_err() => {
            return Err(Failure::Passing(Unanswered::Away("its answer was cut off".into()), after));
        }
        _ => {}
    }
    if let Ok(errors) = serde_json::from_slice::<Errors>(&text)
        && let Some(error) = errors.errors.first()
    {
        return Err(failure(error, status, after));
    }
    if !status.is_success() {
        let why = Unanswered::Away(format!("it answers with status {}", status.as_u16()));
        return Err(match status.as_u16() {
            408 | 425 | 500.. => Failure::Passing(why, after),
            _ => Failure::Final(why),
        });
    }
    let answer: Answer<T> = serde_json::from_slice(&text).map_err(|error| {
        // A proxy may have cut the answer without an error.
        let why = |text: &str| Unanswered::NotUnderstood(text.to_owned());
        match error.is_eof() {
            true => Failure::Passing(why("it ends early"), after),
            false => Failure::Final(why("it is not that of the query API")),
        }
    })?;
    debug_assert!(answer.errors.is_empty());
    answer
        .data
        .ok_or_else(|| Failure::Final(Unanswered::NotUnderstood("it has no data".to_owned())))
}

fn limit_of(text: &[u8]) -> String {
    let errors: Option<Errors> = serde_json::from_slice(text).ok();
    let limit = errors.and_then(|errors| errors.errors.into_iter().next()?.extensions.limit);
    limit.unwrap_or_else(|| "the size of a request".to_owned())
}

fn failure(error: &GraphqlError, status: StatusCode, after: Option<Duration>) -> Failure {
    let code = error.extensions.code.as_deref().unwrap_or_default();
    let named =
        error.extensions.retry_after.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    // At most a year, because the number is not trusted.
    let named = named.map(|seconds| Duration::from_secs_f64(seconds.min(31_536_000.0)));
    let after = after.or(named);
    match code {
        "LIMIT_EXCEEDED" => Failure::TooLarge(
            error.extensions.limit.clone().unwrap_or_else(|| error.message.clone()),
        ),
        "RATE_LIMITED" => Failure::Passing(
            Unanswered::RateLimited,
            after.or_else(|| Some(Duration::from_secs(1))),
        ),
        "UNAUTHENTICATED" => Failure::Final(Unanswered::Refused(401)),
        "FORBIDDEN" => Failure::Final(Unanswered::Refused(403)),
        "GRAPHQL_VALIDATION_FAILED" => Failure::Final(Unanswered::TooOld),
        "STORE_UNAVAILABLE" | "TIMEOUT" | "INTERNAL_SERVER_ERROR" => {
            Failure::Passing(Unanswered::Away(code.to_lowercase()), after)
        }
        // A service without error codes names the unknown field in the message.
        _ if error.message.contains("history") || error.message.contains("registry") => {
            Failure::Final(Unanswered::TooOld)
        }
        _ if status.is_server_error() => {
            let text = format!("it answers with status {}", status.as_u16());
            Failure::Passing(Unanswered::Away(text), after)
        }
        _ => Failure::Final(Unanswered::NotUnderstood(error.message.clone())),
    }
}
