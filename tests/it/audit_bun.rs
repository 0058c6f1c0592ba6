//! The Security Scanner of `deploy/bun-scanner`, by its own tests: a real Bun installs from a Verdaccio on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCANNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bun-scanner");

/// Copies the files of a folder, without the folders in it.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn run(program: &Path, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "cannot run {}: {error}; `cargo xtask setup` installs Node.js and npm",
            program.display()
        )
    });
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{} {arguments:?}:\n{text}", program.display());
    text
}

/// Bun's program comes in a package of its own for each platform; a script of the package `bun` would only move it.
fn bun(packages: &Path) -> PathBuf {
    let platforms =
        fs::read_dir(packages.join("@oven")).expect("Bun has a package for this platform");
    let programs = platforms.map(|platform| platform.unwrap().path().join("bin/bun"));
    programs.into_iter().find(|program| program.is_file()).expect("the package has the program")
}

#[test]
fn a_real_bun_installs_what_the_scanner_lets_pass() {
    // A copy, so that no test ever leaves a folder of packages in the project.
    let directory = tempfile::tempdir().unwrap();
    copy_files(Path::new(SCANNER), directory.path());
    let tests = directory.path().join("test");
    copy_files(&Path::new(SCANNER).join("test"), &tests);
    let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
    run(Path::new("npm"), &install, &tests);
    let report = run(&bun(&tests.join("node_modules")), &["test"], directory.path());
    assert!(report.contains("13 pass") && report.contains("0 fail"), "{report}");
}
