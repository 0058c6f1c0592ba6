//! The daemon shell that both daemons share: settings, logs, signals, HTTP connections, the admin listener,
//! metrics.
//!
//! What stands here knows of no publication, no Kafka and no database. Nothing in it is global but the one log
//! subscriber: registries, tokens and health are handed in, so that two daemons can live in one process.

pub mod admin;
pub mod config;
pub mod connection;
pub mod lifecycle;
pub mod metrics;
pub mod notify;
pub mod quiet;
pub mod telemetry;
