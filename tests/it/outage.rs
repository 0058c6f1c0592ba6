//! Required services are unreachable, at start or later: the daemons wait and report it; nothing is lost or rejected.

use std::net::TcpListener;

use serde_json::Value;
use testkit::{Postgres, StopMode, consume_all, eventually};

use crate::support::{PATIENCE, Running, Scene, event, generated, structured};

/// The ingester is paused, with a reason, and otherwise healthy.
async fn assert_paused(ingester: &mut Running) {
    let (status, answer) = ingester.shows("paused").await;
    assert_eq!(status, 503, "{answer}");
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("database"), "{answer}");
    assert_eq!(testkit::http_get(&ingester.admin, "/livez").unwrap().0, 200);
}

async fn assert_ready(ingester: &mut Running) {
    let (status, answer) = ingester.shows("ready").await;
    assert_eq!((status, &answer["reason"]), (200, &Value::Null), "{answer}");
}

#[tokio::test]
async fn a_database_that_goes_away_is_waited_for() {
    const EVENTS: usize = 20_000;
    let mut server = Postgres::start();
    let scene = Scene::without_topic("outage", server.database().await.url);
    scene.make_topic(4, &[]).await;

    // Unreachable from the start.
    server.stop(StopMode::Fast);
    let mut ingester = scene.start_ingester(&[("INGESTER_BATCH__MAX_ROWS", "500")]);
    assert_paused(&mut ingester).await;
    server.start_again();
    assert_ready(&mut ingester).await;

    // Unreachable while there is nothing to write.
    server.stop(StopMode::Fast);
    assert_paused(&mut ingester).await;
    server.start_again();
    assert_ready(&mut ingester).await;

    // Unreachable under load, as after a crash. New records wait in the topic.
    scene.produce((0..EVENTS / 2).map(|n| generated(n, 0))).await;
    eventually("the first rows", PATIENCE, async || scene.count().await > 0).await;
    server.stop(StopMode::Immediate);
    scene.produce((EVENTS / 2..EVENTS).map(|n| generated(n, 0))).await;
    assert_paused(&mut ingester).await;
    let metrics = ingester.metrics();
    assert_eq!(metrics.get("paused"), Some(1.0));
    assert!(metrics.get("store_retries_total{class=\"transient\"}").unwrap() >= 1.0);
    server.start_again();
    scene.caught_up(&mut ingester).await;
    assert_ready(&mut ingester).await;

    let metrics = ingester.metrics();
    assert_eq!(metrics.get("paused"), Some(0.0));
    assert_eq!(metrics.sum("dead_letters_total"), 0.0);
    assert_eq!(metrics.sum("records_total"), EVENTS as f64);
    assert_eq!(consume_all(&scene.brokers, &scene.dead_letters).await, []);
    assert_eq!(scene.count().await, i64::try_from(EVENTS).unwrap());

    // SIGTERM works while the database is unreachable.
    server.stop(StopMode::Immediate);
    scene.produce([generated(EVENTS, 0)]).await;
    assert_paused(&mut ingester).await;
    ingester.stop();
    server.start_again();
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, i64::try_from(EVENTS + 1).unwrap());
    ingester.stop();
}

#[tokio::test]
async fn a_topic_that_is_not_there_yet_is_waited_for() {
    let scene = Scene::without_topic("no-topic", testkit::postgres().database().await.url);
    let refresh = [("INGESTER_KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS", "500")];
    let mut ingester = scene.start_ingester(&refresh);
    let (status, answer) = ingester.shows("paused").await;
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert_eq!(
        (status, reason),
        (503, &*format!("topic_missing: there is no topic {}", scene.topic))
    );
    scene.make_topic(2, &[]).await;
    scene
        .produce([structured(&event("late", "1.0.0")), structured(&event("later", "1.0.0"))])
        .await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 2);
    ingester.ready().stop();
}

/// librdkafka remembers that a partition was paused when it was revoked.
#[tokio::test]
async fn partitions_that_leave_while_nothing_can_be_written_are_read_when_they_come_back() {
    let server = Postgres::start();
    let scene = Scene::without_topic("come-back", server.database().await.url);
    scene.make_topic(4, &[]).await;
    let small = [
        ("INGESTER_BATCH__MAX_ROWS", "10"),
        ("INGESTER_BATCH__IN_FLIGHT", "1"),
        ("INGESTER_KAFKA__REVOKE_TIMEOUT", "1s"),
    ];
    let mut first = scene.ingester(&small);
    scene.produce((0..100).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut first).await;

    // Writes fail and there are more records than fit, so the partitions are paused. Then half of them move to another member.
    scene.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    scene.execute("SELECT pg_reload_conf()").await;
    scene.produce((100..40_100).map(|n| generated(n, 0))).await;
    assert_paused(&mut first).await;
    let mut second = scene.start_ingester(&small);
    eventually("the second to have a share", PATIENCE, async || {
        let log = second.daemon.log();
        assert!(second.daemon.is_running(), "{log}");
        let assigned = log.lines().filter(|line| line.contains("partitions assigned"));
        assigned.into_iter().any(|line| !line.ends_with("partitions=[]"))
    })
    .await;

    // When writes work again, the partitions come back.
    scene.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
    scene.execute("SELECT pg_reload_conf()").await;
    assert_ready(&mut first).await;
    second.stop();
    scene.produce((40_100..40_200).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut first).await;
    assert_eq!(scene.count().await, 40_200);
    first.stop();
}

/// An operator reads the log of a long wait: an attempt that fails like the one before it adds no line.
#[tokio::test]
async fn attempts_that_fail_alike_are_said_once() {
    const ATTEMPTS: usize = 8;
    let scene = Scene::new("said-once", 1).await;
    let (_, database) = scene.store.split_once('@').unwrap();
    let (_, database) = database.split_once('/').unwrap();
    // A server that ends each connection at once.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let scene = Scene { store: format!("postgres://someone@{address}/{database}"), ..scene };
    let ingester = scene.start_ingester(&[]);
    for connection in listener.incoming().take(ATTEMPTS) {
        drop(connection.unwrap());
    }
    let log = ingester.stop();
    let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.len() == 1 && lines[0].contains("database"), "{log}");
}
