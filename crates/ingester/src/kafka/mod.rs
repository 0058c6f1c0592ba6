//! Everything that speaks Kafka. Outside of this module records are [`crate::Envelope`]s and positions
//! [`model::Offsets`].

mod client;
mod consumer;
mod copier;
mod dead_letters;
mod inspect;
mod native;
mod poll;
mod range;
mod source;
mod starts;

pub(crate) use client::{refused, version};
pub(crate) use dead_letters::{DeadLetters, create_topic};
pub(crate) use inspect::{Inspected, Right, TopicFacts, inspect};
pub(crate) use poll::{CHUNK_BYTES, Shared, start};
pub(crate) use range::{Pace, Point, RangeReader, Spans, read_since};
pub(crate) use source::{Assignment, Progress, SourceError, SourceEvent};
