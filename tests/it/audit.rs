//! `publication-audit` against a real query daemon, with rows from the pipeline: its findings, the names that it never
//! sends, and its errors when the daemon is unreachable, slow, overloaded or cut off.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testkit::{Daemon, NetworkFault, Proxy, Record};

use crate::support::{PATIENCE, Query, Scene, event, structured, with};

pub(crate) const HOSTS: (&str, &str) = ("QUERY_REGISTRY__HOSTS", r#"["registry.example"]"#);

/// A publication of `name` on a day of 2026, with this authentication.
fn publication(name: &str, version: &str, day: &str, auth: &Value) -> Record {
    let event =
        with(event(name, version), "/data/publishedAt", json!(format!("2026-{day}T12:00:00Z")));
    let event = with(event, "/data/actor/username", json!("made-up-account"));
    let event = with(event, "/data/package/integrity", json!(integrity(name)));
    structured(&with(event, "/data/auth", auth.clone()))
}

fn integrity(name: &str) -> String {
    // Any digest. 64 base64 characters without padding are 48 bytes.
    format!("sha384-{}", name.repeat(64).chars().take(64).collect::<String>())
}

/// A package that went from trusted publishing to a token, and a package without findings.
async fn scene(name: &str) -> Scene {
    let scene = Scene::new(name, 1).await;
    let oidc = json!({"credential": "oidc"});
    let token = json!({"credential": "granular_token", "bypass2fa": true});
    let factor = json!({"credential": "session_token",
        "secondFactor": {"presented": true, "verified": true, "method": "totp"}});
    scene
        .produce([
            publication("client", "1.13.0", "01-10", &oidc),
            publication("client", "1.14.0", "02-10", &oidc),
            publication("client", "1.14.1", "03-31", &token),
            publication("calm", "1.0.0", "01-10", &factor),
        ])
        .await;
    scene.ingest(&[]).await;
    scene
}

/// A project with a package-lock.json of these packages.
pub(crate) fn project(packages: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let entries = packages.iter().map(|(name, version)| {
        let resolved = format!("https://registry.example/{name}/-/{name}-{version}.tgz");
        let entry = json!({"version": version, "resolved": resolved, "integrity": integrity(name)});
        (format!("node_modules/{name}"), entry)
    });
    let packages: serde_json::Map<_, _> = entries.collect();
    let lock = json!({"name": "project", "lockfileVersion": 3, "packages": packages});
    fs::write(folder.path().join("package-lock.json"), lock.to_string()).unwrap();
    folder
}

pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) output: String,
}

/// Runs the program in a folder that is also its home folder, so that no user's settings apply.
pub(crate) fn audit(folder: &Path, address: &str, arguments: &[&str]) -> Run {
    let mut daemon = Daemon::command("publication-audit")
        .dir(folder)
        .env("HOME", folder)
        .args(["--url", &format!("http://{address}")])
        .args(arguments)
        .spawn();
    let status = daemon.wait_exit(PATIENCE);
    Run { code: status.code().expect("it ends by itself"), output: daemon.log() }
}

pub(crate) const CALM: &[(&str, &str)] = &[("calm", "1.0.0")];

#[tokio::test]
async fn an_audit_finds_what_changed_and_ends_with_the_code_for_it() {
    let scene = scene("audit-rules").await;
    let query = Query::start(&scene.store, &[HOSTS]);
    let off = "[rules]\nunknown = \"off\"\n";
    for (packages, policy, code, part) in [
        (CALM, off, 0, "no rule with the level error is broken"),
        (&[("client", "1.14.0")][..], off, 0, "no rule with the level error is broken"),
        (&[("client", "1.14.1")][..], off, 1, "1.14.0 was published by trusted publishing"),
        (&[("client", "9.9.9")][..], "", 0, "No publication is on record"),
        (&[("client", "9.9.9")][..], "[rules]\nunknown = \"error\"\n", 1, "No publication"),
        (&[][..], off, 3, "nothing to audit"),
        (CALM, "[rules", 2, "policy.toml"),
    ] {
        let project = project(packages);
        fs::write(project.path().join("policy.toml"), policy).unwrap();
        let run = audit(project.path(), &query.http, &["--policy", "policy.toml"]);
        assert_eq!(run.code, code, "{packages:?} {policy}\n{}", run.output);
        assert!(run.output.contains(part), "{packages:?} {policy}\n{}", run.output);
    }
    let project = project(CALM);
    let lock = project.path().join("package-lock.json");
    let changed = fs::read_to_string(&lock).unwrap().replace("sha384-calm", "sha384-calx");
    fs::write(&lock, changed).unwrap();
    let run = audit(project.path(), &query.http, &["--format", "sarif"]);
    assert!(run.code == 1 && run.output.contains("\"ruleId\": \"integrity\""), "{}", run.output);
}

