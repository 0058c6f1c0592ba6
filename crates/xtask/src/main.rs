//! `cargo xtask`: set-up, tests and housekeeping. It needs only Rust and a C compiler.

mod bench;
mod faults;
mod setup;
mod simulate;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

#[derive(clap::Parser)]
#[command(bin_name = "cargo xtask", about)]
enum Task {
    /// Install what building and testing need, and fetch Kafka
    Setup,
    /// Check and test everything, against a real Kafka and a real PostgreSQL
    Test(test::Args),
    /// Measure speed and memory, and the limits of what they stand on, in one run
    Bench(bench::Args),
    /// Kill, freeze and cut off whatever can be, under load, and show what was lost
    Faults(faults::Args),
    /// Run the loop on a simulated broker and table, a schedule for each seed
    Simulate(simulate::Args),
    /// Check the rules of the house
    Tidy,
}

fn main() -> ExitCode {
    let outcome = workspace::Workspace::load().and_then(|workspace| match clap::Parser::parse() {
        Task::Setup => setup::install(&workspace),
        Task::Test(args) => test::run(&workspace, &args),
        Task::Bench(args) => bench::run(&workspace, &args),
        Task::Faults(args) => faults::run(&workspace, &args),
        Task::Simulate(args) => simulate::run(&workspace, &args),
        Task::Tidy => tidy::run(&workspace),
    });
    outcome.map_or_else(|error| workspace::failed(&error), |()| ExitCode::SUCCESS)
}
