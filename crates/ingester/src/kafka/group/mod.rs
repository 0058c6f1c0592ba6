//! The member of the consumer group: its thread, the client's callbacks, the start of partitions and the commits.
//!
//! `thread` polls; librdkafka calls `callbacks` from inside of the poll; both share `state`. `start_offsets` decides
//! where to start reading a partition, `start_partitions` asks for the facts and acts on it. `account` and `claims`
//! keep the table's account of positions. `commit_queue` decides which offsets may be stored and committed,
//! `send_commit` sends them.

mod account;
mod callbacks;
mod claims;
mod commit_queue;
mod conditions;
mod send_commit;
mod start_offsets;
mod start_partitions;
mod state;
#[cfg(test)]
mod tests;
mod thread;
mod unreadable;
mod wait;

#[cfg(test)]
pub(crate) use account::{AdvanceResult, evaluate_advance};
#[cfg(test)]
pub(crate) use commit_queue::CommitQueue;
#[cfg(test)]
pub(crate) use start_offsets::{Facts, LogPosition, Refusal};
#[cfg(test)]
pub(crate) use state::KnownLog;
pub(super) use thread::CHUNK_RECORDS;
pub(crate) use thread::{CHUNK_BYTES, Observers, PollControl, PollThread, start};
