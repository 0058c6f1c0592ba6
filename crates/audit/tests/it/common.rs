//! A test service with answers like the query daemon's, and a runner for the program.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A request as the service received it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// An answer of the service: status, additional header lines, body.
pub(crate) type Answer = (u16, String, String);
type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

pub(crate) struct Service {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Service {
    pub(crate) fn with(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, handler): (_, Arc<Handler>) = (requests.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Self { port, requests }
    }

    /// A deployment with `hosts` and these rows: JSON objects by `name version`.
    pub(crate) fn of(hosts: &[&str], rows: HashMap<String, Value>) -> Self {
        let hosts = json!(hosts);
        Self::with(move |request| (200, String::new(), answer(&hosts, &rows, request)))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requested packages as `name version`, sorted.
    pub(crate) fn asked(&self) -> Vec<String> {
        let requests = self.requests();
        let refs = requests.iter().flat_map(refs);
        let mut asked: Vec<_> = refs.collect();
        asked.sort();
        asked
    }
}

pub(crate) fn refs(request: &Request) -> Vec<String> {
    let refs = request.body["variables"]["refs"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    refs.iter().map(|one| format!("{} {}", text(&one["name"]), text(&one["version"]))).collect()
}

/// The query daemon's answer to a request.
pub(crate) fn answer(hosts: &Value, rows: &HashMap<String, Value>, request: &Request) -> String {
    if request.body["variables"].is_null() {
        return json!({"data": {"registry": {"ecosystem": "npm", "hosts": hosts}}}).to_string();
    }
    let packages: Vec<Value> = refs(request)
        .iter()
        .map(|key| {
            let Some(row) = rows.get(key).or_else(|| rows.get("*")) else { return Value::Null };
            let (name, version) = key.rsplit_once(' ').unwrap();
            package(name, version, row)
        })
        .collect();
    json!({"data": {"packages": packages}}).to_string()
}

/// A package as the API returns it: a publication without findings, with the fields of `row` replaced.
fn package(name: &str, version: &str, row: &Value) -> Value {
    let mut info = json!({
        "username": "maintainer", "created": "2026-01-02T03:04:05.678Z", "tor": false, "tfa": true,
        "disputed": false, "integrity": null,
    });
    let mut history =
        json!({"strongest": null, "weaker": null, "newPublisher": false, "publisherLast": null});
    for (key, value) in row.as_object().unwrap() {
        let part = if history.get(key).is_some() { &mut history } else { &mut info };
        part[key] = value.clone();
    }
    json!({"name": name, "version": version, "publicationInfo": info, "history": history})
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, handler: &Handler) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read(&mut reader) {
        seen.lock().unwrap().push(request.clone());
        let (status, headers, body) = handler(&request);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}");
        let head = match head.contains("content-length") {
            true => format!("{head}\r\n"),
            false => format!("{head}content-length: {}\r\n\r\n", body.len()),
        };
        if writer.write_all(format!("{head}{body}").as_bytes()).is_err() || head.contains("close") {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Request { head, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

/// A folder with files and a separate home folder, in which the program runs.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(TempDir::new().unwrap());
        folder.write("repository/.git/HEAD", "");
        folder.write("home/.keep", "");
        for (name, text) in files {
            folder.write(&format!("repository/{name}"), text);
        }
        folder
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("repository")
    }

    pub(crate) fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_publication-audit"));
        command.current_dir(self.path()).env_clear().env("HOME", self.0.path().join("home"));
        // With a prefix, the global settings of this machine do not count.
        command.env("PREFIX", self.0.path().join("prefix"));
        command.args(["--url", url]).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, url: &str, arguments: &[&str]) -> Run {
        Run::of(self.command(url, arguments).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, url: &str, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(url, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Run::of(child.wait_with_output().unwrap())
    }
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap()
    }

    /// The findings as `rule name version`.
    pub(crate) fn broken(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let findings = self.json()["findings"].as_array().cloned().unwrap();
        let broken = findings.iter().map(|found| {
            format!(
                "{} {} {}",
                text(&found["rule"]),
                text(&found["package"]),
                text(&found["version"])
            )
        });
        broken.collect()
    }
}

/// A lockfile made by a real package manager.
pub(crate) fn real(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lockfiles");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

pub(crate) fn rows(rows: &[(&str, Value)]) -> HashMap<String, Value> {
    rows.iter().map(|(key, row)| ((*key).to_owned(), row.clone())).collect()
}

/// A package-lock.json of version 3 with these entries.
pub(crate) fn npm_lock(packages: &Value) -> String {
    let mut all = json!({"": {"name": "sample", "version": "1.0.0"}});
    for (path, package) in packages.as_object().unwrap() {
        all[path] = package.clone();
    }
    format!("{:#}\n", json!({"name": "sample", "lockfileVersion": 3, "packages": all}))
}
