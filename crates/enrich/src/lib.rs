//! Whether a publisher came over Tor, and whether a second factor was verified (crates/enrich/README.md, and `tfa` in
//! crates/model/README.md).
//!
//! [`Library`] reads exit lists and databases from directories into an [`ExitHistory`], the evidence over time;
//! [`tor::verdict`] and [`tfa::verdict`] then evaluate an event. After loading, everything here is pure: a verdict depends
//! on the event, the history and the rules, so that a replay years later decides the same.
//!
//! This crate must not read a clock (the caller says what time it is), must not know of Kafka, of a database server or
//! of an asynchronous runtime, and must never put an address into an error, a log line or a `Debug` output.

pub mod address;
mod anonymous_ip;
mod exit_list;
mod exits;
mod list;
mod list_time;
mod refusal;
mod rules;
mod snapshot;
mod sources;
pub mod tfa;
pub mod tor;

pub use anonymous_ip::Database;
pub use exits::{
    Change, Covering, DayCoverage, Evidence, ExitHistory, Explanation, Finding, Span, Update,
};
pub use list::{Family, List, Source};
pub use refusal::{Refusal, Refused};
pub use rules::{TfaRules, TorRules};
pub use sources::{Library, LoadError, Places};

/// The list formats, for tools that hold a list in memory.
pub mod format {
    pub use crate::exit_list::parse as exit_list;
    pub use crate::list_time::from_file_name;
    pub use crate::snapshot::parse as snapshot;
}
