//! End-to-end tests of the program, against a service with answers like the query daemon's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends with a panic")]

mod ci;
mod common;
mod faults;
mod formats;
mod hiding;
mod lockfiles;
mod policy;
mod readings;
mod selection;
mod settings;