#[tokio::test]
async fn without_a_host_the_audit_names_those_of_the_lockfile() {
    let scene = scene("audit-hosts").await;
    let query = Query::start(&scene.store, &[]);
    let project = project(CALM);
    let run = audit(project.path(), &query.http, &[]);
    assert!(run.code == 2 && run.output.contains("--registry registry.example"), "{}", run.output);
    let run = audit(project.path(), &query.http, &["--registry", "registry.example"]);
    assert_eq!(run.code, 0, "{}", run.output);
}

#[tokio::test]
async fn limits_of_the_service_are_met_in_halves() {
    let scene = scene("audit-limits").await;
    let all = &[("calm", "1.0.0"), ("client", "1.13.0"), ("client2", "1.0.0")];
    let project = project(all);
    for limit in [("QUERY_LIMITS__MAX_HISTORY", "3"), ("QUERY_LIMITS__MAX_REFS", "1")] {
        let query = Query::start(&scene.store, &[HOSTS, limit]);
        let run = audit(project.path(), &query.http, &["--format", "json"]);
        assert_eq!(run.code, 0, "{limit:?}\n{}", run.output);
        assert!(run.output.contains("\"asked\": 3"), "{limit:?}\n{}", run.output);
    }
    // A single history exceeds this limit.
    let query = Query::start(&scene.store, &[HOSTS, ("QUERY_LIMITS__MAX_HISTORY", "2")]);
    let run = audit(project.path(), &query.http, &[]);
    assert!(run.code == 4 && run.output.contains("limits.max_history"), "{}", run.output);
}

