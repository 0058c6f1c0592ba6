//! What operators are given beside the daemons, checked by the tools that will read it.

use std::path::Path;
use std::process::Command;

/// Every rule file of Prometheus, and the tests that stand beside it.
#[test]
fn alerts_fire_when_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let tests: Vec<_> =
        files.filter(|path| path.to_string_lossy().ends_with(".test.yml")).collect();
    assert!(!tests.is_empty());
    let output = Command::new("promtool")
        .args(["test", "rules"])
        .args(&tests)
        .output()
        .expect("promtool runs; cargo xtask setup installs it with Prometheus");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
