//! The ingester: consumes publish events from Kafka, evaluates them and writes publications.
//!
//! The path of a record: the poll thread (`kafka::group`) → [`Record`] → [`decode`] → the two verdicts → a batch → the
//! store → dead letters acknowledged → offsets committed, in the order of the batches. There is one loop (`pipeline`),
//! and offsets move only there. Only `kafka` names `rdkafka`; `decode` must not read a clock or log.

pub mod cli;
mod commands;
mod daemon;
pub mod decode;
mod evidence;
mod kafka;
mod pipeline;
mod record;
mod settings;
#[cfg(test)]
mod simulation;

pub use commands::migrate;
pub use daemon::Ingester;
pub use daemon::health::PauseCause;
pub use daemon::metrics::IngesterMetrics;
pub use pipeline::evaluate::{Evaluator, Outcome};
pub use record::{Header, Record};
pub use settings::Settings;
