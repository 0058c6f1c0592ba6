//! Secrets are in every possible setting and everything fails: no output and no answer may contain a secret.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use testkit::{Daemon, DaemonBuilder, eventually};

use crate::support::{PATIENCE, Scene, free_address};

const SECRET: &str = "geheimnis";

/// Every command of the ingester, with arguments that let it begin its work.
const COMMANDS: [(&str, &[&str]); 16] = [
    ("run", &[]),
    ("replay", &["--from", "earliest", "--yes"]),
    ("replay list", &[]),
    ("replay resume", &["7", "--yes"]),
    ("replay cancel", &["7"]),
    ("dead-letters list", &[]),
    ("dead-letters show", &["0", "0"]),
    ("dead-letters redrive", &["--dry-run"]),
    ("dead-letters export", &[]),
    ("reconcile", &["--from", "earliest"]),
    ("check", &[]),
    ("event check", &["--schema"]),
    ("migrate", &[]),
    ("tor explain", &["--address", "192.0.2.1", "--at", "2024-03-05T10:00:00Z"]),
    ("tor coverage", &[]),
    ("tor verify", &["--source", "exit-lists", "lists"]),
];

/// The settings of a valid configuration that can contain a secret.
fn secret_settings(address: &str) -> Vec<(&'static str, String)> {
    let client = [
        ("INGESTER_KAFKA__CLIENT__SASL_PASSWORD", ""),
        ("INGESTER_KAFKA__CLIENT__SSL_KEY_PASSWORD", ""),
        ("INGESTER_KAFKA__CLIENT__SSL_KEYSTORE_PASSWORD", ""),
        ("INGESTER_KAFKA__CLIENT__SASL_OAUTHBEARER_CONFIG", "principal="),
        // Variables that the database driver reads by itself, and those of the client that downloads lists.
        ("PGPASSWORD", ""),
    ];
    let mut settings: Vec<_> =
        client.iter().map(|&(name, before)| (name, format!("{before}{SECRET}"))).collect();
    let proxy = format!("http://somebody:{SECRET}@{address}");
    settings.push(("HTTP_PROXY", proxy));
    let lists = format!("http://somebody:{SECRET}@{address}/list?token={SECRET}");
    settings.push(("INGESTER_TOR__POLL_URL", lists));
    settings.push(("INGESTER_TOR__EXIT_LISTS", "lists".into()));
    // The most verbose logging that an operator can turn on.
    settings.push(("INGESTER_LOG__FILTER", "trace".into()));
    settings.push(("INGESTER_KAFKA__CLIENT__DEBUG", "all".into()));
    settings.push(("INGESTER_KAFKA__CLIENT__SASL_USERNAME", "ingester".into()));
    settings
}

/// Starts all commands of the ingester in parallel, waits until each has ended or complained, and returns all their
/// output and answers.
async fn print_all(scene: &Scene, settings: &[(&str, String)], complaint: &str) -> String {
    let mut printed = String::new();
    let started = COMMANDS.iter().map(|(name, arguments)| {
        let mut words = name.split(' ');
        let admin = free_address();
        let command = scene.ingester_command(words.next().unwrap(), &admin);
        let command = command.args(words).args(*arguments).dir(scene.directory.path());
        let command =
            settings.iter().fold(command, |command, (name, value)| command.env(name, value));
        (*name, admin, command.spawn())
    });
    for (name, admin, mut daemon) in started.collect::<Vec<_>>() {
        eventually(&format!("{name} to complain of {complaint:?}"), PATIENCE, async || {
            !daemon.is_running() || daemon.log().contains(complaint)
        })
        .await;
        if name == "run" && daemon.is_running() {
            for path in ["/readyz", "/livez", "/metrics"] {
                // It may end at this moment.
                printed.extend(testkit::http_get(&admin, path).map(|(_, body)| body));
            }
        }
        daemon.terminate();
        daemon.wait_exit(PATIENCE);
        printed.push_str(&format!("--- {name}:\n{}", daemon.log()));
    }
    printed
}

