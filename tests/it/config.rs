//! Configuration and command line: errors name the setting and never show secrets.

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::{Daemon, DaemonBuilder, eventually};

use crate::replay::Answer;
use crate::support::{PATIENCE, Scene, free_address};

/// The deadline of a command that ends by itself.
const SOON: Duration = Duration::from_secs(30);
const INGESTER: (&str, &str, &str) = ("publication-ingester", "run", "INGESTER_");
const QUERY: (&str, &str, &str) = ("publication-query", "serve", "QUERY_");

/// The exit code and the output.
fn outcome(command: DaemonBuilder) -> (Option<i32>, String) {
    let mut daemon = command.spawn();
    let status = daemon.wait_exit(SOON);
    (status.code(), daemon.log())
}

fn with_file(program: &str, command: &str, directory: &Path, text: &str) -> (Option<i32>, String) {
    let file = directory.join("settings.toml");
    fs::write(&file, text).unwrap();
    outcome(Daemon::command(program).arg(command).arg("--config").arg(file))
}

/// The log of a command that does not start because of this variable. Checks the exit code for configuration errors.
fn refused(program: &str, command: &str, variable: &str, value: &str) -> String {
    let (code, log) = outcome(Daemon::command(program).arg(command).env(variable, value));
    assert_eq!(code, Some(78), "{program} with {variable}={value}: {log}");
    log
}

#[test]
fn what_is_wrong_with_a_file_or_the_environment_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for (program, command, prefix) in [INGESTER, QUERY] {
        for (text, key) in [
            ("[store]\nurk = 1", "store.urk"),
            ("[stor]\nurl = \"sqlite://x\"", "stor"),
            ("[store]\nurl = 1", "store.url"),
            ("[store]\nmax_connections = \"many\"", "store.max_connections"),
            ("[admin]\nlisten = \"nowhere\"", "admin.listen"),
            ("[log]\nformat = \"xml\"", "log.format"),
            ("[shutdown]\ngrace = 5", "shutdown.grace"),
            ("[registry]\necosystem = \"NPM\"", "registry.ecosystem"),
            ("store = 1", "store"),
        ] {
            let (code, log) = with_file(program, command, directory.path(), text);
            assert_eq!(code, Some(78), "{program} with {text}: {log}");
            assert!(log.contains(&format!("`{key}`")), "{program} with {text}: {log}");
        }
        for (name, value, key) in [
            ("STORE__URK", "x", "store.urk"),
            ("STOR__URL", "x", "stor"),
            ("STORE__MAX_CONNECTIONS", "many", "store.max_connections"),
            ("SHUTDOWN__GRACE", "5 parsecs", "shutdown.grace"),
            ("LOG__FILTER__X", "x", "log.filter"),
            ("store__url", "sqlite://x", "store.url"),
        ] {
            let variable = format!("{prefix}{name}");
            let log = refused(program, command, &variable, value);
            assert!(
                log.contains(key) && log.contains(&variable),
                "{program} with {variable}: {log}"
            );
        }
        for name in [
            format!("{prefix}STORE__URL").to_lowercase(),
            format!("PUBLICATION_{prefix}STORE__URL"),
        ] {
            let log = refused(program, command, &name, "sqlite://x");
            let meant = format!("{name} is not read: its name must be {prefix}STORE__URL");
            assert!(log.contains(&meant), "{log}");
        }
        let (code, log) = with_file(program, command, directory.path(), "[store\n");
        assert!(code == Some(78) && log.contains("line 1"), "{log}");
        let missing = directory.path().join("missing.toml");
        let (code, log) =
            outcome(Daemon::command(program).arg(command).arg("--config").arg(missing));
        assert!(code == Some(78) && log.contains("missing.toml"), "{code:?}: {log}");
    }
}

