//! Installs tools from PyPI's prebuilt packages. Cargo subcommands without one are built.

use std::process::Command;

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// The prefix of the PyPI packages with cargo subcommands. Astral builds them from the projects' tags.
const PREFIX: &str = "astral-dev-toolchain-";

/// Installs a cargo subcommand into the target directory.
pub(super) fn install(workspace: &Workspace, name: &str, version: &str) -> Result<()> {
    eprintln!("installing {name} {version} into {}", workspace.tools().display());
    if from_pypi(workspace, &format!("{PREFIX}{name}"), version).is_ok() {
        return Ok(());
    }
    eprintln!("there is no built {name} for this machine: building it, which takes minutes");
    let mut cargo = workspace.cargo(&["install", "--locked", "--root"]);
    succeed("cargo install", cargo.arg(workspace.tools()).arg(format!("{name}@{version}")))
}

/// Installs a program from PyPI into the target directory.
pub(super) fn from_pypi(workspace: &Workspace, name: &str, version: &str) -> Result<()> {
    let mut python = Command::new("python3");
    succeed("python3 -m venv", python.args(["-m", "venv"]).arg(workspace.tools()))?;
    let mut pip = Command::new(workspace.tools().join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    succeed("pip install", pip.arg(format!("{name}=={version}")))
}
