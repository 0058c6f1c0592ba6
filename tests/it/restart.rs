//! Stops and crashes under load: nothing is lost.

use sqlx::PgPool;
use testkit::{Daemon, Record, eventually};

use crate::support::{PATIENCE, Query, STOP, Scene, generated};

/// Small batches, so that a stop leaves most records unfinished.
const SLOW: [(&str, &str); 4] = [
    ("INGESTER_BATCH__MAX_ROWS", "250"),
    ("INGESTER_BATCH__IN_FLIGHT", "2"),
    ("INGESTER_LIMITS__MAX_BUFFERED_BYTES", "1MiB"),
    // The shortest session that a broker accepts by default. After it a killed member's partitions are free.
    ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "6000"),
];

/// All rows exist, each as it was published.
async fn assert_rows(scene: &Scene, events: usize) {
    let events = i64::try_from(events).unwrap();
    assert_eq!(scene.count().await, events);
    let right = "SELECT count(*) FROM publication WHERE username = replace(name, 'package', 'user') AND NOT disputed";
    assert_eq!(scene.number(right).await, events);
}

#[tokio::test]
async fn ten_stops_in_the_middle_lose_nothing() {
    const EVENTS: usize = 100_000;
    const STOPS: i64 = 10;
    let scene = Scene::new("restart", 4).await;
    scene.produce((0..EVENTS).map(|n| generated(n, 0))).await;
    let mut in_the_middle = 0;
    for stop in 0..STOPS {
        let ingester = scene.start_ingester(&SLOW);
        // Each run makes some progress. The last ones may find nothing left.
        let before = scene.count().await;
        eventually("some more rows", PATIENCE, async || {
            scene.count().await > before || scene.lag().await == 0
        })
        .await;
        let signals = ["TERM", "INT", "HUP"];
        ingester.stop_by(signals[usize::try_from(stop).unwrap() % signals.len()]);
        // All records that it read were written and committed: after a clean stop, offsets and rows agree.
        let (lag, rows) = (scene.lag().await, scene.count().await);
        assert_eq!(rows + lag, i64::try_from(EVENTS).unwrap(), "after stop {stop}");
        in_the_middle += i64::from(lag > 0);
    }
    assert!(in_the_middle >= STOPS / 2, "only {in_the_middle} stops came before the end");
    scene.ingest(&[]).await;
    assert_rows(&scene, EVENTS).await;
}

#[tokio::test]
async fn crashes_in_the_middle_lose_nothing() {
    const EVENTS: usize = 30_000;
    let scene = Scene::new("crash", 4).await;
    scene.produce((0..EVENTS).map(|n| generated(n, 0))).await;
    for _ in 0..2 {
        let mut ingester = scene.start_ingester(&SLOW);
        let before = scene.count().await;
        eventually("some more rows", PATIENCE, async || {
            scene.count().await > before || scene.lag().await == 0
        })
        .await;
        ingester.daemon.kill();
    }
    let mut ingester = scene.ingester(&SLOW[3..]);
    scene.caught_up(&mut ingester).await;
    let metrics = ingester.metrics();
    assert_eq!(
        metrics.get("records_total{outcome=\"updated\"}"),
        Some(0.0),
        "a row read twice stays what it is"
    );
    ingester.stop();
    assert_rows(&scene, EVENTS).await;
}

#[tokio::test]
async fn a_write_that_hangs_is_given_up_in_time_and_done_by_the_next_one() {
    const EVENTS: usize = 1_000;
    let scene = Scene::new("given-up", 2).await;
    let mut ingester = scene.ingester(&[SLOW[0], SLOW[3], ("INGESTER_SHUTDOWN__GRACE", "1s")]);
    let pool = PgPool::connect(&scene.store).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE publication").execute(&mut *lock).await.unwrap();
    scene.produce((0..EVENTS).map(|n| generated(n, 0))).await;
    // Of a batch. The connection's first look at the table waits too, before any record is read.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE 'WITH incoming AS %'";
    eventually("a write to wait", PATIENCE, async || scene.number(waiting).await > 0).await;
    ingester.daemon.terminate();
    let status = ingester.daemon.wait_exit(STOP);
    let log = ingester.daemon.log();
    assert!(status.success() && log.contains("not everything was written in time"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    lock.rollback().await.unwrap();
    scene.ingest(&SLOW[3..]).await;
    assert_rows(&scene, EVENTS).await;
}

/// A full disk, or a log collector that has ended.
const NO_LOG: &str = r#"exec "$@" 2>/dev/full"#;

/// Runs a program whose log goes to a pipe that is open but not read.
const UNREAD_LOG: &str = r#"mkfifo unread && exec "$@" 2<>unread"#;

#[tokio::test]
async fn a_log_that_nobody_takes_stops_nothing() {
    unlogged(NO_LOG).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    unlogged(UNREAD_LOG).await;
}

async fn unlogged(script: &str) {
    let scene = Scene::new("unlogged", 1).await;
    // More than the capacity of a pipe.
    let everything = [("INGESTER_LOG__FILTER", "trace"), ("QUERY_HTTP__ACCESS_LOG", "true")];
    let daemon = Daemon::started_by(script, "publication-ingester");
    let mut ingester = scene.start_daemon(daemon, &everything).ready();
    let rubbish = Record { value: Some(b"{".to_vec()), ..Record::default() };
    scene.produce([rubbish].into_iter().chain((0..100).map(|n| generated(n, 0)))).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 100);
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len(), 1);

    let daemon = Daemon::started_by(script, "publication-query");
    let query = Query::start_daemon(daemon, &scene.store, &everything);
    for _ in 0..1_000 {
        let (status, _) = query.post("{ __typename }", serde_json::json!({}));
        assert_eq!(status, 200);
    }
    query.running.stop();
    ingester.stop();

    let wrong = [("INGESTER_KAFKA__BROKERS", "kafka://host")];
    let mut refused =
        scene.start_daemon(Daemon::started_by(script, "publication-ingester"), &wrong).daemon;
    assert_eq!(refused.wait_exit(PATIENCE).code(), Some(78));
}
