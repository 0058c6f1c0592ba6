//! Who may ask, how much, and from which pages: API tokens, rate limits, addresses behind proxies, other origins.
//!
//! All of it is off by default: the data is public, and limits on each single request stand whoever asks. Nothing here
//! keeps or logs an address; the rate limit counts by it in memory, and forgets it when its count is full again.

mod client;
mod cors;
mod rate;
mod tokens;

use std::net::IpAddr;

use axum::http::HeaderMap;
use service::config::ConfigError;

use crate::config::QuerySettings;

pub(crate) use self::client::Client;
pub use self::client::ForwardedHeader;
pub(crate) use self::cors::Cors;
pub(crate) use self::rate::Limiter;
pub(crate) use self::tokens::Unauthenticated;

use self::client::Proxies;
use self::tokens::Tokens;

/// What the settings of the table `access` come to.
#[derive(Debug)]
pub(crate) struct Access {
    tokens: Tokens,
    proxies: Proxies,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) cors: Cors,
}

impl Access {
    /// Reads the tokens and checks what the types of the settings cannot say.
    pub(crate) fn new(settings: &QuerySettings) -> Result<Self, ConfigError> {
        let access = &settings.access;
        if access.rate_limit > 0 && access.rate_limit < settings.limits.max_refs {
            // One request may cost that much; it would be refused for ever.
            return Err(ConfigError::invalid(
                "access.rate_limit",
                "must not be below limits.max_refs",
            ));
        }
        Ok(Self {
            tokens: Tokens::read(access)?,
            proxies: Proxies::new(access)?,
            limiter: Limiter::new(access)?,
            cors: Cors::new(&access.cors_origins)?,
        })
    }

    /// Whether tokens are asked for.
    pub(crate) const fn is_closed(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Who asks: the owner of the token, or the address where no tokens are asked for.
    pub(crate) fn client(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Client, Unauthenticated> {
        if self.is_closed() {
            return self.tokens.owner(headers).map(Client::Token);
        }
        Ok(Client::of_address(self.proxies.client(headers, peer)))
    }

    /// What the owner of a token is called, for the log.
    pub(crate) fn name(&self, client: Client) -> Option<&str> {
        match client {
            Client::Token(index) => self.tokens.name(index),
            Client::Address(_) => None,
        }
    }
}