#[tokio::test]
async fn a_daemon_that_refuses_or_is_full_ends_an_audit_with_4() {
    let scene = scene("audit-refused").await;
    let project = project(CALM);
    let hash: String = Sha256::digest("right").iter().map(|byte| format!("{byte:02x}")).collect();
    let tokens = format!(r#"["ci {hash}"]"#);
    let query = Query::start(&scene.store, &[HOSTS, ("QUERY_ACCESS__TOKENS", &tokens)]);
    for (token, code) in [("right", 0), ("wrong", 4)] {
        fs::write(project.path().join("token"), token).unwrap();
        let run = audit(project.path(), &query.http, &["--token-file", "token"]);
        assert_eq!(run.code, code, "{token}\n{}", run.output);
    }
    let run = audit(project.path(), &query.http, &[]);
    assert!(run.code == 4 && run.output.contains("--token-file"), "{}", run.output);

    // The rate limit allows two requests with one reference per hour.
    let full = [HOSTS, ("QUERY_LIMITS__MAX_REFS", "5"), ("QUERY_ACCESS__RATE_LIMIT", "5")];
    let query = Query::start(&scene.store, &full);
    let codes: Vec<_> = (0..6)
        .map(|_| audit(project.path(), &query.http, &["--timeout", "5"]))
        .map(|run| (run.code, run.output.contains("rate limit")))
        .collect();
    assert_eq!(codes.first(), Some(&(0, false)));
    assert_eq!(codes.last(), Some(&(4, true)), "{codes:?}");
}

#[tokio::test]
async fn a_daemon_that_is_away_or_slow_ends_an_audit_with_4_in_time() {
    let scene = scene("audit-away").await;
    let project = project(CALM);
    let query = Query::start(&scene.store, &[HOSTS]);
    let proxy = Proxy::start();
    proxy.forward_to(&query.http);
    let through_proxy = |timeout: &str| {
        let started = Instant::now();
        let run = audit(project.path(), &proxy.address(), &["--timeout", timeout]);
        (run.code, started.elapsed())
    };
    assert_eq!(through_proxy("30").0, 0);
    proxy.set(NetworkFault::Slow(Duration::from_millis(300)));
    assert_eq!(through_proxy("30").0, 0, "slow is not away");
    for fault in [NetworkFault::Cut, NetworkFault::HalfOpen, NetworkFault::AnswersLost] {
        proxy.set(fault);
        let (code, elapsed) = through_proxy("3");
        assert_eq!(code, 4, "{fault:?}");
        assert!(elapsed < Duration::from_secs(15), "{fault:?} {elapsed:?}");
    }
    proxy.set(NetworkFault::None);
    assert_eq!(through_proxy("30").0, 0);
    let address = query.http.clone();
    query.running.stop();
    assert_eq!(audit(project.path(), &address, &[]).code, 4);
}

/// A proxy that forwards whole requests, but closes after a number of bytes of the answer. Ends with the test's process.
fn cut_answers_after(bytes: usize, target: &str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("some port is free");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    let target = target.to_owned();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(&target).expect("the daemon listens");
            let mut requests = client.try_clone().expect("a socket can be cloned");
            let mut to_server = server.try_clone().expect("a socket can be cloned");
            std::thread::spawn(move || std::io::copy(&mut requests, &mut to_server));
            let mut answer = vec![0; bytes];
            let read = server.read_exact(&mut answer);
            if read.is_ok() {
                // The client may have disconnected already.
                let _ = client.write_all(&answer);
            }
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_no_answer() {
    let scene = scene("audit-cut").await;
    let project = project(CALM);
    let query = Query::start(&scene.store, &[HOSTS]);
    for bytes in [1, 50, 150, 200] {
        let address = cut_answers_after(bytes, &query.http);
        let run = audit(project.path(), &address, &["--timeout", "10"]);
        assert_eq!(run.code, 4, "after {bytes} bytes\n{}", run.output);
    }
}

#[tokio::test]
async fn nine_hundred_packages_take_less_than_a_second_and_30_mb() {
    let scene = scene("audit-many").await;
    let query = Query::start(&scene.store, &[HOSTS]);
    let names: Vec<String> = (0..900).map(|n| format!("package-{n}")).collect();
    let packages: Vec<_> = names.iter().map(|name| (name.as_str(), "1.0.0")).collect();
    let project = project(&packages);
    let started = Instant::now();
    let run = audit(project.path(), &query.http, &[]);
    let elapsed = started.elapsed();
    assert_eq!(run.code, 0, "{}", run.output);
    assert!(run.output.contains("900 packages asked about"), "{}", run.output);
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    let peak = peak_memory(project.path(), &query.http);
    assert!(peak < 30_000_000, "{peak} bytes");
}

/// The peak memory of an audit with a long report, in bytes. It is taken while the program cannot end, because nobody reads the
/// rest of the report.
fn peak_memory(folder: &Path, address: &str) -> u64 {
    const CAPACITY_OF_A_PIPE: usize = 64 << 10;
    let mut program = Command::new(testkit::program_folder().join("publication-audit"))
        .current_dir(folder)
        .env("HOME", folder)
        .args(["--url", &format!("http://{address}"), "--format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is built");
    let mut output = program.stdout.take().expect("it is a pipe");
    let mut report = vec![0; 1];
    output.read_exact(&mut report).expect("the audit writes a report");
    let peak = testkit::peak_memory(program.id()).expect("the audit is still running");
    output.read_to_end(&mut report).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(0));
    assert!(report.len() > 2 * CAPACITY_OF_A_PIPE, "{} bytes can be written at once", report.len());
    peak
}
