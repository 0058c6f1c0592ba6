//! Programs that the tests need, as PyPI has them built for this machine. Cargo's subcommands are built here where it has none.

use std::process::Command;

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// Whose packages cargo's subcommands are: Astral builds both from their tags and says so in each package.
const PREFIX: &str = "astral-dev-toolchain-";

/// Puts a subcommand into the target directory.
pub(super) fn install(workspace: &Workspace, name: &str, version: &str) -> Result<()> {
    eprintln!("installing {name} {version} into {}", workspace.tools().display());
    if from_pypi(workspace, &format!("{PREFIX}{name}"), version).is_ok() {
        return Ok(());
    }
    eprintln!("there is no built {name} for this machine: building it, which takes minutes");
    let mut cargo = workspace.cargo(&["install", "--locked", "--root"]);
    succeed("cargo install", cargo.arg(workspace.tools()).arg(format!("{name}@{version}")))
}

/// Puts a program of PyPI's into the target directory.
pub(super) fn from_pypi(workspace: &Workspace, name: &str, version: &str) -> Result<()> {
    let mut python = Command::new("python3");
    succeed("python3 -m venv", python.args(["-m", "venv"]).arg(workspace.tools()))?;
    let mut pip = Command::new(workspace.tools().join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    succeed("pip install", pip.arg(format!("{name}=={version}")))
}
