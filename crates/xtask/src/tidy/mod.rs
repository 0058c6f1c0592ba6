//! The rules of the house, which no compiler checks.

mod arrows;
mod modules;
mod sources;
mod violation;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::violation::Violation;
use crate::workspace::Workspace;

/// Checks every rule and prints each violation.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut violations = Vec::new();
    let members = arrows::members(workspace)?;
    violations.extend(arrows::check(&members));
    for member in &members {
        violations.extend(check_modules(workspace, member)?);
    }
    let paths = files(workspace)?;
    violations.extend(modules::check_files(paths.iter().map(String::as_str)));
    for path in paths {
        // Files that are not text, and files that were deleted without a commit, are skipped.
        let Ok(text) = fs::read_to_string(workspace.root().join(&path)) else { continue };
        violations.extend(sources::check(&path, &text));
        violations.extend(words::check(&path, &text));
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

/// Checks the modules of a member's library and programs. Tests may use modules in any order.
fn check_modules(workspace: &Workspace, member: &arrows::Member) -> Result<Vec<Violation>> {
    let read = |path: &str| fs::read_to_string(workspace.root().join(path)).ok();
    let mut violations = Vec::new();
    for root in &member.roots {
        let graph = modules::Graph::read(root, &read)?;
        violations.extend(graph.circles());
        if member.name == modules::DIVIDED_CRATE {
            violations.extend(modules::check_rooms(&graph));
        }
    }
    Ok(violations)
}

/// The files that git tracks or would track, from the root. Without git (an unpacked archive), all except cargo's output.
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
