//! What the daemon can hold at most, as the settings have it.

use bytesize::ByteSize;
use service::config::ConfigError;
use service::connection::{CONNECTION_BYTES, MAX_HEAD};

use super::{LOOKUPS, VALIDATIONS};
use crate::config::{MAX_LONG_HEADS, QuerySettings};
use crate::document::BYTES_PER_BYTE;

/// The process without any request: program, threads, schema, metrics, connections to the database. Measured, rounded up.
const PROCESS: u64 = 24 << 20;
/// A publication that is being looked up: its key, and its row on the way from the database.
/// Measured with 5,000 references and all fields, rounded up.
const MEMORY_OF_A_REFERENCE: u64 = 1_280;
/// A client of the rate limit's table, with its part of the table's spare room.
const RATE_CLIENT: u64 = 64;

/// The sum of all caps against `limits.max_memory`.
///
/// # Errors
/// Names the parts, largest first, where they do not fit together.
pub(crate) fn check(settings: &QuerySettings) -> Result<(), ConfigError> {
    let limits = &settings.limits;
    let rate_clients =
        if settings.access.rate_limit == 0 { 0 } else { settings.access.rate_clients as u64 };
    let references = u64::from(limits.max_refs_in_progress) + u64::from(LOOKUPS);
    let document = limits.max_document.as_u64() * BYTES_PER_BYTE as u64;
    let mut parts = [
        ("the process itself", PROCESS),
        ("http.max_connections", settings.http.max_connections as u64 * CONNECTION_BYTES as u64),
        ("long heads", (MAX_LONG_HEADS * MAX_HEAD) as u64),
        ("limits.max_bodies", limits.max_bodies.as_u64()),
        ("limits.max_answers", limits.max_answers.as_u64()),
        ("limits.max_answer, being written", limits.max_answer.as_u64()),
        ("limits.max_refs_in_progress", references.saturating_mul(MEMORY_OF_A_REFERENCE)),
        ("limits.max_document, being validated", document.saturating_mul(VALIDATIONS as u64)),
        ("cache.documents", settings.cache.documents.as_u64()),
        ("cache.persisted_queries", settings.cache.persisted_queries.as_u64()),
        ("access.rate_clients", rate_clients.saturating_mul(RATE_CLIENT)),
    ];
    let sum = parts.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if sum <= limits.max_memory.as_u64() {
        return Ok(());
    }
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let told = parts.map(|(key, bytes)| format!("{} {key}", ByteSize::b(bytes))).join(", ");
    let message = format!(
        "is {}, and what may be held comes to {}: {told}",
        limits.max_memory,
        ByteSize::b(sum)
    );
    Err(ConfigError::invalid("limits.max_memory", message))
}
