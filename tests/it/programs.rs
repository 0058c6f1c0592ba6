//! External programs, with packages from their registries.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a program and returns its output. Panics when it fails.
pub(crate) fn run(program: impl AsRef<OsStr>, arguments: &[&str], directory: &Path) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let program = program.display();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {program}: {error}; `cargo xtask setup` installs what is missing")
    });
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}:\n{text}");
    text
}

/// Copies a folder with its content, so that no test leaves packages in the project.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Installs the packages of the folder's package-lock.json.
pub(crate) fn npm_install(folder: &Path) {
    run("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder);
}

/// Installs the packages of the folder's requirements.txt, for [`python`].
pub(crate) fn pip_install(folder: &Path) {
    run("python3", &["-m", "venv", "venv"], folder);
    let requirements = ["-m", "pip", "install", "--quiet", "--requirement", "requirements.txt"];
    python(&requirements, folder);
}

/// Runs the folder's Python.
pub(crate) fn python(arguments: &[&str], folder: &Path) -> String {
    run("venv/bin/python3", arguments, folder)
}
