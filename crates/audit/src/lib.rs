//! Audits lockfiles and SBOMs: requests the publication of each package from the query API, and applies a policy.
//!
//! Read in this order: [`cli`], [`run`], [`lockfile`] (parsing), [`settings`] and [`select`] (the packages to request),
//! [`client`] (requests), [`policy`] and [`rules`] (findings), [`report`] (output).
//!
//! This crate must not depend on Kafka, a database or the GraphQL engine, because it is an ordinary client. It must
//! never send the name of a package that is not from the deployment's registry, and never exit with 0 when an answer is
//! missing.

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
