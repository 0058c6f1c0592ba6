//! The program as people run it, against a service that speaks the contract's answers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends with a panic")]

mod ci;
mod common;
mod faults;
mod formats;
mod lockfiles;
mod policy;
mod selection;
