//! Tests of the guards: servers answer while the guard lives, and end with it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};
use testkit::{Daemon, Kafka, Postgres, Record, StopMode};

/// Tells the helper test below where to write the ids of its servers.
const HELPER: &str = "TESTKIT_GUARDS_HELPER";
/// Tells the other helper test where to listen.
const LISTEN: &str = "TESTKIT_GUARDS_LISTEN";

#[tokio::test]
async fn a_broker_keeps_what_it_was_sent() {
    let brokers = testkit::kafka().brokers();
    let topic = testkit::unique("guards");
    testkit::topic(&brokers, &topic, 3, &[("retention.ms", "-1")]).await;
    let first = Record {
        partition: Some(2),
        key: Some(b"pkg:npm/pg".to_vec()),
        value: Some(b"{}".to_vec()),
        headers: vec![("a".into(), Some(b"1".to_vec())), ("a".into(), None)],
        timestamp: Some(1_564_078_151_204),
    };
    let tombstone = Record { partition: Some(2), ..Record::default() };
    let positions = testkit::produce(&brokers, &topic, [first.clone(), tombstone]).await;
    assert_eq!(positions, [(2, 0), (2, 1)]);

    let records = testkit::consume_all(&brokers, &topic).await;
    assert_eq!(records.len(), 2);
    let read = &records[0];
    assert_eq!((read.partition, read.offset, read.timestamp), (2, 0, first.timestamp));
    assert_eq!((&read.key, &read.value, &read.headers), (&first.key, &first.value, &first.headers));
    assert_eq!((&records[1].key, &records[1].value), (&None, &None));
    assert_eq!(testkit::group_lag(&brokers, "nobody", &topic).await, 2);
}

#[tokio::test]
async fn many_records_are_quick() {
    let brokers = testkit::kafka().brokers();
    let topic = testkit::unique("guards-many");
    testkit::topic(&brokers, &topic, 4, &[]).await;
    let records = (0..50_000).map(|n: u32| Record {
        key: Some(n.to_be_bytes().to_vec()),
        value: Some(vec![b'x'; 500]),
        ..Record::default()
    });
    assert_eq!(testkit::produce(&brokers, &topic, records).await.len(), 50_000);
    assert_eq!(testkit::consume_all(&brokers, &topic).await.len(), 50_000);
}

#[tokio::test]
async fn a_broker_comes_back_with_its_data() {
    let mut kafka = Kafka::builder().property("num.io.threads", 2).start();
    let brokers = kafka.brokers();
    testkit::topic(&brokers, "kept", 1, &[]).await;
    testkit::produce(
        &brokers,
        "kept",
        [Record { value: Some(b"before".to_vec()), ..Record::default() }],
    )
    .await;
    kafka.restart();
    kafka.kill();
    kafka.start_again();
    assert_eq!(kafka.brokers(), brokers);
    testkit::produce(
        &brokers,
        "kept",
        [Record { value: Some(b"after".to_vec()), ..Record::default() }],
    )
    .await;
    let values: Vec<_> = testkit::consume_all(&brokers, "kept")
        .await
        .into_iter()
        .filter_map(|record| record.value)
        .collect();
    assert_eq!(values, [b"before".to_vec(), b"after".to_vec()]);
}

#[tokio::test]
async fn each_test_has_its_own_database() {
    let (one, two) = (testkit::postgres().database().await, testkit::postgres().database().await);
    for database in [&one, &two] {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE publication (name text)")
            .execute(&mut connection)
            .await
            .unwrap();
    }
    assert_ne!(one.url, two.url);
}

#[tokio::test]
async fn a_server_comes_back_with_its_data() {
    let mut postgres = Postgres::start();
    let database = postgres.database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 1 AS n").execute(&mut connection).await.unwrap();
    postgres.stop(StopMode::Immediate);
    postgres.start_again();
    postgres.restart();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let order: Vec<String> = sqlx::query_scalar(
        "SELECT w FROM (VALUES ('b'), ('A'), ('a'), ('B')) AS v (w) CROSS JOIN kept ORDER BY w",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(order, ["a", "A", "b", "B"], "text does not sort by the rules of a language");
}

/// Started by the test below as a daemon: it answers every request with 200 until it is stopped.
#[test]
fn helper_that_is_a_daemon() {
    let Some(listen) = std::env::var_os(LISTEN) else { return };
    let listener = TcpListener::bind(listen.to_str().unwrap()).unwrap();
    println!("daemon listens");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        // Read to the end, because closing a connection with unread data resets it and loses the answer.
        BufReader::new(&stream)
            .lines()
            .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
            .for_each(drop);
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
    }
}

#[test]
fn a_daemon_is_ready_pauses_and_ends() {
    let this = std::env::current_exe().unwrap();
    let addr = testkit::free_address();
    let mut daemon = Daemon::command(&format!("deps/{}", this.file_name().unwrap().display()))
        .args(["--exact", "helper_that_is_a_daemon", "--nocapture"])
        .env(LISTEN, &addr)
        .spawn();
    daemon.wait_ready(&addr);
    assert!(daemon.log().contains("daemon listens"));
    assert!(daemon.peak_memory().unwrap() > 1 << 20);
    daemon.pause();
    daemon.resume();
    daemon.terminate();
    assert_eq!(daemon.wait_exit(Duration::from_secs(10)).signal(), Some(15));
    assert!(!daemon.is_running());
}

/// Started by the test below in its own process, which is then killed.
#[test]
fn helper_that_starts_servers_and_waits() {
    let Some(report) = std::env::var_os(HELPER) else { return };
    let (kafka, postgres) = (testkit::kafka(), testkit::postgres());
    std::fs::write(&report, format!("{} {}", kafka.pid().unwrap(), postgres.pid().unwrap()))
        .unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn servers_end_when_the_test_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (report, temp) = (dir.path().join("report"), dir.path().join("temp"));
    std::fs::create_dir(&temp).unwrap();
    // PostgreSQL's user needs access to its directory below this one.
    for folder in [dir.path(), &temp] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
    }
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_starts_servers_and_waits"])
        .env(HELPER, &report)
        .env("TMPDIR", &temp)
        .env_remove(testkit::KAFKA_VARIABLE)
        .env_remove(testkit::POSTGRES_VARIABLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let servers: Vec<Pid> =
        testkit::wait_until("the helper's servers", Duration::from_secs(120), || {
            let pids: Option<Vec<i32>> = std::fs::read_to_string(&report)
                .ok()?
                .split(' ')
                .map(|pid| pid.parse().ok())
                .collect();
            Some(pids.filter(|pids| pids.len() == 2)?.into_iter().map(Pid::from_raw).collect())
        });
    assert!(servers.iter().all(|pid| runs(*pid)));

    process.kill().unwrap();
    process.wait().unwrap();
    testkit::wait_until("the end of the servers", Duration::from_secs(20), || {
        !servers.iter().any(|pid| runs(*pid))
    });
    testkit::wait_until("the end of their data", Duration::from_secs(20), || {
        std::fs::read_dir(&temp).unwrap().next().is_none()
    });
}

/// Whether the process exists and is not a zombie that init has not reaped yet.
fn runs(pid: Pid) -> bool {
    let stat =
        std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
    kill(pid, None).is_ok() && !stat.contains(") Z ")
}
