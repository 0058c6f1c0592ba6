//! `COPY … FROM STDIN (FORMAT binary)`: the fastest way into PostgreSQL, for rows that are not there yet.

use std::borrow::Cow;

use model::Publication;
use sqlx::postgres::PgConnection;

use super::values::{Time, field, optional};

/// The columns in the table's own order.
const COPY: &str = "COPY publication (created, revision, generation, tor_reason, tfa_reason, credential, actor, \
                    tor_settled, disputed, tor, tfa, name, version, username, event_identity, tor_evidence_until) \
                    FROM STDIN (FORMAT binary)";
const FIELDS: i16 = 16;
/// Sent when this much is encoded: large enough that a system call is cheap, small enough to stay in the cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// Copies the rows, all or none; returns how many.
pub(super) async fn copy_in(
    connection: &mut PgConnection,
    rows: &[Cow<'_, Publication>],
) -> sqlx::Result<u64> {
    let mut copy = connection.copy_in_raw(COPY).await?;
    // The signature, no flags, no header extension (PostgreSQL's documentation, COPY, "Binary Format").
    let mut buffer = Vec::with_capacity(CHUNK_BYTES + 4_096);
    buffer.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for row in rows {
        encode(&mut buffer, row);
        if buffer.len() >= CHUNK_BYTES {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(buffer.as_slice()).await?;
    copy.finish().await
}

fn encode(buffer: &mut Vec<u8>, row: &Publication) {
    let info = &row.info;
    buffer.extend_from_slice(&FIELDS.to_be_bytes());
    field(buffer, &Time(info.created).to_wire());
    field(buffer, &row.revision.to_be_bytes());
    field(buffer, &row.generation.to_be_bytes());
    field(buffer, info.tor_reason.as_str().as_bytes());
    field(buffer, info.tfa_reason.as_str().as_bytes());
    field(buffer, info.credential.as_str().as_bytes());
    field(buffer, info.actor.as_str().as_bytes());
    field(buffer, &[info.tor_settled.into()]);
    field(buffer, &[info.disputed.into()]);
    optional(buffer, info.tor.map(|flag| [flag.into()]));
    optional(buffer, info.tfa.map(|flag| [flag.into()]));
    field(buffer, row.id.name.as_str().as_bytes());
    field(buffer, row.id.version.as_str().as_bytes());
    optional(buffer, info.username.as_ref().map(|name| name.as_str().as_bytes()));
    field(buffer, &row.identity.0);
    optional(buffer, row.tor_evidence_until.map(|time| Time(time).to_wire()));
}
