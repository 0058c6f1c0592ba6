//! Programs of others, with packages from their registries.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a program to its end and returns what it printed.
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

/// Copies a folder and all that is in it, so that no test leaves packages in the project.
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

/// Installs what the folder's package-lock.json names.
pub(crate) fn npm_install(folder: &Path) {
    run("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder);
}

/// Installs what the folder's requirements.txt names, for [`python`].
pub(crate) fn pip_install(folder: &Path) {
    run("python3", &["-m", "venv", "venv"], folder);
    let requirements = ["-m", "pip", "install", "--quiet", "--requirement", "requirements.txt"];
    python(&requirements, folder);
}

/// Runs the Python of the folder.
pub(crate) fn python(arguments: &[&str], folder: &Path) -> String {
    run("venv/bin/python3", arguments, folder)
}
