//! `publication-query`: see `query` for what it does.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use query::{Cli, Command, DEFAULT_FILE, PREFIX, QuerySettings, Server, schema_text};
use service::{config, lifecycle, notify, telemetry};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::from(lifecycle::exit::OK),
        Err(error) => {
            eprintln!("publication-query: {error:#}");
            lifecycle::exit_code(error.as_ref())
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let settings: QuerySettings =
        config::load(PREFIX, cli.config(), Path::new(DEFAULT_FILE), std::env::vars())?;
    match cli.command {
        Command::Schema => Ok(write!(std::io::stdout(), "{}", schema_text(&settings.limits))?),
        Command::Serve => {
            telemetry::init(&settings.log)?;
            serve(settings)
        }
    }
}

#[tokio::main]
async fn serve(settings: QuerySettings) -> anyhow::Result<()> {
    let stop = lifecycle::stop_on_signals()?;
    lifecycle::raise_open_files()?;
    let server = Server::bind(settings).await?;
    tokio::spawn(notify::keep_told(server.health(), stop.clone()));
    // A supervisor asked for the end and has it: no failure, and nothing that a restart would mend.
    if let Err(exceeded) = server.serve(stop).await {
        tracing::warn!("{exceeded}; the requests in progress were cut off");
    }
    Ok(())
}