#[test]
fn values_of_the_right_type_that_cannot_work_are_refused() {
    for (variable, value, key) in [
        ("INGESTER_BATCH__MAX_ROWS", "0", "batch.max_rows"),
        ("INGESTER_BATCH__MAX_ROWS", "-1", "batch.max_rows"),
        ("INGESTER_ENRICH__GENERATION", "2147483648", "enrich.generation"),
        ("INGESTER_TOR__PREFIXES", "[\"everything\"]", "tor.prefixes"),
        ("INGESTER_TOR__WINDOW", "86400", "tor.window"),
        ("INGESTER_LIMITS__MAX_EVENT_BYTES", "much", "limits.max_event_bytes"),
        ("INGESTER_KAFKA__DEAD_LETTER_TOPIC", "package-publications", "kafka.dead_letter_topic"),
        ("INGESTER_LOG__FILTER", "info,=", "log.filter"),
        ("INGESTER_LOG__FILTER", "warning", "log.filter"),
        ("INGESTER_KAFKA__TOPIC", "^rx", "kafka.topic"),
        ("INGESTER_KAFKA__DEAD_LETTER_TOPIC", "", "kafka.dead_letter_topic"),
        ("INGESTER_KAFKA__CLIENT__GROUP_ID", "other", "kafka.group"),
        ("INGESTER_KAFKA__CLIENT__BOOTSTRAP_SERVERS", "other:9092", "kafka.brokers"),
        ("INGESTER_KAFKA__CLIENT__ENABLE_AUTO_COMMIT", "true", "kafka.client.enable.auto.commit"),
        ("INGESTER_LIMITS__MAX_EVENT_BYTES", "18446744073709551615B", "limits.max_event_bytes"),
        ("INGESTER_LIMITS__MAX_BUFFERED_BYTES", "1B", "limits.max_buffered_bytes"),
        (
            "INGESTER_LIMITS__MAX_BUFFERED_BYTES",
            "18446744073709551615B",
            "limits.max_buffered_bytes",
        ),
        ("INGESTER_SHUTDOWN__GRACE", "0s", "shutdown.grace"),
    ] {
        let log = refused("publication-ingester", "run", variable, value);
        assert!(log.contains(key), "{variable}={value}: {log}");
    }
    for (program, command, prefix) in [INGESTER, QUERY] {
        for (name, value, key) in [
            ("STORE__MAX_CONNECTIONS", "0", "store.max_connections"),
            ("STORE__MAX_CONNECTIONS", "4294967295", "store.max_connections"),
            ("STORE__CONNECT_TIMEOUT", "0s", "store.connect_timeout"),
            ("STORE__URL", "", "store.url"),
            ("STORE__URL", "mysql://host/db", "store.url"),
        ] {
            let variable = format!("{prefix}{name}");
            let log = refused(program, command, &variable, value);
            assert!(log.contains(&format!("`{key}`")), "{program} with {variable}: {log}");
        }
    }
}

/// `schema` is the query daemon's way to check a configuration, so it refuses whatever `serve` refuses.
#[test]
fn the_schema_is_printed_only_with_settings_that_can_be_served() {
    for (name, value, key) in [
        ("LIMITS__MAX_MEMORY", "1MiB", "limits.max_memory"),
        ("ACCESS__TOKENS", "[\"nothing\"]", "access.tokens"),
        ("ACCESS__TOKENS_FILE", "missing", "access.tokens_file"),
        ("ACCESS__TRUSTED_PROXIES", "[\"everybody\"]", "access.trusted_proxies"),
        ("ACCESS__CORS_ORIGINS", "[\"everywhere\"]", "access.cors_origins"),
        ("ACCESS__RATE_LIMIT", "1", "access.rate_limit"),
        ("LOG__FILTER", "warning", "log.filter"),
    ] {
        for command in ["serve", "schema"] {
            let log = refused("publication-query", command, &format!("QUERY_{name}"), value);
            assert!(log.contains(&format!("`{key}")), "{command} with {name}: {log}");
        }
    }
    for command in ["serve", "schema"] {
        let daemon = Daemon::command("publication-query").arg(command);
        let window = daemon.env("QUERY_ACCESS__RATE_LIMIT", "5000");
        let (code, log) = outcome(window.env("QUERY_ACCESS__RATE_WINDOW", "1ms"));
        assert!(code == Some(78) && log.contains("`access.rate_window`"), "{command}: {log}");
    }
}

/// The default file is `config/….toml`, and something else may have the name of its folder.
#[test]
fn a_file_in_place_of_the_default_folder_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config"), "").unwrap();
    let schema = Daemon::command("publication-query").arg("schema");
    let (code, log) = outcome(schema.dir(folder.path()));
    assert_eq!(code, Some(0), "{log}");
    let named = Daemon::command("publication-query").args(["schema", "--config", "config/x.toml"]);
    let (code, log) = outcome(named.dir(folder.path()));
    assert!(code == Some(78) && log.contains("Not a directory"), "{log}");
}

