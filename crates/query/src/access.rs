//! Who may ask, how much, and from which pages: API tokens, rate limits, addresses behind proxies, other origins.
//!
//! All of it is off by default: the data is public, and limits on each single request stand whoever asks. Nothing here
//! logs an address; the rate limit counts by it in memory, and forgets it when its count is full again.

mod client;
mod origins;
mod rate;
mod tokens;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderMap;
use service::config::ConfigError;

use crate::config::QuerySettings;
use crate::error::QueryError;

pub(crate) use self::client::Client;
pub(crate) use self::origins::Origins;
pub(crate) use self::rate::Limiter;

use self::client::Proxies;
use self::tokens::Tokens;

/// How often the file of the tokens is read again.
const TOKENS_INTERVAL: Duration = Duration::from_secs(5);

/// What the settings of the table `access` come to.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tokens: Tokens,
    tokens_file: PathBuf,
    /// Whether tokens are asked for.
    pub(crate) is_closed: bool,
    pub(crate) proxies: Proxies,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) origins: Origins,
}

impl Access {
    /// Reads the tokens and checks what the types of the settings cannot say.
    pub(crate) fn new(settings: &QuerySettings) -> Result<Self, ConfigError> {
        let access = &settings.access;
        if access.rate_limit > 0 && access.rate_limit < settings.limits.max_refs {
            // One request may cost that much; it would be refused for ever.
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

    /// Whom the request counts for as long as nothing is known of it but its connection and its head.
    pub(crate) fn address(&self, headers: &HeaderMap, peer: IpAddr) -> Client {
        Client::of_address(self.proxies.client(headers, peer))
    }

    /// Takes so many publications from the client's account.
    pub(crate) fn charge(&self, client: Client, cost: u64) -> Result<(), QueryError> {
        match &self.limiter {
            Some(limiter) => limiter.take(client, cost).map_err(QueryError::rate_limited),
            None => Ok(()),
        }
    }

    /// Takes for what was read already. Where the account does not have it, the client owes it: to read it again for the next
    /// try would cost more, and never end where it is more than a whole account.
    pub(crate) fn charge_afterwards(&self, client: Client, cost: u64) {
        if let Some(limiter) = &self.limiter {
            limiter.take_afterwards(client, cost);
        }
    }

    /// Follows the file of the tokens, for ever.
    pub(crate) async fn follow_tokens(&self) {
        if self.tokens_file.as_os_str().is_empty() {
            return;
        }
        let mut was_good = true;
        loop {
            tokio::time::sleep(TOKENS_INTERVAL).await;
            let read = self.tokens.read_again(&self.tokens_file);
            match &read {
                Ok(true) => tracing::info!("the file of the API tokens has changed and was read"),
                Err(error) if was_good => {
                    tracing::error!(%error, "the API tokens stay what they were");
                }
                Ok(false) | Err(_) => {}
            }
            was_good = read.is_ok();
        }
    }
}
