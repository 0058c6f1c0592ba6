//! Runs the tests of the Security Scanner in `deploy/bun-scanner`: a real Bun installs from a local Verdaccio.

use std::fs;
use std::path::{Path, PathBuf};

use crate::programs::{copy, npm_install, run};

const SCANNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bun-scanner");

/// Bun's program is in a package per platform. A script of the package `bun` would only move it.
fn bun(packages: &Path) -> PathBuf {
    let platforms =
        fs::read_dir(packages.join("@oven")).expect("Bun has a package for this platform");
    let programs = platforms.map(|platform| platform.unwrap().path().join("bin/bun"));
    programs.into_iter().find(|program| program.is_file()).expect("the package has the program")
}

#[test]
fn a_real_bun_installs_what_the_scanner_lets_pass() {
    // A copy, so that no test leaves a folder of packages in the project.
    let directory = tempfile::tempdir().unwrap();
    copy(Path::new(SCANNER), directory.path());
    let tests = directory.path().join("test");
    npm_install(&tests);
    let report = run(bun(&tests.join("node_modules")), &["test"], directory.path());
    assert!(report.contains("16 pass") && report.contains("0 fail"), "{report}");
}