/// Collectors that expect JSON drop or misread every other line.
#[tokio::test]
async fn a_log_in_json_has_nothing_else() {
    let each_is_json = |log: &str| {
        for line in log.lines() {
            let value = serde_json::from_str::<serde_json::Value>(line);
            assert!(value.is_ok_and(|value| value["level"].is_string()), "{line}");
        }
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    for (program, command, prefix) in [INGESTER, QUERY] {
        let refused = Daemon::command(program).arg(command).dir(folder.path());
        let refused = refused.env(format!("{prefix}LOG__FORMAT"), "json");
        let (code, log) = outcome(refused.env(format!("{prefix}ADMIN__LISTEN"), &taken));
        assert!(code == Some(1) && log.contains(&taken), "{program}: {log}");
        each_is_json(&log);
    }

    // Windows-1252 in a name that was taken for Latin-1. Text shows the control character in Rust's way, JSON in its own.
    let lists = folder.path().join("lists");
    fs::create_dir(&lists).unwrap();
    fs::write(lists.join("Tor\u{92}s exits"), "no list").unwrap();
    let ingester = somewhere(folder.path(), "run").env("INGESTER_LOG__FORMAT", "json");
    let mut ingester = ingester.env("INGESTER_TOR__SNAPSHOTS", lists).spawn();
    eventually("the refusal", PATIENCE, async || ingester.log().contains("s exits")).await;
    ingester.terminate();
    assert_eq!(ingester.wait_exit(SOON).code(), Some(0), "{}", ingester.log());
    each_is_json(&ingester.log());
    assert!(ingester.log().contains("\\u0092s exits"), "{}", ingester.log());
}

#[test]
fn misuse_of_the_command_line_is_exit_code_2() {
    for (program, command, _) in [INGESTER, QUERY] {
        let misuses: [&[&str]; 4] = [&[], &["walk"], &[command, "--fast"], &[command, "--config"]];
        for arguments in misuses {
            let (code, log) = outcome(Daemon::command(program).args(arguments));
            assert_eq!(code, Some(2), "{program} {arguments:?}: {log}");
        }
        for arguments in [["--help"], ["--version"]] {
            let (code, log) = outcome(Daemon::command(program).args(arguments));
            assert!(code == Some(0) && log.contains(program), "{program} {arguments:?}: {log}");
        }
    }
}

/// A script that looks at the exit code is not to believe that it has what could not be written.
#[test]
fn what_cannot_be_written_is_no_success() {
    for (program, arguments, code) in [
        ("publication-ingester", &["--help"][..], 1),
        ("publication-ingester", &["--version"], 1),
        ("publication-ingester", &["replay", "--help"], 1),
        ("publication-ingester", &["event", "check", "--schema"], 2),
        ("publication-query", &["--help"], 1),
        ("publication-query", &["schema"], 1),
        ("publication-audit", &["--help"], 2),
    ] {
        let full = r#"exec "$@" >/dev/full"#;
        let (ended, log) = outcome(Daemon::started_by(full, program).args(arguments));
        assert_eq!(ended, Some(code), "{program} {arguments:?}: {log}");
        assert!(log.contains("No space left"), "{program} {arguments:?}: {log}");
        // Who reads only the beginning has what he wants.
        if arguments != ["schema"] {
            let gone = r#"{ "$@"; echo "ended with $?" >&2; } | true"#;
            let (_, log) = outcome(Daemon::started_by(gone, program).args(arguments));
            assert!(log.contains("ended with 0"), "{program} {arguments:?}: {log}");
        }
    }
}

/// Of any program's environment: a password of another character set, for one.
#[test]
fn an_environment_that_is_no_text_is_not_repeated() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let foreign = OsStr::from_bytes(b"geheimnis\xe9");
    for (program, command, prefix) in [INGESTER, QUERY] {
        let ours = format!("{prefix}STORE__URL");
        let (code, log) = outcome(Daemon::command(program).arg(command).env(&ours, foreign));
        assert_eq!(code, Some(78), "{log}");
        assert!(log.contains(&ours) && !log.contains("geheimnis"), "{log}");
        let other = ("OTHER_PASSWORD", foreign);
        let (code, log) = outcome(Daemon::command(program).env(other.0, other.1).arg("--version"));
        assert_eq!(code, Some(0), "{log}");
        let variable = format!("{prefix}STORE__MAX_CONNECTIONS");
        let refused =
            Daemon::command(program).arg(command).env(other.0, other.1).env(variable, "0");
        let (code, log) = outcome(refused);
        assert!(code == Some(78) && log.contains("max_connections"), "{log}");
        assert!(!log.contains("geheimnis"), "{log}");
    }
}

#[tokio::test]
async fn migrating_is_a_command_of_its_own_and_repeatable() {
    let scene = Scene::without_topic("migrate", testkit::postgres().database().await.url);
    for _ in 0..2 {
        let (code, log) = outcome(scene.ingester_command("migrate", &free_address()));
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(scene.count().await, 0);
    }
    assert_eq!(
        scene.number("SELECT count(*) FROM pg_class WHERE relname = 'publication'").await,
        1
    );

    // Also in a file, which is created when it is missing.
    let file = scene.directory.path().join("new.db");
    let url = format!("sqlite://{}", file.display());
    let command =
        Daemon::command("publication-ingester").arg("migrate").env("INGESTER_STORE__URL", url);
    let (code, log) = outcome(command);
    assert!(code == Some(0) && file.is_file(), "{log}");

    // Several at once.
    for n in 0..5 {
        let url = format!("sqlite://{}", scene.directory.path().join(format!("{n}.db")).display());
        let command = || Daemon::command("publication-ingester").arg("migrate");
        let started = [(); 3].map(|()| command().env("INGESTER_STORE__URL", &url).spawn());
        for command in started {
            let answer = Answer::of(command);
            assert_eq!(answer.code, Some(0), "{}", answer.log);
        }
    }
}

