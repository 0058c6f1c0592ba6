//! Free ports and unique names.

use std::net::TcpListener;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Below the kernel's range for outgoing connections. In that range, a client that connects to a stopped server's port
/// could get this port as its own, connect to itself, and block the server's restart.
const FIRST_PORT: u32 = 12_000;
const PORTS: u32 = 20_000;

/// A free TCP port on 127.0.0.1 that this process has not returned before.
pub fn free_port() -> u16 {
    static STEPS: AtomicU32 = AtomicU32::new(0);
    // Test processes run in parallel, so each starts its search elsewhere.
    let start = process::id().wrapping_mul(97);
    (0..PORTS)
        .map(|_| start.wrapping_add(STEPS.fetch_add(1, Ordering::Relaxed)) % PORTS + FIRST_PORT)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("some port is free")
}

/// A free address for a listener, `127.0.0.1:port`.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// `host:port` in a URL of [`Postgres`](crate::Postgres).
pub fn host_of(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL of this crate's").0
}

/// `prefix` with a suffix that is unique across calls and processes, for topics, groups and databases.
///
/// The suffix has lower case letters, digits and `-`.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    format!(
        "{prefix}-{:x}-{:x}-{}",
        now.as_millis(),
        process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_names_differ() {
        assert_ne!(free_port(), free_port());
        assert_ne!(unique("topic"), unique("topic"));
    }
}
