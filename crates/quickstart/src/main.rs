//! The whole service on embedded parts, in one process: the first command of the README.
//!
//! librdkafka's mock cluster replaces Kafka and a file replaces the database; the ingester and the query server are the
//! real ones, started from their libraries. It replays real publications with generated addresses and authentication
//! (`made_up`, `exit_lists`), reports the results and serves until Ctrl-C. It is a demonstration: nothing may depend on
//! it, and no claim about the service is based on it.
#![expect(clippy::print_stdout, reason = "it prints for a person; there is nothing else it is for")]

mod arguments;
mod ask;
mod broker;
mod daemons;
mod events;
mod exit_lists;
mod made_up;
mod progress;
mod random;
mod releases;
mod replay;
mod report;
mod run;
mod stories;

use std::process::ExitCode;

use service::lifecycle;

fn main() -> ExitCode {
    lifecycle::program(run::execute)
}
