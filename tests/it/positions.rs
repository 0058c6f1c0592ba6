//! A database that went back in time is detected, at start and at run time, and the missing records are read again from
//! the topic. Offsets that an operator sets for the group are obeyed, and logged.

use std::fs;
use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use testkit::{DatabaseAdmin, Postgres, Record, StopMode, eventually};

use crate::support::{PATIENCE, Running, Scene, generated, replace_file, rows};

/// Plain events for partition 0.
pub(crate) fn records(numbers: std::ops::Range<usize>) -> impl Iterator<Item = Record> {
    numbers.map(|n| Record { partition: Some(0), ..generated(n, 0) })
}

pub(crate) async fn has_rows(scene: &Scene, running: &mut Running, count: usize) {
    eventually(&format!("{count} rows"), PATIENCE, async || {
        assert!(running.daemon.is_running(), "the ingester ended:\n{}", running.daemon.log());
        rows(&scene.store).await.len() == count
    })
    .await;
}

/// Starts an ingester that stops at a gap. Returns its log.
pub(crate) fn stopped_at_gap(scene: &Scene) -> String {
    let mut stopped = scene.start_ingester(&[("INGESTER_KAFKA__ON_GAP", "stop")]);
    let status = stopped.daemon.wait_exit(PATIENCE);
    let log = stopped.daemon.log();
    assert_eq!(status.code(), Some(65), "{log}");
    log
}

fn rewound(running: &Running) -> f64 {
    running.metrics().get("store_rewound_records_total").unwrap()
}

/// The lines of a log with these words.
fn lines<'l>(log: &'l str, words: &str) -> Vec<&'l str> {
    log.lines().filter(|line| line.contains(words)).collect()
}

const WENT_BACK: &str = "the database went back in time";
const GONE: &str = "has no account of this group";
const FORWARDS: &str = "set the group's offset forwards";
const BACKWARDS: &str = "set the group's offset back";

/// The SQLite file of a scene.
pub(crate) fn file(scene: &Scene) -> PathBuf {
    scene.directory.path().join("publications.db")
}

pub(crate) async fn on_sqlite(name: &str) -> Scene {
    let scene = Scene::without_topic(name, String::new());
    let store = format!("sqlite://{}", file(&scene).display());
    let scene = Scene { store, ..scene };
    scene.make_topic(1, &[]).await;
    scene
}

/// A copy of the file, consistent even while it is written.
async fn copy(scene: &Scene) -> PathBuf {
    let to = scene.directory.path().join("copy.db");
    let mut connection = SqliteConnection::connect(&scene.store).await.unwrap();
    let sql = format!("VACUUM INTO '{}'", to.display());
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    to
}

/// All records are in the table again. The rewind was logged once and counted.
async fn is_healed(scene: &Scene, ingester: &mut Running, lacked: f64) {
    has_rows(scene, ingester, 300).await;
    scene.caught_up(ingester).await;
    assert_eq!(rewound(ingester), lacked);
    assert_eq!(ingester.metrics().get("offset_gap_records_total"), Some(0.0));
}

