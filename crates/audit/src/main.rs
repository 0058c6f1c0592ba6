//! `publication-audit`: see `audit` for what it does.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use audit::settings::Environment;
use audit::{Cli, Surroundings, run};
use model::Timestamp;

fn main() -> ExitCode {
    Cli::read().map_or_else(ExitCode::from, |cli| audit(&cli))
}

fn audit(cli: &Cli) -> ExitCode {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let mut surroundings = Surroundings {
        environment: Environment::of_process(),
        now: Timestamp::from_micros(micros),
        input: Box::new(std::io::stdin()),
        output: Box::new(std::io::stdout()),
        errors: Box::new(std::io::stderr()),
    };
    ExitCode::from(run(cli, &mut surroundings).code())
}
