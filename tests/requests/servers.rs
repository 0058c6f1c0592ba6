//! The servers that seeds share.

use testkit::{Postgres, Proxy};

/// A PostgreSQL, and the proxy between it and the daemon.
pub(crate) struct Servers {
    pub(crate) postgres: Postgres,
    pub(crate) proxy: Proxy,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let (postgres, proxy) = (Postgres::start(), Proxy::start());
        proxy.forward_to(host_of(&postgres.url()));
        Self { postgres, proxy }
    }
}

/// `host:port` in a URL of testkit.
pub(crate) fn host_of(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL of testkit's").0
}
