//! The ingester: consumes publish events from Kafka, judges them and writes publications.
//!
//! The way of a record: the poll thread (`kafka`) → [`Envelope`] → [`decode`] → the two verdicts → a batch → the store →
//! dead letters acknowledged → offsets committed, in the order of the batches. There is one loop (`ingest`), and offsets
//! move nowhere else. `rdkafka` is named in `kafka` only; `decode` must not read a clock or log.

mod again;
mod archive;
mod batch;
mod brake;
mod check;
pub mod cli;
pub mod decode;
mod difference;
mod envelope;
mod exits;
mod forecast;
mod health;
mod ingest;
mod judge;
mod kafka;
mod lag;
mod ledger;
mod letters;
mod metrics;
mod partition_state;
mod poll_list;
mod progress;
mod reconcile;
pub mod reject;
mod replay;
mod run;
mod settings;
mod settle;
mod tally;
mod tor_command;
mod write;

pub use envelope::{Envelope, Header};
pub use judge::{Judge, Outcome};
pub use metrics::IngesterMetrics;
pub use run::{Ingester, migrate};
pub use settings::Settings;
