//! The rules of the house that no compiler checks.

mod arrows;
mod manifests;
mod sources;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A rule broken at a place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    rule: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// Checks every rule and prints each violation.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut violations = Vec::new();
    let members = arrows::members(workspace)?;
    violations.extend(arrows::check(&members));
    for member in &members {
        violations.extend(manifests::check(&member.path, &member.manifest));
    }
    for path in files(workspace)? {
        // What is not text (and what was deleted but not yet committed) breaks no rule of words.
        let Ok(text) = fs::read_to_string(workspace.root().join(&path)) else { continue };
        violations.extend(sources::check(&path, &text));
    }
    violations.sort();
    for violation in &violations {
        eprintln!("{violation}");
    }
    if violations.is_empty() {
        Ok(())
    } else {
        bail!("{} violations of the rules of the house", violations.len())
    }
}

/// The files that git tracks or would track, relative to the root; without git (an unpacked archive), all but cargo's.
fn files(workspace: &Workspace) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace.root());
    if let Ok(output) = git.output()
        && output.status.success()
    {
        let listed = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
        return Ok(listed.split_terminator('\0').map(str::to_owned).collect());
    }
    let mut paths = Vec::new();
    walk(workspace.root(), workspace.target(), &mut paths)?;
    let relative =
        paths.iter().filter_map(|path| path.strip_prefix(workspace.root()).ok()?.to_str());
    Ok(relative.map(str::to_owned).collect())
}

fn walk(folder: &Path, skip: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path != skip {
            walk(&path, skip, paths)?;
        } else if path.is_file() {
            paths.push(path);
        }
    }
    Ok(())
}
