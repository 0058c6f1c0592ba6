//! Decides whether a publisher came over Tor, and whether a second factor was verified (crates/enrich/README.md, and
//! `tfa` in crates/model/README.md).
//!
//! [`Library`] reads exit lists and databases from directories into an [`ExitHistory`], the evidence over time;
//! [`tor::verdict`] and [`tfa::verdict`] then evaluate an event. After loading, everything here is pure: a verdict
//! depends on the event, the history and the rules, so that a replay years later gives the same verdict.
//!
//! This crate must not read a clock (the caller supplies the time), must not depend on Kafka, a database server or an
//! asynchronous runtime, and must never put an address into an error, a log line or a `Debug` output.

pub mod address;
mod anonymous_ip;
mod exit_list;
mod exits;
mod explain;
mod list;
mod list_time;
mod refusal;
mod rules;
mod snapshot;
mod source;
mod sources;
pub mod tfa;
pub mod tor;

pub use anonymous_ip::Database;
pub use exits::{Change, Covering, DayCoverage, Evidence, ExitHistory, Finding, Span, Update};
pub use explain::Explanation;
pub use list::List;
pub use refusal::{Refusal, Refused};
pub use rules::{TfaRules, TorRules};
pub use source::{Family, Source};
pub use sources::{Library, LoadError, SourcePaths};

/// The parsers of the list formats, for tools that have a list in memory.
pub mod format {
    pub use crate::exit_list::parse as exit_list;
    pub use crate::list_time::from_file_name;
    pub use crate::snapshot::parse as snapshot;
}
