//! The whole test run, the same locally and in CI.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use testkit::{KAFKA_LIBS_VARIABLE, KAFKA_VARIABLE, Kafka, POSTGRES_VARIABLE, Postgres};

use crate::workspace::{Workspace, succeed};
use crate::{setup, tidy};

/// Options of the test run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing first; without it, say what is missing and how to install it
    #[arg(long)]
    install: bool,
    /// Skip formatting, clippy and the check of the dependencies
    #[arg(long)]
    fast: bool,
    /// Handed to `cargo nextest run --workspace`
    #[arg(last = true)]
    args: Vec<String>,
}

/// Runs the steps in order and stops at the first failure, which decides the exit code.
///
/// The servers are guards: they end with this function or this process, also on Ctrl-C.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let cargo =
        |what: &str, command: &[&str]| step(what, || succeed(what, &mut workspace.cargo(command)));
    step(
        "setup",
        || if args.install { setup::install(workspace) } else { setup::check(workspace) },
    )?;
    if !args.fast {
        cargo("formatting", &["fmt", "--all", "--check"])?;
    }
    step("tidy", || tidy::run(workspace))?;
    if !args.fast {
        step("dependencies", || check_dependencies(workspace))?;
        cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    }
    // Tests start the daemons as processes, and nextest builds programs only for tests of the same crate. All targets
    // have the features of the tests, so that nothing is compiled twice.
    cargo("build", &["build", "--workspace", "--all-targets"])?;
    let (kafka, postgres) = step("servers", || Ok(start_servers()))?;
    step("tests", || {
        // The time limits are in .config/nextest.toml.
        let mut test = workspace.cargo(&["nextest", "run", "--workspace"]);
        test.args(&args.args)
            .env(KAFKA_LIBS_VARIABLE, workspace.kafka_libs())
            .env(KAFKA_VARIABLE, kafka.brokers())
            .env(POSTGRES_VARIABLE, postgres.url());
        succeed("tests", &mut test)
    })?;
    // nextest does not run doc tests.
    cargo("examples in the documentation", &["test", "--workspace", "--doc", "--quiet"])
}

/// Runs cargo-deny offline. Advisories are checked only when RustSec's database is on this machine; otherwise a message
/// says that this check was skipped.
fn check_dependencies(workspace: &Workspace) -> Result<()> {
    // cargo-deny reads the crates of all platforms, and a build downloads those of its own platform only.
    succeed("cargo fetch", &mut workspace.cargo(&["fetch", "--locked", "--quiet"]))?;
    let mut deny = workspace.cargo(&["deny", "--offline", "--log-level", "error", "check"]);
    deny.args(["bans", "licenses", "sources"]);
    if advisory_databases().is_some_and(|folder| holds_a_database(&folder)) {
        deny.arg("advisories");
    } else {
        eprintln!(
            "xtask: security advisories are not checked, because their database is not on this machine: `cargo deny fetch db` gets it"
        );
    }
    succeed("cargo deny", &mut deny)
}

/// The folder in which cargo-deny keeps advisory databases.
fn advisory_databases() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    Some(home?.join("advisory-dbs"))
}

/// Whether a database was fetched. Each is a Git checkout in a folder of its own; a fetch that failed leaves only a lock
/// file, and cargo-deny fails on that.
fn holds_a_database(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.path().join(".git").is_dir())
}

/// Starts both in parallel, because each start mostly waits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_that_failed_leaves_no_database() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_a_database(&folder.path().join("missing")));
        fs::write(folder.path().join("db.lock"), "").unwrap();
        assert!(!holds_a_database(folder.path()));
        fs::create_dir_all(folder.path().join("advisory-db-3157b0e258782691/.git")).unwrap();
        assert!(holds_a_database(folder.path()));
    }
}
