//! The PostgreSQL adapter.

mod coalescer;
mod connections;
mod copy;
mod fresh;
mod history;
mod inspect;
mod jobs;
mod lookup;
mod migrate;
mod positions;
mod read;
mod row;
mod session;
mod values;
mod write;

pub(crate) use inspect::inspect;
pub(crate) use read::PostgresReader;
pub(crate) use session::{connect, limited};
pub(crate) use write::PostgresWriter;

pub(crate) use crate::migrations::POSTGRES as MIGRATOR;

/// Whether the user may create tables in the schema `$1`, which migrations do. The current schema may be a temporary one.
pub(crate) const MAY_CREATE: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1 \
    AND has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE'))";