fn assert_no_secret(printed: &str) {
    let lines: Vec<_> = printed.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// A scene with a folder for lists and a topic.
async fn scene(name: &str, store: String) -> Scene {
    let scene = Scene::without_topic(name, store);
    scene.make_topic(1, &[]).await;
    fs::create_dir(scene.directory.path().join("lists")).unwrap();
    scene
}

#[test]
fn every_command_is_tried() {
    let help = include_str!("../../crates/ingester/help.txt");
    let all = help.lines().filter_map(|line| line.strip_prefix("# publication-ingester "));
    let all: BTreeSet<_> = all.collect();
    let is_leaf = |name: &&str| {
        *name == "replay" || !all.iter().any(|other| other.starts_with(&format!("{name} ")))
    };
    let tried: BTreeSet<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
    assert_eq!(all.iter().copied().filter(is_leaf).collect::<BTreeSet<_>>(), tried);
}

/// No server listens at any address.
#[tokio::test]
async fn secrets_are_not_printed_when_everything_is_away() {
    let away = free_address();
    let mut scene = scene("secrets-away", String::new()).await;
    scene.brokers = free_address();
    scene.store = format!("postgres://somebody:{SECRET}@{away}/db?options=-c%20a.b%3D{SECRET}");
    let mut settings = secret_settings(&away);
    settings.push(("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_PLAINTEXT".into()));
    settings.push(("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", "PLAIN".into()));
    let printed = print_all(&scene, &settings, "refused").await;
    assert!(printed.contains("database") && printed.contains("librdkafka"), "{printed}");
    assert_no_secret(&printed);
}

/// The database does not know the user, and the broker supports neither TLS nor passwords.
#[tokio::test]
async fn secrets_are_not_printed_when_everything_refuses() {
    let store = testkit::postgres().database().await.url;
    let mut scene = scene("secrets-refused", store.replace("postgres@", "nobody-here@")).await;
    let file = scene.directory.path().join("url");
    let url = scene.store.replace("nobody-here@", &format!("nobody-here:{SECRET}@"));
    fs::write(&file, url).unwrap();
    scene.store = format!("sqlite://{SECRET}.db");
    let mut settings = secret_settings(&scene.brokers);
    settings.push(("INGESTER_STORE__URL_FILE", file.to_str().unwrap().into()));
    settings.push(("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_PLAINTEXT".into()));
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let mut settings = settings.clone();
        settings.push(("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", mechanism.into()));
        let printed = print_all(&scene, &settings, "nobody-here").await;
        assert!(printed.contains("role \"nobody-here\" does not exist"), "{printed}");
        assert_no_secret(&printed);
    }
}

/// The rows are in a file, so that every command gets as far as the broker.
#[tokio::test]
async fn secrets_are_not_printed_when_the_broker_refuses() {
    let mut scene = scene("secrets-broker", String::new()).await;
    scene.store = format!("sqlite://{}", scene.directory.path().join("rows.db").display());
    assert_eq!(scene.ask("migrate", &[], &[]).code, Some(0));
    for protocol in ["SASL_PLAINTEXT", "SASL_SSL"] {
        let mut settings = secret_settings(&scene.brokers);
        settings.push(("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", protocol.into()));
        settings.push(("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", "PLAIN".into()));
        let printed = print_all(&scene, &settings, "FAIL").await;
        assert!(printed.contains("librdkafka"), "{printed}");
        assert_no_secret(&printed);
    }
}

