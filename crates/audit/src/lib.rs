//! Audits lockfiles and SBOMs: asks the query API how each package was published, and evaluates the answers by a policy.
//!
//! Read in this order: [`cli`], [`run`], [`lockfile`] (what the files say), [`settings`] and [`select`] (what is asked),
//! [`client`] (how it is asked), [`policy`] and [`rules`] (what is wrong), [`report`] (how it is said).
//!
//! This crate must not know Kafka, a database or the GraphQL engine: it is a client like any other. It must never send
//! the name of a package that does not come from the deployment's registry, and never end with 0 where something was
//! not answered.

pub mod answer;
pub mod cli;
pub mod client;
pub mod exit;
pub mod finding;
pub mod integrity;
pub mod location;
pub mod lockfile;
pub mod policy;
pub mod report;
pub mod rule;
pub mod rules;
pub mod run;
pub mod select;
pub mod settings;
pub mod tree;

pub use cli::Cli;
pub use exit::Exit;
pub use run::{Surroundings, run};
