//! The workspace as cargo sees it, and the programs that run in it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

/// The workspace that `cargo xtask` was called in.
pub(crate) struct Workspace {
    /// Its members, without their dependencies' own.
    pub(crate) metadata: Metadata,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let metadata =
            MetadataCommand::new().no_deps().exec().context("cannot read the workspace")?;
        Ok(Self { metadata })
    }

    /// The folder of the workspace.
    pub(crate) fn root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }

    /// The folder that cargo builds in, and that Kafka is fetched into.
    pub(crate) fn target(&self) -> &Path {
        self.metadata.target_directory.as_std_path()
    }

    /// The folder of Kafka's jars, filled or not.
    pub(crate) fn kafka_libs(&self) -> PathBuf {
        self.target().join(testkit::kafka_folder()).join("libs")
    }

    /// The folder that cargo's subcommands are installed into, in `bin`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// Whether cargo has a subcommand, on this machine or in [`Self::tools`].
    pub(crate) fn has_cargo(&self, subcommand: &str) -> bool {
        let mut command = self.cargo(&[subcommand, "--version"]);
        command.output().is_ok_and(|output| output.status.success())
    }

    /// The minor version of Go 1, on this machine or in [`Self::tools`].
    pub(crate) fn go_version(&self) -> Option<u32> {
        let output = self.command("go").args(["env", "GOVERSION"]).output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?;
        version.trim().strip_prefix("go1.")?.split('.').next()?.parse().ok()
    }

    /// `cargo …` in the workspace's folder.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        // The cargo that runs this, so that a toolchain chosen on the command line stays chosen.
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args);
        command
    }

    /// A program in the workspace's folder, on this machine or in [`Self::tools`].
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.root());
        // Behind the user's own, whose versions win.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([self.tools().join("bin")]);
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
    }
}

/// A program ended with a failure; its code becomes the task's.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: Option<i32>,
}

impl Failure {
    /// The program's own exit code, 1 when a signal ended it.
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

/// Prints an error; returns the exit code that it stands for.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("xtask: {error:#}");
    error.downcast_ref::<Failure>().map_or(ExitCode::FAILURE, Failure::exit_code)
}

/// Runs a program to its end, its output going where ours goes; any exit code but 0 is a [`Failure`].
pub(crate) fn succeed(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {what}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure { what: what.to_owned(), code: status.code() }.into())
    }
}
