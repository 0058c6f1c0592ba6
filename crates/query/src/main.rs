//! `publication-query`: see `query` for what it does.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use query::{Cli, Command, DEFAULT_FILE, PREFIX, QuerySettings, Server};
use service::{allocation, config, lifecycle, notify, telemetry};

fn main() -> ExitCode {
    allocation::limit_free_memory();
    lifecycle::program(run)
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let mut settings: QuerySettings =
        config::load(PREFIX, cli.config.as_deref(), Path::new(DEFAULT_FILE), std::env::vars_os())?;
    telemetry::init(&settings.log)?;
    settings.fit(lifecycle::raise_open_files()?);
    match cli.command {
        Command::Schema => {
            Server::check(&settings)?;
            Ok(write!(std::io::stdout(), "{}", settings.schema_text())?)
        }
        Command::Serve => lifecycle::run(serve(settings)),
    }
}

async fn serve(settings: QuerySettings) -> anyhow::Result<()> {
    let stop = lifecycle::stop_on_signals()?;
    let server = Server::bind(settings).await?;
    tokio::spawn(notify::report_to_supervisor(server.health(), stop.clone()));
    let served = server.serve(stop).await;
    served.unwrap_or_else(|late| tracing::warn!("{late}; the requests in progress were cut off"));
    Ok(())
}
