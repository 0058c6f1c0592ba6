//! The code that both daemons share: settings, logs, signals, HTTP connections, the admin listener, metrics.
//!
//! This crate does not depend on publications, Kafka or databases. Only the log subscriber is global: callers pass in
//! registries, tokens and health, so that two daemons can run in one process.

pub mod admin;
pub mod allocation;
pub mod config;
pub mod connection;
pub mod lifecycle;
pub mod metrics;
pub mod notify;
pub mod quiet;
pub mod telemetry;
