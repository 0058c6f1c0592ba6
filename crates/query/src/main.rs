//! `publication-query`: see `query` for what it does.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use query::{Cli, Command, DEFAULT_FILE, PREFIX, QuerySettings, Server};
use service::{allocation, config, lifecycle, notify, telemetry};

fn main() -> ExitCode {
    allocation::return_large_blocks();
    lifecycle::program(run)
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let settings: QuerySettings =
        config::load(PREFIX, cli.config.as_deref(), Path::new(DEFAULT_FILE), std::env::vars_os())?;
    match cli.command {
        Command::Schema => Ok(write!(std::io::stdout(), "{}", settings.schema_text())?),
        Command::Serve => serve(settings),
    }
}

#[tokio::main]
async fn serve(mut settings: QuerySettings) -> anyhow::Result<()> {
    telemetry::init(&settings.log)?;
    let stop = lifecycle::stop_on_signals()?;
    settings.fit(lifecycle::raise_open_files()?);
    let server = Server::bind(settings).await?;
    tokio::spawn(notify::keep_told(server.health(), stop.clone()));
    let served = server.serve(stop).await;
    served.unwrap_or_else(|late| tracing::warn!("{late}; the requests in progress were cut off"));
    Ok(())
}
