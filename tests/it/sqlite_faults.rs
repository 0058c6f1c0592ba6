//! Faults of the embedded database: another writer, a full disk, a damaged file.

use std::fs;
use std::io::Write as _;

use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use testkit::Daemon;

use crate::positions::{file, on_sqlite};
use crate::replay::Answer;
use crate::store_faults::{letters, paused_by};
use crate::support::{Query, Scene, generated, rows};

/// Another process writes to the file, longer than any lock timeout.
#[tokio::test]
async fn another_writer_of_the_file_is_waited_for() {
    let scene = on_sqlite("locked-file").await;
    let mut ingester = scene.ingester(&[]);
    let mut other = SqliteConnection::connect(&scene.store).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    scene.produce((0..100).map(|n| generated(n, 0))).await;
    let reason = paused_by(&mut ingester, "database_conflict").await;
    assert!(reason.contains("locked"), "{reason}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    ingester.stop();
    assert_eq!((scene.rows().await.len(), letters(&scene).await), (100, vec![]));
}

#[tokio::test]
async fn a_full_disk_of_the_embedded_database_is_said_and_waited_for() {
    const EVENTS: usize = 20_000;
    let mut scene = Scene::without_topic("full-disk", String::new());
    scene.make_topic(1, &[]).await;
    let disk = scene.directory.path().join("disk");
    fs::create_dir(&disk).unwrap();
    scene.store = format!("sqlite://{}/publications.db", disk.display());
    // In its own mount namespace, which other processes see below /proc/PID/root.
    let script = format!(
        r#"exec unshare --map-root-user --mount \
           sh -c 'mount -t tmpfs -o size=64m none "$0" && exec "$@"' {} "$@""#,
        disk.display()
    );
    let daemon = Daemon::started_by(&script, "publication-ingester");
    let mut ingester = scene.start_daemon(daemon, &[]).ready();

    // The daemon's disk as other processes see it.
    let disk = format!("/proc/{}/root{}", ingester.daemon.pid(), disk.display());
    let filler = format!("{disk}/filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 1 << 16]).is_ok() {}
    drop(file);
    scene.produce((0..EVENTS).map(|n| generated(n, 0))).await;
    let reason = paused_by(&mut ingester, "disk is full").await;
    assert!(reason.starts_with("database_away: "), "{reason}");
    fs::remove_file(&filler).unwrap();
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    // SQLite would follow the link to a path in this namespace, so copy the files while the database is idle.
    let copy = scene.directory.path().join("copy.db");
    for (from, to) in ["", "-wal"]
        .map(|end| (format!("{disk}/publications.db{end}"), format!("{}{end}", copy.display())))
    {
        fs::copy(from, to).unwrap();
    }
    assert_eq!(rows(&format!("sqlite://{}", copy.display())).await.len(), EVENTS);
    assert_eq!(letters(&scene).await, []);
    ingester.stop();
}

/// Bytes in the middle of the file were overwritten. Both daemons say so, and the file of a backup in its place is used.
#[tokio::test]
async fn a_damaged_file_is_said_by_both_daemons() {
    const PACKAGE: &str = r#"query($name: String!) { package(name: $name, version: "1.0.0") { publicationInfo { username } } }"#;
    const DAMAGE: &str = "malformed";
    let scene = on_sqlite("damaged-file").await;
    scene.produce((0..2_000).map(|n| generated(n, 0))).await;
    scene.ingest(&[]).await;
    // The rows may be in the write-ahead log alone.
    let mut connection = SqliteConnection::connect(&scene.store).await.unwrap();
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    sqlx::raw_sql(checkpoint).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let good = fs::read(file(&scene)).unwrap();
    let mut damaged = good.clone();
    // The first page has the schema.
    damaged[4096..].fill(0xa5);
    fs::write(file(&scene), damaged).unwrap();

    let mut query = Query::start_unready(Daemon::command("publication-query"), &scene.store, &[]);
    let (_, answer) = query.running.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().contains(DAMAGE), "{answer}");
    let (status, answer) = query.post(PACKAGE, json!({"name": "package-7"}));
    assert!(status == 503 && answer.contains("STORE_UNAVAILABLE"), "{status} {answer}");
    let check = scene.ask("check", &[], &[]);
    assert!(check.code != Some(0) && check.log.contains(DAMAGE), "{}", check.log);
    let ingester = Answer::of(scene.start_ingester(&[]).daemon);
    assert_ne!(ingester.code, Some(0));
    let path = file(&scene).display().to_string();
    for said in [&check.log, &ingester.log, &query.running.daemon.log()] {
        assert!(said.contains(&path), "{said}");
    }

    fs::write(file(&scene), good).unwrap();
    scene.produce((2_000..2_100).map(|n| generated(n, 0))).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    query.running.shows("ready").await;
    let row = query.ask(PACKAGE, json!({"name": "package-2050"}));
    assert_eq!(row["package"]["publicationInfo"]["username"], "user-2050");
    assert_eq!((scene.rows().await.len(), letters(&scene).await), (2_100, vec![]));
    ingester.stop();
}