/// Configurations with exit code 78: the setting with its secret, or a file with it.
#[test]
fn secrets_are_not_printed_where_they_are_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text.replace('$', SECRET)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let refused = |command: DaemonBuilder, what: &str| {
        let mut daemon = command.spawn();
        let code = daemon.wait_exit(PATIENCE).code();
        let log = daemon.log();
        assert!(!log.contains(SECRET), "{what}: {log}");
        assert_eq!(code, Some(78), "{what}: {log}");
    };
    let settings = |program: &str, command: &str| {
        Daemon::command(program).arg(command).env("RUST_BACKTRACE", "1").dir(folder.path())
    };
    let of_both = [
        ("STORE__URL", "postgres://u:$@h:notaport/db"),
        ("STORE__URL", "mysql://u:$@h/db"),
        ("STORE__URL", "postgres://u:$@h/db?sslpassword=$"),
        // Passwords with characters that have a meaning in a URL.
        ("STORE__URL", "postgres://u:1/$@h/db"),
        ("STORE__URL", "postgres://u:1#$@h/db"),
        ("STORE__URL", "postgres://u:x?$@h/db"),
        ("STORE__URL", "postgres://u:$@h/db?connect_timeout=$"),
        ("STORE__URL", "postgres://u:$@a,b/db"),
        ("STORE__URL", "sqlite://x.db?key=$"),
        ("STORE__URL", "[\"postgres://u:$@h/db\"]x"),
        ("STORE__URI", "postgres://u:$@h/db"),
        ("STORE__MAX_CONNECTIONS", "$"),
        ("STORE__CONNECT_TIMEOUT", "$"),
        ("STORE", "$"),
    ];
    for (program, command, prefix) in
        [("publication-ingester", "run", "INGESTER_"), ("publication-query", "serve", "QUERY_")]
    {
        for (key, value) in of_both {
            let command = settings(program, command);
            refused(command.env(format!("{prefix}{key}"), value.replace('$', SECRET)), value);
        }
        for text in [
            "[store]\nurl = \"postgres://u:$@h/db",
            "[store]\nurl = postgres://u:$@h/db\n",
            "[store]\npassword = \"$\"\n",
            "[store]\nmax_connections = \"$\"\n",
            "[store]\nurl = \"x\"\nurl = \"postgres://u:$@h/db\"\n",
            "store = \"$\"\n",
        ] {
            let path = file("bad.toml", text);
            refused(settings(program, command).args(["--config", &path]), text);
        }
        let path = file("url", "mysql://u:$@h/db");
        refused(
            settings(program, command).env(format!("{prefix}STORE__URL_FILE"), path),
            "url_file",
        );
    }
    for (key, value) in [
        ("KAFKA__BROKERS", "user:$@127.0.0.1:9092"),
        ("KAFKA__BROKERS", "kafka://user:$@127.0.0.1:9092"),
        ("KAFKA__CLIENT__SECURITY_PROTOCOL", "$"),
        ("KAFKA__CLIENT__SASL_PASWORD", "$"),
        ("KAFKA__CLIENT__SASL_OAUTHBEARER_CLIENT_SECRET", "$"),
        ("KAFKA__CLIENT__SASL_MECHANISM", "$"),
        ("KAFKA__CLIENT__SASL_MECHANISMS", "$"),
        ("KAFKA__CLIENT__GROUP_PROTOCOL", "$"),
        ("KAFKA__CLIENT", "$"),
        ("TOR__PREFIXES", "[\"$\"]"),
        ("TOR__POLL_EVERY", "$"),
    ] {
        let command = settings("publication-ingester", "run");
        let command = command.env(format!("INGESTER_{key}"), value.replace('$', SECRET));
        refused(command, &format!("{key}={value}"));
    }
    let key = format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n");
    let mut bad_key = settings("publication-ingester", "run")
        .env("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SSL")
        .env("INGESTER_KAFKA__CLIENT__SSL_KEY_PEM", key)
        .spawn();
    assert_eq!(bad_key.wait_exit(PATIENCE).code(), Some(1), "{}", bad_key.log());
    assert!(bad_key.log().contains("ssl.key.pem"), "{}", bad_key.log());
    assert_no_secret(&bad_key.log());
    for (key, value) in [
        ("ACCESS__TOKENS", "[\"ci $\"]".to_owned()),
        ("ACCESS__TOKENS", "[\"$\"]".to_owned()),
        ("ACCESS__TOKENS", "ci $".to_owned()),
        ("ACCESS__TOKENS_FILE", file("tokens", "ci $\n")),
        ("ACCESS__TRUSTED_PROXIES", "[\"$\"]".to_owned()),
        ("ACCESS__CORS_ORIGINS", "[\"https://u:$@h\"]".to_owned()),
    ] {
        let command = settings("publication-query", "serve");
        let command = command.env(format!("QUERY_{key}"), value.replace('$', SECRET));
        refused(command, &format!("{key}={value}"));
    }
}

