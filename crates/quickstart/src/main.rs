//! The whole service on embedded parts, in one process: the first command of the README.
//!
//! librdkafka's in-process cluster stands in for Kafka and a file for the database; the ingester and the query server
//! are the real ones, by their library entry points. It replays real publications whose addresses and authentication it
//! makes up (`made_up`, `exit_lists`), shows what became of them and serves until Ctrl-C. It is there to look at and to
//! try things on: nothing may depend on it, and no claim about the service rests on it.
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

use service::{lifecycle, telemetry};

fn main() -> ExitCode {
    let result = run::execute(&clap::Parser::parse());
    telemetry::end(result.as_ref().err().map(|error| format!("quickstart: {error:#}")));
    result.map_or_else(|error| lifecycle::exit_code(error.as_ref()), |()| ExitCode::SUCCESS)
}
