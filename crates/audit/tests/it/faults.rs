//! A service that is unreachable, slow, overloaded, old, or returns something else: the exit code is never 0.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Folder, Request, Run, Service, answer, npm_lock, refs, rows};

fn folder_of(count: usize) -> Folder {
    let packages: serde_json::Map<String, Value> = (0..count)
        .map(|index| (format!("node_modules/p{index}"), json!({"version": "1.0.0"})))
        .collect();
    Folder::new(&[("package-lock.json", &npm_lock(&Value::Object(packages)))])
}

/// The query daemon's answer to the request.
fn good(request: &Request) -> String {
    answer(&json!(["registry.example"]), &rows(&[("*", json!({}))]), request)
}

fn is_batch(request: &Request) -> bool {
    !request.body["variables"].is_null()
}

fn error(code: &str, more: Value) -> String {
    let mut extensions = json!({"code": code});
    for (key, value) in more.as_object().unwrap() {
        extensions[key] = value.clone();
    }
    json!({"errors": [{"message": "no", "extensions": extensions}]}).to_string()
}

#[test]
fn what_fails_for_good_ends_with_4_at_once() {
    let validation = || (400, String::new(), error("GRAPHQL_VALIDATION_FAILED", json!({})));
    let plain = |status: u16| move |_: &Request| (status, String::new(), String::new());
    let old_message =
        "{\"errors\": [{\"message\": \"Cannot query field 'history' on type 'Package'.\"}]}";
    let services: Vec<(&str, Service)> = vec![
        ("401", Service::with(plain(401))),
        ("403", Service::with(plain(403))),
        ("404", Service::with(plain(404))),
        ("no registry", Service::with(move |_| validation())),
        (
            "no history",
            Service::with(move |request| match is_batch(request) {
                true => (200, String::new(), old_message.to_owned()),
                false => (200, String::new(), good(request)),
            }),
        ),
        ("a page", Service::with(|_| (200, String::new(), "<html></html>".to_owned()))),
        (
            "other packages",
            Service::with(|request| (200, String::new(), good(request).replace("p0", "q0"))),
        ),
        (
            "too few",
            Service::with(|request| match is_batch(request) {
                true => (200, String::new(), "{\"data\": {\"packages\": []}}".to_owned()),
                false => (200, String::new(), good(request)),
            }),
        ),
        (
            "partial",
            Service::with(|request| {
                let body = good(request);
                let cut = body.trim_end_matches('}');
                (200, String::new(), format!("{cut}}}, \"errors\": [{{\"message\": \"half\"}}]}}"))
            }),
        ),
    ];
    for (what, service) in services {
        let started = Instant::now();
        let run = folder_of(1).run(&service.url(), &["--format", "json"]);
        assert_eq!(run.code, 4, "{what}: {run:?}");
        assert_eq!(run.json()["complete"], false, "{what}");
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[test]
fn a_service_that_is_too_old_is_told_with_the_hosts() {
    let service =
        Service::with(|_| (400, String::new(), error("GRAPHQL_VALIDATION_FAILED", json!({}))));
    let lock = npm_lock(
        &json!({"node_modules/a": {"version": "1.0.0", "resolved": "https://registry.example/a/-/a-1.0.0.tgz"}}),
    );
    let run = Folder::new(&[("package-lock.json", &lock)]).run(&service.url(), &[]);
    assert_eq!(run.code, 4);
    assert!(
        run.output.contains("too old") && run.output.contains("--registry registry.example"),
        "{run:?}"
    );
}

#[test]
fn away_and_slow_end_with_4_in_time() {
    let run = folder_of(1).run("http://127.0.0.1:1", &[]);
    assert!(run.code == 4 && run.output.contains("refuses connections"), "{run:?}");

    let run = folder_of(1).run("http://audit.invalid", &["--timeout", "5"]);
    assert!(run.code == 4 && run.output.contains("its host is not known"), "{run:?}");

    // The head comes, and of the body only the beginning.
    let slow =
        Service::with(|_| (200, "content-length: 9999\r\n".to_owned(), "{\"data\"".to_owned()));
    let run = folder_of(1).run(&slow.url(), &["--timeout", "1"]);
    assert!(run.code == 4 && run.output.contains("--timeout"), "{run:?}");

    // The listener accepts connections and never answers.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://127.0.0.1:{}", mute.local_addr().unwrap().port());
    let folder = folder_of(1);
    let started = Instant::now();
    let run = folder.run(&url, &["--timeout", "3"]);
    let elapsed = started.elapsed();
    assert!(run.code == 4 && run.output.contains("in time"), "{run:?}");
    assert!(elapsed >= Duration::from_secs(3) && elapsed < Duration::from_secs(10), "{elapsed:?}");
}

#[test]
fn what_passes_by_itself_is_tried_again() {
    for (what, status, headers, body) in [
        ("503", 503, "retry-after: 0\r\n", String::new()),
        ("store", 503, "", error("STORE_UNAVAILABLE", json!({}))),
        ("429", 429, "retry-after: 0\r\n", error("RATE_LIMITED", json!({"retryAfter": 0}))),
        ("cut", 200, "content-length: 9999\r\nconnection: close\r\n", "{\"data\"".to_owned()),
        ("half", 200, "", "{\"data\": {\"packages\": [".to_owned()),
    ] {
        let failures = Arc::new(AtomicUsize::new(0));
        let seen = failures.clone();
        let service = Service::with(move |request| {
            match is_batch(request) && seen.fetch_add(1, Ordering::SeqCst) < 2 {
                true => (status, headers.to_owned(), body.clone()),
                false => (200, String::new(), good(request)),
            }
        });
        let run = folder_of(1).run(&service.url(), &[]);
        assert_eq!((run.code, failures.load(Ordering::SeqCst)), (0, 3), "{what}: {run:?}");
    }
}

#[test]
fn answers_that_stay_cut_and_limits_that_stay_end_with_4() {
    let cut = Service::with(|request| match is_batch(request) {
        true => (
            200,
            "content-length: 9999\r\nconnection: close\r\n".to_owned(),
            "{\"data\"".to_owned(),
        ),
        false => (200, String::new(), good(request)),
    });
    let run = folder_of(1).run(&cut.url(), &[]);
    assert!(run.code == 4 && run.output.contains("cut off"), "{run:?}");

    let full = Service::with(|_| (429, "retry-after: 3600\r\n".to_owned(), String::new()));
    let started = Instant::now();
    let run = folder_of(1).run(&full.url(), &[]);
    assert!(run.code == 4 && run.output.contains("rate limit"), "{run:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "waiting that long is hopeless");

    // A service may ask for no wait at all, or until a time that has passed by this machine's clock.
    for header in ["retry-after: 0\r\n", "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"] {
        let full = Service::with(move |_| (429, header.to_owned(), String::new()));
        let run = folder_of(1).run(&full.url(), &["--timeout", "2"]);
        assert!(run.code == 4 && run.output.contains("rate limit"), "{header}: {run:?}");
        let count = full.requests().len();
        assert!((2..=5).contains(&count), "{header}: {count} requests");
    }
}

#[test]
fn a_batch_over_a_limit_goes_in_halves() {
    for (status, body) in [
        (200, error("LIMIT_EXCEEDED", json!({"limit": "limits.max_history"}))),
        (413, String::new()),
    ] {
        let service = Service::with(move |request| {
            // One name has so long a history that it is refused together with any other.
            let names = refs(request);
            let is_refused = names.len() > 1 && names.contains(&"p7 1.0.0".to_owned());
            match is_refused {
                true => (status, String::new(), body.clone()),
                false => (200, String::new(), good(request)),
            }
        });
        let run = folder_of(50).run(&service.url(), &["--format", "json"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(run.json()["counts"]["asked"], 50);
    }
    let service = Service::with(|request| {
        let is_refused = refs(request).contains(&"p7 1.0.0".to_owned());
        match is_refused {
            true => (
                200,
                String::new(),
                error("LIMIT_EXCEEDED", json!({"limit": "limits.max_history"})),
            ),
            false => (200, String::new(), good(request)),
        }
    });
    let run = folder_of(50).run(&service.url(), &["--format", "json"]);
    assert_eq!(run.code, 4);
    let expected = json!([{"package": "p7", "version": "1.0.0",
        "reason": "over a limit of the service: limits.max_history"}]);
    assert_eq!(run.json()["unanswered"], expected);
}

#[test]
fn not_answered_comes_before_a_broken_rule() {
    let service = Service::with(|request| {
        let hosts = json!(["registry.example"]);
        let all: HashMap<_, _> = rows(&[("*", json!({"tor": true}))]);
        match refs(request).contains(&"p7 1.0.0".to_owned()) {
            true => (200, String::new(), error("LIMIT_EXCEEDED", json!({}))),
            false => (200, String::new(), answer(&hosts, &all, request)),
        }
    });
    let run = folder_of(20).run(&service.url(), &["--format", "json"]);
    assert_eq!((run.code, run.broken().len()), (4, 19));
}

#[test]
fn many_packages_go_in_batches() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    let run = folder_of(12_345).run(&service.url(), &[]);
    assert_eq!((run.code, service.asked().len()), (0, 12_345));
    assert!(service.requests().iter().all(|request| refs(request).len() <= 5_000));
}

#[test]
fn a_token_stays_with_its_origin() {
    let folder = folder_of(1);
    folder.write("repository/token", "secret-token\n");
    let other = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    let target = format!("location: {}/graphql\r\n", other.url());
    let away = Service::with(move |_| (307, target.clone(), String::new()));
    let run = folder.run(&away.url(), &["--token-file", "token"]);
    assert_eq!((run.code, other.requests().len()), (4, 0), "{run:?}");
    assert!(away.requests()[0].head.contains("authorization: Bearer secret-token"));
    assert!(!run.output.contains("secret-token") && !run.errors.contains("secret-token"));

    let here = Service::with(|request| match request.head.starts_with("POST /graphql ") {
        true => (307, "location: /api/graphql\r\n".to_owned(), String::new()),
        false => (200, String::new(), good(request)),
    });
    assert_eq!(folder.run(&here.url(), &["--token-file", "token"]).code, 0);
    assert!(here.requests().iter().all(|request| request.head.contains("Bearer secret-token")));
}

#[test]
fn a_loopback_address_is_asked_without_a_proxy() {
    let proxy = Service::with(|_| (502, String::new(), String::new()));
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    let folder = folder_of(1);
    let mut command = folder.command(&service.url(), &[]);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"] {
        command.env(name, proxy.url());
    }
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    assert!(proxy.requests().is_empty());
}

/// A proxy that is asked to connect, and is then itself the service.
fn proxy() -> Service {
    Service::with(|request| match request.head.starts_with("CONNECT ") {
        true => (200, String::new(), String::new()),
        false => (200, String::new(), good(request)),
    })
}

/// The first lines of the requests that a service received.
fn first_lines(service: &Service) -> Vec<String> {
    let requests = service.requests();
    requests.iter().map(|request| request.head.lines().next().unwrap().to_owned()).collect()
}

#[test]
fn a_proxy_of_the_environment_is_asked_to_connect() {
    let folder = folder_of(1);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let proxy = proxy();
        let mut command = folder.command("http://audit.invalid", &[]);
        let run = Run::of(command.env(name, proxy.url()).output().unwrap());
        assert_eq!(run.code, 0, "{name}: {run:?}");
        let lines = first_lines(&proxy);
        assert_eq!(lines[0], "CONNECT audit.invalid:80 HTTP/1.1", "{name}: {lines:?}");
        let posts = lines.iter().filter(|line| *line == "POST /graphql HTTP/1.1").count();
        assert_eq!(posts, 2, "{name}: {lines:?}");
    }
    // A token and package names are encrypted for the service, so the proxy learns its host and nothing else.
    folder.write("repository/token", "secret-token\n");
    let proxy = Service::with(|_| (403, String::new(), String::new()));
    let mut command = folder.command("https://audit.invalid", &["--token-file", "token"]);
    let address = proxy.url().replace("http://", "http://user:of-the-proxy@");
    let run = Run::of(command.env("HTTPS_PROXY", address).output().unwrap());
    assert_eq!(run.code, 4, "{run:?}");
    let refusal = format!("the proxy 127.0.0.1:{} answers CONNECT with status 403", proxy.port);
    assert!(run.output.contains(&refusal), "{run:?}");
    assert!(!run.output.contains("of-the-proxy"), "{run:?}");
    let mut command = folder.command("https://audit.invalid", &[]);
    let run = Run::of(command.env("HTTPS_PROXY", NOBODY).output().unwrap());
    assert!(run.output.contains("the proxy 127.0.0.1:1 refuses connections"), "{run:?}");
    let requests = proxy.requests();
    assert!(!requests.is_empty());
    for request in requests {
        assert!(request.head.starts_with("CONNECT audit.invalid:443 HTTP/1.1\r\n"), "{request:?}");
        assert!(!request.head.contains("secret-token"), "{request:?}");
    }
}

/// The address of a proxy on which nobody listens, so that a run that uses it gets no answer.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn the_proxy_of_the_scheme_counts_before_the_one_for_all() {
    let folder = folder_of(1);
    for (url, first) in
        [("http://audit.invalid", "HTTP_PROXY"), ("https://audit.invalid", "https_proxy")]
    {
        let proxy = proxy();
        let mut command = folder.command(url, &["--timeout", "2"]);
        let run = command.env(first, proxy.url()).env("ALL_PROXY", NOBODY).output().unwrap();
        assert!(!proxy.requests().is_empty(), "{url}: {run:?}");
    }
    // A SOCKS proxy is not spoken to, and its network must not be left either.
    for (name, value) in [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTP_PROXY", "socks5h://u:secret@x.example"),
        ("HTTP_PROXY", "http://"),
    ] {
        let run =
            Run::of(folder.command("http://audit.invalid", &[]).env(name, value).output().unwrap());
        assert!(run.code == 2 && run.errors.contains("proxy"), "{value}: {run:?}");
        assert!(!run.errors.contains("secret"), "{run:?}");
    }
}

#[test]
fn a_host_in_no_proxy_is_asked_without_the_proxy() {
    let service = Service::of(&["registry.example"], rows(&[("*", json!({}))]));
    // These addresses lead to this machine, and are not loopback addresses.
    let folder = folder_of(1);
    for (host, hosts, is_direct) in [
        ("0.0.0.0", "audit.example,0.0.0.0", true),
        ("0.0.0.0", "audit.example, 0.0.0.0 ,", true),
        ("0.0.0.0", "audit.example 0.0.0.0", true),
        ("0.0.0.0", "*", true),
        ("0.0.0.0", "0.0.0.0:PORT", true),
        ("0.0.0.0", "0.0.0.0:1", false),
        ("0.0.0.0", "audit.example", false),
        ("0.0.0.0", ".0", true),
        ("0.0.0.0", "0", true),
        ("[::ffff:0:0]", "audit.example, ::ffff:0:0", true),
    ] {
        let url = format!("http://{host}:{}", service.port);
        let proxy = proxy();
        let mut command = folder.command(&url, &[]);
        let hosts = hosts.replace("PORT", &service.port.to_string());
        command.env("HTTP_PROXY", proxy.url()).env("NO_PROXY", &hosts);
        let run = Run::of(command.output().unwrap());
        assert_eq!(run.code, 0, "{hosts}: {run:?}");
        assert_eq!(proxy.requests().is_empty(), is_direct, "{hosts}: {:?}", first_lines(&proxy));
    }
}
