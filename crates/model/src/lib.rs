//! The model of a publication: names, times, events, verdicts, rows and the merge rule.
//!
//! Everything here is a value or a pure rule. This crate must not do I/O, must not read a clock and must not depend on
//! Kafka, a database or an asynchronous runtime, because its decisions must be the same in a replay years later.

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
mod columns;
mod event;
mod history;
mod merge;
mod name;
mod position;
mod publication;
mod purl;
mod time;
mod verdict;
mod visible;

pub use columns::{COLUMN_COUNT, COLUMNS, ColumnValue};
pub use event::{Act, Address, Auth, EventIdentity, PublishEvent, SecondFactor};
pub use history::{History, Past, PublishMethod, histories};
pub use merge::merge_all;
pub use name::{Integrity, InvalidName, PackageName, PackageVersion, PublicationId, Username};
pub use position::Position;
pub use publication::{Publication, PublicationInfo};
pub use purl::{InvalidPurl, Purl};
pub use time::{InvalidTimestamp, Timestamp};
pub use verdict::{Actor, Credential, TfaReason, TfaVerdict, TorReason, TorVerdict, UnknownWord};
pub use visible::{is_hidden, visible};

/// The example of a publish event in crates/model/README.md, as JSON.
pub const EXAMPLE_EVENT: &str = include_str!("../example.json").trim_ascii_end();

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_is_that_of_the_specification() {
        let block = format!("```json\n{}\n```\n", crate::EXAMPLE_EVENT);
        assert!(include_str!("../README.md").contains(&block));
    }
}
