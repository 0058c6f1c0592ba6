//! The measured workspace, and the commands that run in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The folder of the workspace that this program was built from.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace of this crate.
    pub(crate) fn here() -> Self {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        Self { root: crates.and_then(Path::parent).unwrap_or(Path::new(".")).to_owned() }
    }

    /// The folder of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `cargo …` in the workspace's folder.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        // Use the cargo that runs this program, to keep a toolchain chosen on the command line.
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args).current_dir(self.root());
        command
    }

    /// Builds the programs of a member beside this program, where testkit finds them, unless the environment names the
    /// folder of another build. They have no TLS to Kafka, which no measurement uses and which needs OpenSSL.
    pub(crate) fn build(&self, member: &str) -> Result<()> {
        if std::env::var_os("TESTKIT_BIN_DIR").is_some() {
            return Ok(());
        }
        let mut cargo = self.cargo(&["build", "--release", "--bins", "--package", member]);
        succeed(&format!("building {member}"), cargo.arg("--no-default-features"))
    }
}

/// Runs a program with inherited output.
///
/// # Errors
/// The program's exit code is not 0.
pub(crate) fn succeed(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {what}"))?;
    ensure!(status.success(), "{what} failed: {status}");
    Ok(())
}
