//! Serves publications over GraphQL (crates/query/README.md).
//!
//! A request is parsed and validated within limits, once for each document text; its keys go to the store in one
//! statement; rows are written straight into the answer. There is no other way through. This crate reads only: it must
//! not write to the store, evaluate anything, or know of Kafka.

mod access;
mod admission;
mod cli;
mod config;
mod document;
mod error;
mod execute;
mod generations;
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
