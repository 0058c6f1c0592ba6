//! The audits of npm's `graphql-http`, the reference implementation of GraphQL over HTTP, against the real daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Query, STOP, Scene, free_address};

/// Where the audits' package and its lock file are kept.
const AUDITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/query/tests/audits");

/// Runs a program to its end and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {program}: {error}; `cargo xtask setup` installs Node.js and npm")
    });
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}:\n{text}");
    text
}

#[test]
fn every_audit_of_graphql_over_http_passes() {
    // A copy, so that no test ever leaves a folder of packages in the project.
    let directory = tempfile::tempdir().unwrap();
    for file in ["package.json", "package-lock.json", "audit.mjs", "oracle.mjs", "cases.json"] {
        fs::copy(Path::new(AUDITS).join(file), directory.path().join(file)).unwrap();
    }
    run("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"], directory.path());
    // What the query crate's own tests take for graphql-js's word is its word.
    let schema = Path::new(AUDITS).join("../../src/schema.graphql");
    let oracle = run("node", &["oracle.mjs", &schema.display().to_string()], directory.path());
    assert_eq!(oracle, fs::read_to_string(Path::new(AUDITS).join("expected.json")).unwrap());

    let store = format!("sqlite://{}", directory.path().join("publications.db").display());
    let scene = Scene::without_topic("audits", store);
    let migrated = scene.ingester_command("migrate", &free_address()).spawn().wait_exit(STOP);
    assert_eq!(migrated.code(), Some(0));
    let query = Query::start(&scene.store, &[]);
    let url = format!("http://{}/graphql", query.http);
    let report = run("node", &["audit.mjs", &url], directory.path());
    assert!(report.contains(r#"61 {"ok":61,"notice":0,"warn":0,"error":0}"#), "{report}");
    query.running.stop();
}
