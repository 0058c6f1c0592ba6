//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use service::{config, lifecycle, notify, telemetry};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::commands::bound::InvalidRange;
use crate::commands::check::Check;
use crate::commands::dead_letters::DeadLettersCommand;
use crate::commands::event::{EventCommand, UnreadableFile, UnwritableOutput};
use crate::commands::migrate;
use crate::commands::output::stdout;
use crate::commands::reconcile::Reconcile;
use crate::commands::replay::Replay;
use crate::commands::tor::TorCommand;
use crate::daemon::Ingester;
use crate::kafka;
use crate::pipeline::IngestError;
use crate::settings::Settings;

/// How long a command may take to end in order after a stop. With the end of the process it stays below the second that a
/// person at a terminal waits.
const STOP_WITHIN: Duration = Duration::from_millis(800);

/// Consumes publish events from Kafka, says whether the publisher came over Tor and gave a second factor, and writes
/// one row a publication.
#[derive(Debug, Parser)]
#[command(name = "publication-ingester", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The configuration [default: config/ingester.toml, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ingest until told to stop (SIGTERM or Ctrl-C)
    Run,
    /// Read a range of the topic, or a file, again: a job that can be watched, resumed and cancelled
    Replay(Box<Replay>),
    /// List, show, redrive or export the records of the dead-letter topic
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Compare a range of the topic with the table: missing, different and extra rows; exit code 1 when there are any
    Reconcile(Reconcile),
    /// Connect to everything, check rights and settings, and say what follows from them; exit code 1 on a problem
    Check(Check),
    /// Check events before they are sent
    Event {
        #[command(subcommand)]
        command: EventCommand,
    },
    /// Apply this build's database migrations
    Migrate,
    /// Ask the exit lists: explain a verdict, show what they cover, check a directory
    Tor {
        #[command(subcommand)]
        command: TorCommand,
    },
}

impl Cli {
    /// Runs the command of the command line.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = self.execute();
        let error = result.as_ref().err();
        telemetry::end(error.map(|error| format!("publication-ingester: {error:#}")));
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => exit_code(&error),
        }
    }

    /// `false` where the command ran and its result is negative.
    fn execute(self) -> anyhow::Result<bool> {
        let default = Path::new("config/ingester.toml");
        let settings: Settings =
            config::load("INGESTER_", self.config.as_deref(), default, std::env::vars_os())?;
        kafka::check_settings(&settings)?;
        telemetry::init(&settings.log)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let result = self.command.run_or_leave(settings, &runtime);
        // Dropping the runtime would wait for threads that wait for a broker or a database.
        std::mem::forget(runtime);
        result
    }
}

impl Command {
    /// Runs on a thread that is abandoned when the command does not end in time: librdkafka's calls and the drop of its
    /// clients wait for brokers, and must not delay the end of the process.
    fn run_or_leave(self, settings: Settings, runtime: &Runtime) -> anyhow::Result<bool> {
        let guard = runtime.enter();
        let stop = lifecycle::stop_on_signals()?;
        drop(guard);
        // The daemon has its own time limit, `shutdown.grace`.
        let is_daemon = matches!(self, Self::Run);
        let (end, ended) = oneshot::channel();
        let (handle, stopping) = (runtime.handle().clone(), stop.clone());
        std::thread::Builder::new().name("command".into()).spawn(move || {
            // The receiver is gone when the thread was abandoned.
            let _ = end.send(handle.block_on(self.run(settings, stopping)));
        })?;
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        runtime.block_on(async {
            tokio::select! {
                ended = ended => ended.unwrap_or_else(|_| Err(anyhow!("the command panicked"))),
                () = over, if !is_daemon => Err(anyhow!("stopped before its end")),
            }
        })
    }

    async fn run(self, settings: Settings, stop: CancellationToken) -> anyhow::Result<bool> {
        match self {
            Self::Run => {
                let ingester = Ingester::bind(settings).await?;
                tokio::spawn(notify::report_to_supervisor(ingester.health(), stop.clone()));
                ingester.run(stop).await.map(|()| true)
            }
            Self::Replay(replay) => replay.run(settings, stop).await,
            Self::DeadLetters { command } => command.run(settings, stop).await,
            Self::Reconcile(reconcile) => reconcile.run(settings, stop).await,
            Self::Check(check) => check.run(settings).await,
            Self::Event { command } => command.run(&settings),
            Self::Tor { command } => command.run(&settings, &mut stdout()),
            Self::Migrate => migrate(&settings).await.map(|()| true),
        }
    }
}

/// The errors of the source have their own exit codes.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<InvalidRange>() || error.is::<UnreadableFile>() || error.is::<UnwritableOutput>()
    {
        return ExitCode::from(lifecycle::exit::USAGE);
    }
    match error.downcast_ref() {
        Some(IngestError::Source(source)) => ExitCode::from(source.exit_code()),
        _ => lifecycle::exit_code(error.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The help of a command and of all its subcommands.
    fn help(command: &mut clap::Command, name: &str, text: &mut String) {
        let lines = command.render_long_help().to_string();
        let lines: Vec<&str> = lines.lines().map(str::trim_end).collect();
        text.push_str(&format!("# {name}\n\n{}\n\n", lines.join("\n").trim_end()));
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            let name = format!("{name} {}", below.get_name());
            help(below, &name, text);
        }
    }

    #[test]
    fn the_help_is_as_committed() {
        let mut command = Cli::command();
        command.build();
        let mut text = String::new();
        help(&mut command, "publication-ingester", &mut text);
        let text = format!("{}\n", text.trim_end());
        assert!(text == include_str!("../help.txt"), "help.txt is to be:\n{text}");
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
