//! The largest amount of memory that the daemon can use with given settings.

use bytesize::ByteSize;
use service::config::ConfigError;
use service::connection::{CONNECTION_BYTES, MAX_HEAD};

use super::{LOOKUP_PERMITS, SHORT_DOCUMENT, max_waiting};
use crate::config::{MAX_LONG_HEADS, QuerySettings};
use crate::document::{BYTES_PER_BYTE, cache_size};

/// The process without requests: program, threads, schema, metrics, database connections. Measured and rounded up.
const PROCESS_BYTES: u64 = 24 << 20;
/// A publication that is being looked up: its key and its row from the database. Measured with 5,000 references and all
/// fields, rounded up.
const REFERENCE_BYTES: u64 = 1_280;
/// A package whose history is read, one at a time: 32,000 versions. One with more needs more (crates/query/README.md, Memory).
const HISTORY_BYTES: u64 = 32_000 * 128;
/// An entry of the rate limit's table, with its part of the table's spare capacity.
const RATE_CLIENT_BYTES: u64 = 64;

/// Compares the sum of all limits with `limits.max_memory`.
///
/// # Errors
/// The sum is too large. The message lists the parts, largest first.
pub(crate) fn check(settings: &QuerySettings) -> Result<(), ConfigError> {
    let limits = &settings.limits;
    let rate_clients =
        if settings.access.rate_limit == 0 { 0 } else { settings.access.rate_clients as u64 };
    let references = u64::from(limits.max_refs_in_progress) + u64::from(LOOKUP_PERMITS);
    let documents = limits.max_document.as_u64().saturating_add(SHORT_DOCUMENT as u64);
    let connections = settings.http.max_connections as u64;
    let mut parts = [
        ("the process itself", PROCESS_BYTES),
        ("http.max_connections", connections.saturating_mul(CONNECTION_BYTES as u64)),
        ("long heads", (MAX_LONG_HEADS * MAX_HEAD) as u64),
        ("limits.max_bodies", limits.max_bodies.as_u64()),
        ("limits.max_answers", limits.max_answers.as_u64()),
        ("limits.max_answer, being written", limits.max_answer.as_u64()),
        ("limits.max_answer, waiting to be sent", max_waiting(limits.max_answer.as_u64())),
        ("limits.max_refs_in_progress", references.saturating_mul(REFERENCE_BYTES)),
        ("a history", HISTORY_BYTES),
        ("limits.max_document, being validated", documents.saturating_mul(BYTES_PER_BYTE as u64)),
        ("cache.documents", cache_size(settings).as_u64()),
        ("cache.persisted_queries", settings.cache.persisted_queries.as_u64()),
        ("access.rate_clients", rate_clients.saturating_mul(RATE_CLIENT_BYTES)),
    ];
    let sum = parts.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if sum <= limits.max_memory.as_u64() {
        return Ok(());
    }
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let list = parts.map(|(key, bytes)| format!("{} {key}", ByteSize::b(bytes))).join(", ");
    let message = format!(
        "is {}, and what may be held comes to {}: {list}",
        limits.max_memory,
        ByteSize::b(sum)
    );
    Err(ConfigError::invalid("limits.max_memory", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: fn(&mut QuerySettings)) -> Result<(), ConfigError> {
        let mut settings = QuerySettings::default();
        change(&mut settings);
        check(&settings)
    }

    #[test]
    fn what_may_be_held_must_fit_into_the_memory() {
        let changes: [fn(&mut QuerySettings); 6] = [
            |settings| settings.limits.max_memory = ByteSize::mib(64),
            |settings| settings.limits.max_answers = ByteSize::gib(1),
            |settings| settings.http.max_connections = 20_000,
            |settings| settings.limits.max_refs_in_progress = 4_000_000_000,
            |settings| settings.http.max_connections = usize::MAX,
            |settings| settings.limits.max_document = ByteSize::eib(1),
        ];
        for change in changes {
            let error = checked(change).unwrap_err().to_string();
            assert!(error.contains("`limits.max_memory`"), "{error}");
        }
        checked(|settings| {
            settings.limits.max_answers = ByteSize::gib(1);
            settings.limits.max_memory = ByteSize::gib(2);
        })
        .unwrap();
        checked(|settings| settings.access.rate_limit = 5_000).unwrap();
    }
}
