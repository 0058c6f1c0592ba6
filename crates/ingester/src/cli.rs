//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use service::{config, lifecycle, telemetry};

use crate::run::{Ingester, migrate};
use crate::settings::Settings;

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
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration [default: config/ingester.toml, where it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Cli {
    /// Does what the command line asks for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.execute() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error:#}");
                eprintln!("publication-ingester: {error:#}");
                lifecycle::exit_code(error.as_ref())
            }
        }
    }

    fn execute(self) -> anyhow::Result<()> {
        let (Command::Run(configured) | Command::Migrate(configured)) = &self.command;
        let default = Path::new("config/ingester.toml");
        let settings: Settings =
            config::load("INGESTER_", configured.config.as_deref(), default, std::env::vars())?;
        telemetry::init(&settings.log)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let result = runtime.block_on(async {
            match self.command {
                Command::Run(_) => {
                    let stop = lifecycle::stop_on_signals()?;
                    Ingester::bind(settings).await?.run(stop).await
                }
                Command::Migrate(_) => migrate(&settings).await,
            }
        });
        // A consumer that does not close, or a write that was given up, must not hold the process.
        runtime.shutdown_timeout(std::time::Duration::from_millis(100));
        result
    }
}
