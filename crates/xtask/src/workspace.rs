//! The workspace from cargo's metadata, and the commands that run in it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

/// The workspace in which `cargo xtask` was called.
pub(crate) struct Workspace {
    /// The metadata of its members, without dependencies.
    pub(crate) metadata: Metadata,
}

impl Workspace {
    /// Reads cargo's metadata.
    pub(crate) fn load() -> Result<Self> {
        let metadata =
            MetadataCommand::new().no_deps().exec().context("cannot read the workspace")?;
        Ok(Self { metadata })
    }

    /// The folder of the workspace.
    pub(crate) fn root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }

    /// Cargo's target directory, which also holds Kafka.
    pub(crate) fn target(&self) -> &Path {
        self.metadata.target_directory.as_std_path()
    }

    /// The folder of Kafka's jars, which may be missing.
    pub(crate) fn kafka_libs(&self) -> PathBuf {
        self.target().join(testkit::kafka_folder()).join("libs")
    }

    /// The folder into which tools are installed, in `bin`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// Whether a cargo subcommand is installed on this machine or in [`Self::tools`].
    pub(crate) fn has_cargo(&self, subcommand: &str) -> bool {
        let mut command = self.cargo(&[subcommand, "--version"]);
        command.output().is_ok_and(|output| output.status.success())
    }

    /// The minor version of Go 1, from this machine or [`Self::tools`].
    pub(crate) fn go_version(&self) -> Option<u32> {
        let output = self.command("go").args(["env", "GOVERSION"]).output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?;
        version.trim().strip_prefix("go1.")?.split('.').next()?.parse().ok()
    }

    /// `cargo …` in the workspace's folder.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        // Use the cargo that runs this program, to keep a toolchain chosen on the command line.
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args);
        command
    }

    /// A command in the workspace's folder, from this machine or [`Self::tools`].
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.root());
        // After the user's own folders, so that the user's versions take precedence.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([self.tools().join("bin")]);
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
    }
}

/// A failed program. Its exit code becomes that of xtask.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: Option<i32>,
}

impl Failure {
    /// The program's exit code, or 1 when a signal ended it.
    fn exit_code(&self) -> ExitCode {
        self.code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} failed with exit code {code}", self.what),
            None => write!(f, "{} was ended by a signal", self.what),
        }
    }
}

impl std::error::Error for Failure {}

/// Prints an error and returns its exit code.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: {error:#}");
    error.downcast_ref::<Failure>().map_or(ExitCode::FAILURE, Failure::exit_code)
}

/// Runs a program with inherited output. An exit code other than 0 is a [`Failure`].
pub(crate) fn succeed(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {what}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure { what: what.to_owned(), code: status.code() }.into())
    }
}
