//! Access control: API tokens, rate limits, client addresses behind proxies, other origins.
//!
//! All of it is off by default, because the data is public and the limits on each request hold for every client. This
//! module logs no address. The rate limit keeps addresses in memory until their buckets are full again.

mod client;
mod origins;
mod rate;
mod tokens;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use service::config::ConfigError;

use crate::config::QuerySettings;
use crate::error::QueryError;

pub(crate) use self::client::Client;
pub(crate) use self::origins::Origins;
pub(crate) use self::rate::Limiter;

use self::client::Proxies;
use self::tokens::Tokens;

/// How often the token file is read again.
const TOKENS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the log repeats why the file cannot be used: withdrawn tokens are still valid meanwhile.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The access control that the settings table `access` describes.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tokens: Tokens,
    tokens_file: PathBuf,
    /// Whether requests need a token.
    pub(crate) is_closed: bool,
    pub(crate) proxies: Proxies,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) origins: Origins,
}

/// Rows that were read for a client. They are charged when this is dropped, so also when the request fails or is given up. The
/// client may go into debt: a refusal would make it read the rows again, and would never succeed where they cost more than a
/// whole bucket.
pub(crate) struct ChargedRows<'a> {
    access: &'a Access,
    client: Client,
    pub(crate) rows: u64,
}

impl Drop for ChargedRows<'_> {
    fn drop(&mut self) {
        if let Some(limiter) = &self.access.limiter {
            limiter.take_afterwards(self.client, self.rows);
        }
    }
}

impl Access {
    /// Reads the tokens and checks the settings where their types are not strict enough.
    pub(crate) fn new(settings: &QuerySettings) -> Result<Self, ConfigError> {
        let access = &settings.access;
        if access.rate_limit > 0 && access.rate_limit < settings.limits.max_refs {
            // One request may cost that much. With a lower limit it would always be refused.
            let message = "must not be below limits.max_refs";
            return Err(ConfigError::invalid("access.rate_limit", message));
        }
        let tokens = Tokens::read(access)?;
        Ok(Self {
            is_closed: !tokens.is_empty(),
            tokens,
            tokens_file: access.tokens_file.clone(),
            proxies: Proxies::new(access)?,
            limiter: Limiter::new(access)?,
            origins: Origins::new(&access.cors_origins)?,
        })
    }

    /// The client that a request is charged to while only its connection and its head are known.
    pub(crate) fn address(&self, headers: &HeaderMap, peer: IpAddr) -> Client {
        Client::of_address(self.proxies.client(headers, peer))
    }

    /// Takes `cost` publications from the client's bucket, or returns `RATE_LIMITED`.
    pub(crate) fn charge(&self, client: Client, cost: u64) -> Result<(), QueryError> {
        match &self.limiter {
            Some(limiter) => limiter.take(client, cost).map_err(QueryError::rate_limited),
            None => Ok(()),
        }
    }

    /// Counts the rows that are read for a client's histories.
    pub(crate) fn rows_read(&self, client: Client) -> ChargedRows<'_> {
        ChargedRows { access: self, client, rows: 0 }
    }

    /// Reads the token file again every five seconds, for ever.
    pub(crate) async fn follow_tokens(&self) {
        if self.tokens_file.as_os_str().is_empty() {
            return;
        }
        let mut told = None;
        loop {
            tokio::time::sleep(TOKENS_INTERVAL).await;
            let read = self.tokens.read_again(&self.tokens_file);
            if let Ok(true) = read {
                tracing::info!("the file of the API tokens has changed and was read");
            }
            if let Some(error) = cause_to_tell(&mut told, read.err(), Instant::now()) {
                tracing::error!(error, "the API tokens are unchanged");
            }
        }
    }
}

/// The cause why the token file cannot be used, if it is another than the one before, or was last told a minute ago.
fn cause_to_tell(
    told: &mut Option<(String, Instant)>,
    error: Option<ConfigError>,
    now: Instant,
) -> Option<&str> {
    let cause = error.map(|error| error.to_string());
    if let (Some((known, at)), Some(cause)) = (&*told, &cause)
        && known == cause
        && now.saturating_duration_since(*at) < TELL_AGAIN
    {
        return None;
    }
    *told = cause.map(|cause| (cause, now));
    told.as_ref().map(|(cause, _)| cause.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_when_it_is_new_and_then_once_a_minute() {
        let error = |cause: &str| Some(ConfigError::invalid("access.tokens_file", cause));
        let (mut told, start) = (None, Instant::now());
        for (seconds, read, expected) in [
            (0, None, None),
            (5, error("holds no token"), Some("holds no token")),
            (10, error("holds no token"), None),
            (15, error("cannot be read"), Some("cannot be read")),
            (70, error("cannot be read"), None),
            (75, error("cannot be read"), Some("cannot be read")),
            (80, None, None),
            (85, error("cannot be read"), Some("cannot be read")),
        ] {
            let cause = cause_to_tell(&mut told, read, start + Duration::from_secs(seconds));
            assert_eq!(cause.is_some(), expected.is_some(), "{cause:?}");
            assert!(expected.is_none_or(|part| cause.unwrap().contains(part)), "{cause:?}");
        }
    }
}
