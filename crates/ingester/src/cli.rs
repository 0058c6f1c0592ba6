//! The command line.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use service::{config, lifecycle, notify, telemetry};

use crate::ingest::IngestError;
use crate::run::{Ingester, migrate};
use crate::settings::Settings;
use crate::tor_command::TorCommand;

/// Consumes publish events from Kafka, says whether the publisher came over Tor and gave a second factor, and writes
/// one row a publication.
#[derive(Debug, Parser)]
#[command(name = "publication-ingester", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ingest until told to stop (SIGTERM or Ctrl-C)
    Run(Configured),
    /// Bring the database's schema up to this build's
    Migrate(Configured),
    /// Ask the exit lists: explain a verdict, show what they cover, check a directory
    Tor(Tor),
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration [default: config/ingester.toml, where it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Tor {
    #[command(flatten)]
    configured: Configured,
    #[command(subcommand)]
    command: TorCommand,
}

impl Cli {
    /// Does what the command line asks for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command.execute() {
            Ok(code) => code,
            Err(error) => {
                tracing::error!("{error:#}");
                // Before the log is set up, and for who looks at the terminal and not at the log.
                eprintln!("publication-ingester: {error:#}");
                exit_code(&error)
            }
        }
    }
}

impl Command {
    fn execute(self) -> anyhow::Result<ExitCode> {
        let (Self::Run(configured) | Self::Migrate(configured) | Self::Tor(Tor { configured, .. })) =
            &self;
        let default = Path::new("config/ingester.toml");
        let settings: Settings =
            config::load("INGESTER_", configured.config.as_deref(), default, std::env::vars())?;
        telemetry::init(&settings.log)?;
        if let Self::Tor(tor) = &self {
            return match tor.command.run(&settings, &mut std::io::stdout().lock()) {
                Ok(false) => Ok(ExitCode::FAILURE),
                // Who reads has seen enough: `tor explain … | head -1`.
                Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
                result => result.map(|_| ExitCode::SUCCESS),
            };
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let result = runtime.block_on(async {
            match self {
                Self::Run(_) => {
                    let stop = lifecycle::stop_on_signals()?;
                    let ingester = Ingester::bind(settings).await?;
                    tokio::spawn(notify::keep_told(ingester.health(), stop.clone()));
                    ingester.run(stop).await
                }
                _ => migrate(&settings).await,
            }
        });
        // A consumer that does not close, or a write that was given up, must not hold the process.
        runtime.shutdown_timeout(Duration::from_millis(100));
        result.map(|()| ExitCode::SUCCESS)
    }
}

/// The source's reasons to end have codes of their own.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(IngestError::Source(source)) => ExitCode::from(source.exit_code()),
        _ => lifecycle::exit_code(error.as_ref()),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
