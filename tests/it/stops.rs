//! Stops under difficult conditions: a hanging name look-up, a log that nobody reads, signals of a terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use sqlx::PgPool;
use testkit::{Daemon, DaemonBuilder, eventually};

use crate::support::{PATIENCE, Query, STOP, Scene, generated};

/// Opening a pipe blocks until somebody opens its other end, so every look-up of a name in this file hangs.
const HANGING_NAMES: &str = r#"mkfifo hosts && exec unshare --map-root-user --mount \
    sh -c 'mount --bind hosts /etc/hosts && exec "$@"' sh "$@""#;

#[tokio::test]
async fn a_name_that_is_being_looked_up_delays_no_stop() {
    let hanging = "postgres://database.example/publications";
    let patience = [("QUERY_STORE__CONNECT_TIMEOUT", "1s")];
    let daemon = Daemon::started_by(HANGING_NAMES, "publication-query");
    let query = Query::start_unready(daemon, hanging, &patience);
    eventually("a look-up that hangs", PATIENCE, async || {
        query.running.daemon.log().contains("within 1s")
    })
    .await;
    query.running.stop();

    let scene = Scene::on("127.0.0.1:1".into(), "hanging-name", hanging.into());
    let patience = [("INGESTER_STORE__CONNECT_TIMEOUT", "1s")];
    let daemon = Daemon::started_by(HANGING_NAMES, "publication-ingester");
    let ingester = scene.start_daemon(daemon, &patience);
    eventually("a look-up that hangs", PATIENCE, async || {
        ingester.daemon.log().contains("within 1s")
    })
    .await;
    ingester.stop();
}

/// More than the pipe and the queue of the log hold.
const REQUESTS: usize = 6_000;

/// A query daemon with an access log, after as many requests.
fn flooded(script: &str, scene: &Scene) -> Query {
    let daemon = Daemon::started_by(script, "publication-query");
    let query = Query::start_daemon(daemon, &scene.store, &[("QUERY_HTTP__ACCESS_LOG", "true")]);
    let mut stream = TcpStream::connect(&query.http).unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let ask = |more: &str| format!("GET /favicon.ico HTTP/1.1\r\nhost: x\r\n{more}\r\n");
        for _ in 1..REQUESTS {
            sending.write_all(ask("").as_bytes()).unwrap();
        }
        sending.write_all(ask("connection: close\r\n").as_bytes()).unwrap();
    });
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    sender.join().unwrap();
    assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 ").count(), REQUESTS);
    query
}

#[tokio::test]
async fn output_that_nobody_reads_delays_no_stop() {
    let scene = Scene::without_topic("unread", testkit::postgres().database().await.url);
    scene.must("migrate", &[]);
    let unread = r#"mkfifo unread && exec "$@" 1<>unread 2<>unread"#;
    flooded(unread, &scene).running.stop();
}

#[tokio::test]
async fn the_log_says_how_many_lines_it_lost() {
    let scene = Scene::without_topic("late", testkit::postgres().database().await.url);
    scene.must("migrate", &[]);
    let query = flooded(r#"mkfifo unread && exec "$@" 2<>unread"#, &scene);
    let pipe = File::open(query.running.daemon.own_dir().join("unread")).unwrap();
    // Every line is either read here or in a number of lost lines.
    let (mut read, mut lost) = (0, 0);
    let all = tokio::task::spawn_blocking(move || {
        for line in BufReader::new(pipe).lines().map(Result::unwrap) {
            match line.split_once("log lines are lost: the reader was too slow lines=") {
                Some((head, lines)) if head.contains(" WARN ") => {
                    lost += lines.parse::<usize>().unwrap();
                }
                _ => read += usize::from(line.contains(" access: request ")),
            }
            if read + lost == REQUESTS {
                break;
            }
        }
        (read, lost)
    });
    let (read, lost) = tokio::time::timeout(PATIENCE, all).await.expect("it is said").unwrap();
    assert!(read > 0 && lost > 0, "{read} read, {lost} lost");
    query.running.stop();
}

/// Sends a signal to the daemon.
fn send(signal: &str, daemon: &Daemon) {
    let pid = daemon.pid().to_string();
    let sent = std::process::Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{signal} cannot be sent");
}

/// `nohup` starts a program with SIGHUP ignored, so that it outlives the terminal.
#[tokio::test]
async fn a_daemon_that_is_to_outlive_its_terminal_does() {
    let scene = Scene::new("nohup", 1).await;
    let nohup = |name| -> DaemonBuilder { Daemon::started_by(r#"trap "" HUP; exec "$@""#, name) };
    let mut ingester = scene.start_daemon(nohup("publication-ingester"), &[]).ready();
    let query = Query::start_daemon(nohup("publication-query"), &scene.store, &[]);
    send("HUP", &ingester.daemon);
    send("HUP", &query.running.daemon);
    scene.produce([generated(0, 0)]).await;
    scene.caught_up(&mut ingester).await;
    query.ask("{ __typename }", serde_json::json!({}));
    let logs = [ingester.stop(), query.running.stop()].concat();
    assert!(!logs.contains("SIGHUP"), "{logs}");
}

#[tokio::test]
async fn the_end_of_its_terminal_stops_a_daemon_in_order() {
    let scene = Scene::new("hangup", 1).await;
    let ingester = scene.ingester(&[]);
    let query = Query::start(&scene.store, &[]);
    for mut daemon in [ingester.daemon, query.running.daemon] {
        send("HUP", &daemon);
        assert_eq!(daemon.wait_exit(STOP).code(), Some(0), "{}", daemon.log());
        assert!(daemon.log().contains("SIGHUP"), "{}", daemon.log());
    }
}

#[tokio::test]
async fn a_second_interrupt_ends_both_daemons_at_once() {
    let scene = Scene::new("interrupted", 1).await;
    let ingester = scene.ingester(&[("INGESTER_SHUTDOWN__GRACE", "1h")]);
    let query = Query::start(&scene.store, &[("QUERY_SHUTDOWN__GRACE", "1h")]);
    let pool = PgPool::connect(&scene.store).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE publication").execute(&mut *lock).await.unwrap();
    scene.produce([generated(0, 0)]).await;
    let mut asking = TcpStream::connect(&query.http).unwrap();
    asking.write_all(b"GET /package/pg HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let waiting = "SELECT count(DISTINCT query LIKE 'WITH incoming AS %') FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("both to wait", PATIENCE, async || scene.number(waiting).await == 2).await;
    for mut daemon in [ingester.daemon, query.running.daemon] {
        send("INT", &daemon);
        eventually("the stop", PATIENCE, async || daemon.log().contains("stopping")).await;
        assert!(daemon.is_running(), "{}", daemon.log());
        send("INT", &daemon);
        assert_eq!(daemon.wait_exit(STOP).code(), Some(130), "{}", daemon.log());
        assert!(daemon.log().contains("interrupted again"), "{}", daemon.log());
    }
    lock.rollback().await.unwrap();
}