/// The query daemon with an unreachable database, and with one that does not know the user.
#[tokio::test]
async fn secrets_are_not_printed_or_answered_by_the_query_daemon() {
    let server = testkit::postgres().database().await.url;
    let refuses = server.replace("postgres@", &format!("nobody-here:{SECRET}@"));
    let away = format!("postgres://somebody:{SECRET}@{}/db", free_address());
    for store in [refuses, away] {
        let (http, admin) = (free_address(), free_address());
        let mut daemon = Daemon::command("publication-query")
            .arg("serve")
            .env("QUERY_STORE__URL", &store)
            .env("QUERY_HTTP__LISTEN", &http)
            .env("QUERY_ADMIN__LISTEN", &admin)
            .env("QUERY_HTTP__ACCESS_LOG", "true")
            .env("QUERY_LOG__FILTER", "trace")
            .env("PGPASSWORD", SECRET)
            .spawn();
        eventually("the query daemon to say why it is not ready", PATIENCE, async || {
            let (_, body) = testkit::http_get(&admin, "/readyz").ok()?;
            let body: serde_json::Value = serde_json::from_str(&body).ok()?;
            body["reason"].as_str().map(str::to_owned)
        })
        .await;
        let mut printed = String::new();
        let bearer = format!("Bearer {SECRET}");
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        let body = json!({ "query": crate::support::SEED }).to_string();
        let answer = testkit::http_request(&http, "POST", "/graphql", &headers, &body).unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        printed.push_str(&format!("{answer:?}\n"));
        for path in ["/readyz", "/livez", "/metrics", "/nothing"] {
            printed.push_str(&testkit::http_get(&admin, path).unwrap().1);
        }
        daemon.terminate();
        daemon.wait_exit(PATIENCE);
        printed.push_str(&daemon.log());
        assert_no_secret(&printed);
    }
}

/// The audit has a token in a file. Its server is unreachable, does not speak HTTP, or does not know the token.
#[tokio::test]
async fn secrets_are_not_printed_by_the_audit() {
    let store = crate::graphql_bulk::migrated(testkit::postgres()).await;
    // The SHA-256 of another token.
    let tokens =
        format!("[\"ci {}\"]", "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8");
    let query = crate::support::Query::start(&store, &[("QUERY_ACCESS__TOKENS", &tokens)]);
    let folder = crate::audit::project(&[("pg", "7.12.0")]);
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("token", SECRET);
    write("odd-token", &format!("two {SECRET}\n{SECRET}\n"));
    let with_user = format!("http://u:{SECRET}@{}", query.http);
    let cases = [
        (format!("http://{}", free_address()), "token", 4),
        (format!("http://{}", testkit::kafka().brokers()), "token", 4),
        (format!("http://{}", query.http), "token", 4),
        (format!("http://{}", query.http), "odd-token", 2),
        ("http://example.org".to_owned(), "token", 2),
        (with_user, "token", 2),
    ];
    for (url, token, code) in cases {
        let mut daemon = Daemon::command("publication-audit")
            .dir(folder.path())
            .env("HOME", folder.path())
            .env("PUBLICATION_INSIGHTS_URL", &url)
            .env("HTTPS_PROXY", format!("http://u:{SECRET}@{}", free_address()))
            .args(["--token-file", token, "--timeout", "5", "--registry", "registry.example"])
            .spawn();
        let ended = daemon.wait_exit(PATIENCE).code();
        assert_no_secret(&daemon.log());
        assert_eq!(ended, Some(code), "{url} {token}: {}", daemon.log());
    }
    assert_no_secret(&query.running.stop());
}
