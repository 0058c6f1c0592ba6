//! The servers that seeds share.

use testkit::{Postgres, Proxy, host_of};

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
