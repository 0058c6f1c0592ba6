//! Everything that speaks Kafka. Outside of this module records are [`crate::Envelope`]s and positions
//! [`model::Offsets`].

mod client;
mod consumer;
mod dead_letters;
mod poll;
mod source;

pub(crate) use client::version;
pub(crate) use dead_letters::{DeadLetters, create_topic};
pub(crate) use poll::{Shared, start};
pub(crate) use source::{Progress, SourceError, SourceEvent};
