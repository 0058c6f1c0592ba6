//! The member of the consumer group: its thread, the client's callbacks, where partitions start and what is committed.

mod callbacks;
mod commit;
mod start_offsets;
mod thread;

pub(super) use callbacks::Quiet;
pub(crate) use commit::{Assignment, CommitQueue};
pub(super) use thread::CHUNK_RECORDS;
pub(crate) use thread::{CHUNK_BYTES, Shared, start};
