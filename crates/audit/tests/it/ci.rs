//! Tests of the GitHub Action's script, with the program on its PATH.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Folder, Run, Service, npm_lock, rows};

#[expect(clippy::disallowed_methods, reason = "the script needs bash and git beside the program")]
fn action(folder: &Folder, service: &Service, inputs: &[(&str, &str)]) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ci/github/audit.sh");
    let program = Path::new(env!("CARGO_BIN_EXE_publication-audit")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg(script).current_dir(folder.path()).env_clear().stdin(Stdio::null());
    command.env("PATH", path).env("HOME", folder.path()).envs(inputs.iter().copied());
    command.env("PUBLICATION_INSIGHTS_URL", service.url()).env("GITHUB_OUTPUT", "output");
    Run::of(command.output().unwrap())
}

fn git(folder: &Folder, arguments: &[&str]) {
    let identity =
        ["-c", "user.name=x", "-c", "user.email=x@x.example", "-c", "commit.gpgsign=false"];
    let output = Command::new("git")
        .args(identity)
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?} {output:?}");
}

fn lock(packages: &[&str]) -> String {
    let entries =
        packages.iter().map(|name| (format!("node_modules/{name}"), json!({"version": "1.0.0"})));
    npm_lock(&Value::Object(entries.collect()))
}

#[test]
fn the_action_annotates_fails_and_writes_sarif() {
    let service = Service::of(
        &["registry.example"],
        rows(&[("a 1.0.0", json!({"tor": true})), ("b 1.0.0", json!({}))]),
    );
    let folder = Folder::new(&[("package-lock.json", &lock(&["a"]))]);
    let run = action(&folder, &service, &[("AUDIT_SARIF", "out.sarif"), ("AUDIT_TOKEN", "secret")]);
    assert!(run.code == 1 && run.output.contains("::error file=package-lock.json"), "{run:?}");
    assert!(service.requests()[0].head.contains("Bearer secret"));
    let sarif = std::fs::read_to_string(folder.path().join("out.sarif")).unwrap();
    assert!(serde_json::from_str::<Value>(&sarif).is_ok());
    let output = std::fs::read_to_string(folder.path().join("output")).unwrap();
    assert_eq!(output, "exit-code=1\n");
    let empty = Folder::new(&[]);
    assert_eq!(action(&empty, &service, &[]).code, 0, "nothing to audit passes");
}

#[test]
fn the_action_audits_what_a_pull_request_changes() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({"tor": true}))]));
    let folder = Folder::new(&[("package-lock.json", &lock(&["a"]))]);
    std::fs::remove_dir_all(folder.path().join(".git")).unwrap();
    git(&folder, &["init", "--quiet"]);
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "--quiet", "-m", "base"]);
    assert_eq!(action(&folder, &service, &[("AUDIT_BASE", "HEAD")]).code, 0);
    folder.write("repository/package-lock.json", &lock(&["a", "b"]));
    let run = action(&folder, &service, &[("AUDIT_BASE", "HEAD")]);
    assert_eq!((run.code, service.asked()), (1, vec!["b 1.0.0".to_owned()]), "{run:?}");
    let missing = "0123456789012345678901234567890123456789";
    assert_eq!(action(&folder, &service, &[("AUDIT_BASE", missing)]).code, 2);
}
