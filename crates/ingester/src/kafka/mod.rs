//! All code that uses Kafka. Outside of this module a Kafka message is a [`crate::Record`] and a position is a
//! [`crate::pipeline::ports::WrittenOffsets`].

mod client;
pub(crate) mod commit_metadata;
mod config;
mod damage;
mod dead_letters;
mod ffi;
mod group;
mod inspect;
mod observe;
mod probe;
mod range;
mod record_arena;

pub(crate) use config::{check as check_settings, refused, version};
pub(crate) use dead_letters::{DeadLetters, HEADER_BYTES, create_topic};
pub(crate) use ffi::Group;
/// The pure parts that the simulation runs.
#[cfg(test)]
pub(crate) use group::{
    AdvanceResult, CommitQueue, Facts, KnownLog, LogPosition, Refusal, evaluate_advance,
};
pub(crate) use group::{CHUNK_BYTES, Observers, PollControl, PollThread, start};
pub(crate) use inspect::{GroupPosition, Inspected, Right, TopicFacts, inspect};
pub(crate) use observe::{GroupObserver, GroupWait, PartitionEnd, SettledEvidence};
pub(crate) use range::{BACKGROUND_KIB, Bound, OffsetRanges, RangeReader, ReadOptions, read_since};
