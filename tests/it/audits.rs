//! The audits of npm's `graphql-http`, the reference implementation of GraphQL over HTTP, against the real daemon.

use std::fs;
use std::path::Path;

use crate::programs::{npm_install, run};
use crate::support::{Query, Scene};

/// The folder with the audits' package and lock file.
const AUDITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/query/tests/audits");

#[test]
fn every_audit_of_graphql_over_http_passes() {
    // A copy, so that no test leaves a folder of packages in the project.
    let directory = tempfile::tempdir().unwrap();
    for file in ["package.json", "package-lock.json", "audit.mjs", "oracle.mjs", "cases.json"] {
        fs::copy(Path::new(AUDITS).join(file), directory.path().join(file)).unwrap();
    }
    npm_install(directory.path());
    // The answers that the query crate's tests expect of graphql-js are its real answers.
    let schema = Path::new(AUDITS).join("../../src/schema.graphql");
    let oracle = run("node", &["oracle.mjs", &schema.display().to_string()], directory.path());
    assert_eq!(oracle, fs::read_to_string(Path::new(AUDITS).join("expected.json")).unwrap());

    let store = format!("sqlite://{}", directory.path().join("publications.db").display());
    let scene = Scene::without_topic("audits", store);
    scene.must("migrate", &[]);
    let query = Query::start(&scene.store, &[]);
    let url = format!("http://{}/graphql", query.http);
    let report = run("node", &["audit.mjs", &url], directory.path());
    assert!(report.contains(r#"61 {"ok":61,"notice":0,"warn":0,"error":0}"#), "{report}");
    query.running.stop();
}