#[tokio::test]
async fn a_generation_lower_than_the_tables_is_refused() {
    use crate::support::{event, structured};
    let scene = Scene::new("generation", 1).await;
    scene.produce([structured(&event("pg", "1.0.0"))]).await;
    scene.ingest(&[("INGESTER_ENRICH__GENERATION", "7")]).await;
    assert_eq!(scene.rows().await[0]["generation"].as_deref(), Some("7"));
    let (code, log) = outcome(
        scene.ingester_command("run", &free_address()).env("INGESTER_ENRICH__GENERATION", "6"),
    );
    assert!(!matches!(code, None | Some(0)), "{code:?}: {log}");
    assert!(log.contains("enrich.generation") && log.contains('6') && log.contains('7'), "{log}");
    scene.ingester(&[("INGESTER_ENRICH__GENERATION", "7")]).stop();
}

#[tokio::test]
async fn secrets_are_never_printed() {
    const SECRET: &str = "geheimnis";
    // No server listens on either port: the daemon waits for its database and logs that repeatedly.
    let (admin, database) = (free_address(), free_address());
    let start = |store: String| {
        Daemon::command("publication-ingester")
            .arg("run")
            .env("INGESTER_KAFKA__BROKERS", free_address())
            .env("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_PLAINTEXT")
            .env("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", "PLAIN")
            .env("INGESTER_KAFKA__CLIENT__SASL_USERNAME", "ingester")
            .env("INGESTER_KAFKA__CLIENT__SASL_PASSWORD", SECRET)
            .env("INGESTER_STORE__URL", store)
            .env("INGESTER_ADMIN__LISTEN", &admin)
            .env("INGESTER_LOG__FILTER", "debug")
            .spawn()
    };
    let mut ingester = start(format!("postgres://somebody:{SECRET}@{database}/db"));
    eventually("the ingester to complain about its database", PATIENCE, async || {
        ingester.log().contains("database")
    })
    .await;
    let shown = ["/readyz", "/metrics"].map(|path| testkit::http_get(&admin, path).unwrap().1);
    ingester.terminate();
    assert_eq!(ingester.wait_exit(SOON).code(), Some(0), "{}", ingester.log());
    assert!(!(ingester.log() + &shown.concat()).contains(SECRET), "{}", ingester.log());

    // The same for its broker. Here librdkafka itself writes log lines.
    let file = tempfile::tempdir().unwrap();
    let mut ingester = start(format!("sqlite://{}", file.path().join("x.db").display()));
    eventually("the ingester to complain about its broker", PATIENCE, async || {
        ingester.log().contains("Connection refused")
    })
    .await;
    ingester.terminate();
    assert_eq!(ingester.wait_exit(SOON).code(), Some(0), "{}", ingester.log());
    assert!(!ingester.log().contains(SECRET), "{}", ingester.log());

    // An invalid URL is refused without being quoted.
    for url in
        ["postgres://somebody:geheimnis@host:notaport/db", "mysql://somebody:geheimnis@host/db"]
    {
        let (code, log) = outcome(somewhere(file.path(), "run").env("INGESTER_STORE__URL", url));
        assert!(!matches!(code, None | Some(0)), "{url}: {log}");
        assert!(!log.contains(SECRET), "{log}");
    }
}

/// An ingester whose broker is unreachable.
fn somewhere(directory: &Path, command: &str) -> DaemonBuilder {
    Daemon::command("publication-ingester")
        .arg(command)
        .env("INGESTER_STORE__URL", format!("sqlite://{}", directory.join("y.db").display()))
        .env("INGESTER_KAFKA__BROKERS", free_address())
        .env("INGESTER_ADMIN__LISTEN", free_address())
}

/// A secret may be under a misspelt or wrong key. It is then a configuration error, and still must not be printed.
#[test]
fn what_librdkafka_refuses_is_named_and_not_repeated() {
    const SECRET: &str = "geheimnis";
    let directory = tempfile::tempdir().unwrap();
    for (variable, key) in [
        ("INGESTER_KAFKA__CLIENT__SASL_PASWORD", "sasl.pasword"),
        ("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "security.protocol"),
        ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "session.timeout.ms"),
    ] {
        for command in ["run", "check", "migrate"] {
            let daemon = somewhere(directory.path(), command).env(variable, SECRET);
            let (code, log) = outcome(daemon);
            assert!(log.contains(key), "{command} {variable}: {log}");
            assert!(!log.contains(SECRET), "{command} {variable}: {log}");
            assert_eq!(code, Some(78), "{command} {variable}: {log}");
        }
    }
}