/// A database that was copied after 100 records, and an ingester that has written 200 more since.
async fn copied(name: &str) -> (Scene, DatabaseAdmin, Running) {
    let scene = Scene::new(name, 1).await;
    let admin = DatabaseAdmin::of(&scene.store);
    scene.produce(records(0..100)).await;
    scene.ingest(&[]).await;
    admin.copy().await;
    scene.produce(records(100..300)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    (scene, admin, ingester)
}

#[tokio::test]
async fn a_copy_of_the_database_that_is_put_back_is_read_up_to_the_present() {
    let (scene, admin, ingester) = copied("put-back").await;
    assert_eq!(rewound(&ingester), 0.0);
    assert_eq!(lines(&ingester.stop(), WENT_BACK), [""; 0]);

    admin.put_back().await;
    let mut ingester = scene.ingester(&[]);
    is_healed(&scene, &mut ingester, 200.0).await;
    let log = ingester.stop();
    let said = lines(&log, WENT_BACK);
    assert!(said.len() == 1 && said[0].contains("from=100") && said[0].contains("to=300"), "{log}");

    // The database is complete, so nothing is read again.
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!((rewound(&ingester), ingester.metrics().sum("records_total")), (0.0, 0.0));
    ingester.stop();
}

#[tokio::test]
async fn a_copy_that_is_put_back_under_a_running_ingester_is_seen_though_nothing_comes() {
    let scene = Scene::new("put-back-running", 2).await;
    let admin = DatabaseAdmin::of(&scene.store);
    scene.produce(records(0..100)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    admin.copy().await;
    scene.produce(records(100..300)).await;
    has_rows(&scene, &mut ingester, 300).await;
    scene.caught_up(&mut ingester).await;

    admin.put_back().await;
    is_healed(&scene, &mut ingester, 200.0).await;
    let log = ingester.stop();
    assert_eq!(lines(&log, WENT_BACK).len(), 1, "{log}");
}

#[tokio::test]
async fn what_retention_took_of_a_database_that_went_back_is_a_gap() {
    let (scene, admin, ingester) = copied("put-back-gap").await;
    ingester.stop();
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 150).await;
    admin.put_back().await;

    let log = stopped_at_gap(&scene);
    assert!(log.contains("offsets 100 to 149"), "{log}");
    let mut ingester = scene.ingester(&[]);
    has_rows(&scene, &mut ingester, 250).await;
    assert_eq!(ingester.metrics().get("offset_gap_records_total"), Some(50.0));
    ingester.stop();
}

#[tokio::test]
async fn a_file_that_is_put_back_is_read_up_to_the_present() {
    let scene = on_sqlite("file").await;
    scene.produce(records(0..100)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let [first, second] = [copy(&scene).await, scene.directory.path().join("second.db")];
    fs::copy(&first, &second).unwrap();
    scene.produce(records(100..300)).await;
    scene.caught_up(&mut ingester).await;

    // While the ingester runs, then while it is stopped.
    replace_file(&file(&scene), &first);
    is_healed(&scene, &mut ingester, 200.0).await;
    ingester.stop();
    replace_file(&file(&scene), &second);
    let mut ingester = scene.ingester(&[]);
    is_healed(&scene, &mut ingester, 200.0).await;
    ingester.stop();
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_waited_for_or_filled_again() {
    let scene = on_sqlite("moved").await;
    scene.produce(records(0..300)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let elsewhere = scene.directory.path().join("elsewhere.db");
    fs::rename(file(&scene), &elsewhere).unwrap();
    let (_, answer) = ingester.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().contains("publications.db"), "{answer}");
    assert!(!file(&scene).exists(), "no file is made in its place");
    fs::rename(&elsewhere, file(&scene)).unwrap();
    ingester.shows("ready").await;
    assert_eq!(rewound(&ingester), 0.0);
    ingester.stop();

    // At start a new file is created. It has no account of positions, although the commit names one.
    fs::rename(file(&scene), &elsewhere).unwrap();
    let mut ingester = scene.ingester(&[]);
    is_healed(&scene, &mut ingester, 300.0).await;
    let log = ingester.stop();
    assert_eq!(lines(&log, GONE).len(), 1, "{log}");
}

#[tokio::test]
async fn an_emptied_database_is_filled_again_and_an_older_ones_group_is_not() {
    let scene = Scene::new("emptied", 1).await;
    scene.produce(records(0..300)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    // At run time, then before a start.
    scene.execute("TRUNCATE publication, ingest_position").await;
    is_healed(&scene, &mut ingester, 300.0).await;
    assert_eq!(lines(&ingester.stop(), GONE).len(), 1);
    // Without the epoch, a log that was truncated below the position would not be detected.
    let with_epoch = "SELECT count(*) FROM ingest_position WHERE leader_epoch IS NOT NULL";
    assert_eq!(scene.number(with_epoch).await, 1);
    scene.execute("TRUNCATE publication, ingest_position").await;
    let mut ingester = scene.ingester(&[]);
    is_healed(&scene, &mut ingester, 300.0).await;
    assert_eq!(lines(&ingester.stop(), GONE).len(), 1);
}

#[tokio::test]
async fn two_groups_write_into_one_table() {
    let scene = Scene::new("two-groups", 1).await;
    scene.produce(records(0..300)).await;
    let mut first = scene.ingester(&[]);
    scene.caught_up(&mut first).await;
    let other = format!("{}.other", scene.group);
    let mut second = scene.ingester(&[("INGESTER_KAFKA__GROUP", &other)]);
    eventually("the other group to catch up", PATIENCE, async || {
        assert!(second.daemon.is_running(), "{}", second.daemon.log());
        testkit::group_lag(&scene.brokers, &other, &scene.topic).await == 0
    })
    .await;
    assert_eq!(scene.number("SELECT count(*) FROM ingest_position").await, 2);
    assert_eq!((rewound(&first), rewound(&second)), (0.0, 0.0));
    assert_eq!(second.metrics().sum("records_total"), 300.0);
    for ingester in [first, second] {
        ingester.stop();
    }
}

fn reset(scene: &Scene, to: &str) {
    let topic = format!("{}:0", scene.topic);
    let arguments = ["--reset-offsets", "--group", &scene.group, "--topic", &topic, "--to-offset"];
    testkit::consumer_groups(&scene.brokers, &[&arguments[..], &[to, "--execute"]].concat());
}

#[tokio::test]
async fn what_an_operator_sets_the_groups_offset_to_is_obeyed_and_said() {
    let scene = Scene::new("reset", 1).await;
    scene.produce(records(0..100)).await;
    scene.ingest(&[]).await;
    scene.produce(records(100..300)).await;

    reset(&scene, "250");
    let mut ingester = scene.ingester(&[]);
    has_rows(&scene, &mut ingester, 150).await;
    scene.caught_up(&mut ingester).await;
    let metrics = ingester.metrics();
    assert_eq!(metrics.get("offset_gap_records_total"), Some(150.0), "those that are skipped");
    assert_eq!(metrics.get("store_rewound_records_total"), Some(0.0));
    let log = ingester.stop();
    let said = lines(&log, FORWARDS);
    assert!(said.len() == 1, "{log}");
    assert!(["from=100", "to=250", "skipped=150"].iter().all(|it| said[0].contains(it)), "{log}");

    reset(&scene, "100");
    let mut ingester = scene.ingester(&[]);
    has_rows(&scene, &mut ingester, 300).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(ingester.metrics().sum("records_total"), 200.0);
    assert_eq!(rewound(&ingester), 0.0);
    assert_eq!(lines(&ingester.stop(), BACKWARDS).len(), 1);
}

/// Promotes the standby on the port of the failed server, like an address that moves with the primary.
async fn fail_over(primary: &mut Postgres, standby: &mut Postgres) {
    primary.stop(StopMode::Immediate);
    standby.stop(StopMode::Fast);
    standby.start_in_place_of(primary);
    standby.promote().await;
}

#[tokio::test]
async fn a_standby_that_is_promoted_without_the_last_commits_is_read_up_to_the_present() {
    // With the second interval, the account is not written between the last rows and the failure of the primary.
    // According to the standby's data nothing is missing.
    for (interval, lacked) in [("200ms", Some(200.0)), ("6s", None)] {
        let mut primary = Postgres::start();
        let scene = Scene::without_topic("promoted", primary.database().await.url);
        scene.make_topic(1, &[]).await;
        let mut ingester = scene.ingester(&[("INGESTER_KAFKA__COMMIT_INTERVAL", interval)]);
        scene.produce(records(0..100)).await;
        scene.caught_up(&mut ingester).await;
        let mut standby = primary.standby();
        standby.hold_back(&primary).await;
        scene.produce(records(100..300)).await;
        match lacked {
            Some(_) => scene.caught_up(&mut ingester).await,
            None => has_rows(&scene, &mut ingester, 300).await,
        }
        fail_over(&mut primary, &mut standby).await;
        has_rows(&scene, &mut ingester, 300).await;
        scene.caught_up(&mut ingester).await;
        if let Some(lacked) = lacked {
            assert_eq!(rewound(&ingester), lacked);
            assert_eq!(lines(&ingester.daemon.log(), WENT_BACK).len(), 1);
        }
        ingester.shows("ready").await;
        ingester.stop();
    }
}
