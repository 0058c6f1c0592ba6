//! Serves publications over GraphQL (crates/query/README.md).
//!
//! A request is parsed and validated within limits, once for each document text. Its keys go to the store in one
//! statement, and rows are written directly into the answer. Every request takes this path. This crate only reads: it
//! must not write to the store, evaluate verdicts, or depend on Kafka.

mod access;
mod admission;
mod cache;
mod cli;
mod config;
mod document;
mod error;
mod execute;
mod http;
mod metrics;
mod pages;
mod schema;
mod server;
#[cfg(test)]
mod testing;

pub use cli::{Cli, Command};
pub use config::{
    AccessSettings, AdminSettings, CacheSettings, DEFAULT_FILE, ForwardedHeader, HttpSettings,
    Limits, PREFIX, QuerySettings, RegistrySettings, ShutdownSettings,
};
pub use metrics::QueryMetrics;
pub use schema::{DEFAULT_SCHEMA, InvalidSchema};
pub use server::{Server, StartError};
