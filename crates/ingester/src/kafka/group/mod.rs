//! The member of the consumer group: its thread, the client's callbacks, where partitions start and what is committed.
//!
//! `thread` polls; librdkafka calls `callbacks` from within; both share `state`. `start_offsets` decides where a
//! partition is read from, `placement` asks and acts on it. `commit` says which offsets may be committed, `confirm`
//! sends them.

mod callbacks;
mod commit;
mod confirm;
mod placement;
mod start_offsets;
mod state;
#[cfg(test)]
mod tests;
mod thread;
mod troubles;
mod unreadable;
mod wait;

pub(super) use callbacks::Quiet;
#[cfg(test)]
pub(crate) use commit::CommitQueue;
#[cfg(test)]
pub(crate) use start_offsets::{CommitMetadata, Decision, Facts, LogPosition, Refusal};
pub(super) use thread::CHUNK_RECORDS;
pub(crate) use thread::{CHUNK_BYTES, Observers, PollControl, start};
