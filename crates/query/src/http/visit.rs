//! What accompanies a request from its head to its line in the log.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Clients and proxies that have an id for a request send it under this name; the answer carries it back.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Room for a UUID or a trace id, and not for a letter.
const LONGEST_ID: usize = 64;

/// Makes ids that no two requests share: a random number of the process, and a count.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        // The standard library keys its hashers at random.
        Self { process: RandomState::new().hash_one("request ids"), next: AtomicU64::new(0) }
    }

    /// The client's own id where it is one, else a new one.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(given) = headers.get(REQUEST_ID)
            && is_sane(given.as_bytes())
        {
            return given.clone();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number:x}", self.process);
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
    }
}

/// Ids stand in logs, so that they hold nothing that means something there.
fn is_sane(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(plain)
}

/// A request, as far as its log line goes.
pub(super) struct Visit {
    pub(super) id: HeaderValue,
    pub(super) method: Method,
    pub(super) started: Instant,
}

/// What became of it.
pub(super) struct Outcome<'a> {
    pub(super) status: u16,
    pub(super) outcome: &'static str,
    pub(super) keys: u64,
    pub(super) bytes: usize,
    /// The name of the token's owner.
    pub(super) client: Option<&'a str>,
}

impl Visit {
    /// One line, without documents, variables and addresses.
    pub(super) fn log(&self, outcome: &Outcome<'_>) {
        let Outcome { status, outcome, keys, bytes, client } = *outcome;
        let milliseconds = self.started.elapsed().as_micros() as f64 / 1_000.0;
        tracing::info!(
            target: "access",
            request_id = self.id.to_str().unwrap_or_default(),
            method = self.method.as_str(),
            status,
            outcome,
            keys,
            bytes,
            milliseconds,
            client,
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_kept_and_others_replaced() {
        let ids = RequestIds::new();
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
            ids.of(&headers)
        };
        for sane in ["a", "01J3YQ6M2C", "c1a2-_.", &"x".repeat(64)] {
            assert_eq!(of(sane), sane);
        }
        let mut made: Vec<HeaderValue> =
            ["", "a b", "a\"b", "é", "<script>", &"x".repeat(65)].map(of).into();
        made.push(ids.of(&HeaderMap::new()));
        for id in &made {
            assert!(is_sane(id.as_bytes()), "{id:?}");
        }
        let count = made.len();
        made.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        made.dedup();
        assert_eq!(made.len(), count, "each its own");
    }
}
