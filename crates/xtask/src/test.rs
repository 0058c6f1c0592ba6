//! The whole test run, the same on a desk and in CI.

use std::thread;
use std::time::Instant;

use anyhow::Result;
use testkit::{KAFKA_LIBS_VARIABLE, KAFKA_VARIABLE, Kafka, POSTGRES_VARIABLE, Postgres};

use crate::workspace::{Workspace, succeed};
use crate::{setup, tidy};

/// How to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Skip formatting and clippy
    #[arg(long)]
    fast: bool,
    /// Handed to `cargo test --workspace`
    #[arg(last = true)]
    args: Vec<String>,
}

/// Runs step after step up to the first that fails, which decides the exit code.
///
/// The servers are guards: they end with this function, and with this process, however it ends (Ctrl-C needs no care).
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let cargo =
        |what: &str, command: &[&str]| step(what, || succeed(what, &mut workspace.cargo(command)));
    step("setup", || setup::run(workspace))?;
    if !args.fast {
        cargo("formatting", &["fmt", "--all", "--check"])?;
    }
    step("tidy", || tidy::run(workspace))?;
    if !args.fast {
        // The benchmark is behind a feature, and is to compile all the same.
        let clippy = ["clippy", "--workspace", "--all-targets", "--features", "xtask/bench"];
        cargo("clippy", &[&clippy[..], &["--", "-D", "warnings"]].concat())?;
    }
    // Tests start the daemons as processes, and cargo test builds programs only for the tests of their own crate. With
    // all targets the features are those of the tests, so that nothing is compiled twice.
    cargo("build", &["build", "--workspace", "--all-targets"])?;
    let (kafka, postgres) = step("servers", || Ok(start_servers()))?;
    step("tests", || {
        let mut test = workspace.cargo(&["test", "--workspace"]);
        test.args(&args.args)
            .env(KAFKA_LIBS_VARIABLE, workspace.kafka_libs())
            .env(KAFKA_VARIABLE, kafka.brokers())
            .env(POSTGRES_VARIABLE, postgres.url());
        succeed("tests", &mut test)
    })
}

/// Both at once, since each mostly waits.
fn start_servers() -> (Kafka, Postgres) {
    thread::scope(|scope| {
        let postgres = scope.spawn(|| Postgres::builder().fsync(false).start());
        let kafka = Kafka::start();
        (kafka, postgres.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let outcome = work();
    let word = if outcome.is_ok() { "done" } else { "failed" };
    eprintln!("xtask: {name} {word} in {:.1} s", start.elapsed().as_secs_f64());
    outcome
}
