//! Tests of the scripts of the GitHub Action and the GitLab job, with the program on their PATH.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Folder, Run, Service, npm_lock, rows};

fn action(folder: &Folder, service: &Service, inputs: &[(&str, &str)]) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ci/github/audit.sh");
    let mut command = Command::new("bash");
    command.arg(script);
    run(command, folder, service, &[inputs, &[("GITHUB_OUTPUT", "output")]].concat())
}

/// Runs the script of the GitLab job with the variables of the job and these.
fn gitlab(folder: &Folder, service: &Service, variables: &[(&str, &str)]) -> Run {
    let job = include_str!("../../../../deploy/ci/gitlab.yml");
    let (_, script) = job.split_once("    - |\n").unwrap();
    let lines = script.lines().map_while(|line| line.strip_prefix("      "));
    let script: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let of_the_job =
        [("PUBLICATION_AUDIT_LOCKFILE", "package-lock.json"), ("PUBLICATION_AUDIT_OPTIONS", "")];
    run(command, folder, service, &[&of_the_job[..], variables].concat())
}

#[expect(clippy::disallowed_methods, reason = "the scripts need git beside the program")]
fn run(
    mut command: Command,
    folder: &Folder,
    service: &Service,
    variables: &[(&str, &str)],
) -> Run {
    let program = Path::new(env!("CARGO_BIN_EXE_publication-audit")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    command.current_dir(folder.path()).env_clear().stdin(Stdio::null());
    command.env("PATH", path).env("HOME", folder.path()).envs(variables.iter().copied());
    // With a prefix, the global settings of this machine do not count.
    command.env("PREFIX", folder.path().join("prefix"));
    command.env("PUBLICATION_INSIGHTS_URL", service.url());
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

/// A repository whose only commit locks the package a, where everything was published over Tor.
fn repository() -> (Folder, Service) {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({"tor": true}))]));
    let folder = Folder::new(&[("package-lock.json", &lock(&["a"]))]);
    std::fs::remove_dir_all(folder.path().join(".git")).unwrap();
    git(&folder, &["init", "--quiet"]);
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "--quiet", "-m", "base"]);
    (folder, service)
}

/// A revision that no repository has.
const MISSING: &str = "0123456789012345678901234567890123456789";

/// git takes the repository for another user's, as in a container whose user is not the runner's.
const OF_ANOTHER_USER: (&str, &str) = ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");

#[test]
fn the_action_audits_what_a_pull_request_changes() {
    let (folder, service) = repository();
    assert_eq!(action(&folder, &service, &[("AUDIT_BASE", "HEAD")]).code, 0);
    folder.write("repository/package-lock.json", &lock(&["a", "b"]));
    let run = action(&folder, &service, &[("AUDIT_BASE", "HEAD"), OF_ANOTHER_USER]);
    assert_eq!((run.code, service.asked()), (1, vec!["b 1.0.0".to_owned()]), "{run:?}");
    assert_eq!(action(&folder, &service, &[("AUDIT_BASE", MISSING)]).code, 2);
}

#[test]
fn the_gitlab_job_audits_what_a_merge_request_changes() {
    const BASE: &str = "CI_MERGE_REQUEST_DIFF_BASE_SHA";
    let (folder, service) = repository();
    folder.write("repository/token", "secret");
    let whole = gitlab(&folder, &service, &[("PUBLICATION_INSIGHTS_TOKEN_FILE", "token")]);
    assert_eq!((whole.code, service.asked()), (1, vec!["a 1.0.0".to_owned()]), "{whole:?}");
    assert!(service.requests()[0].head.contains("Bearer secret"));
    let report = || {
        let text = std::fs::read_to_string(folder.path().join("publication-audit.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(report()["findings"][0]["package"], "a");
    assert_eq!(gitlab(&folder, &service, &[(BASE, "HEAD")]).code, 0);
    folder.write("repository/package-lock.json", &lock(&["a", "b"]));
    let changed = gitlab(&folder, &service, &[(BASE, "HEAD"), OF_ANOTHER_USER]);
    assert_eq!(
        (changed.code, &report()["findings"][0]["package"]),
        (1, &json!("b")),
        "{changed:?}"
    );
    // Options are several words.
    let options = [("PUBLICATION_AUDIT_OPTIONS", "--policy none.toml"), (BASE, "HEAD")];
    assert_eq!(gitlab(&folder, &service, &options).code, 2);
    let without_base = gitlab(&folder, &service, &[(BASE, MISSING)]);
    assert!(
        without_base.code == 2 && without_base.errors.contains("base revision"),
        "{without_base:?}"
    );
}
