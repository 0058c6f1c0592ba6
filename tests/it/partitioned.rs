//! `deploy/postgresql/partitioned.sql`: the daemons on a partitioned table.

use std::fs;

use serde_json::json;

use crate::deploy::deploy;
use crate::store_faults::{letters, paused_by};
use crate::support::{Scene, generated};

#[tokio::test]
async fn the_daemons_work_on_a_partitioned_table() {
    let scene = Scene::new("partitioned", 1).await;
    scene.must("migrate", &[]);
    scene.produce((0..100).map(|n| generated(n, 0))).await;
    scene.ingest(&[]).await;

    let before = scene.rows().await;
    let sql = fs::read_to_string(deploy("postgresql/partitioned.sql")).unwrap();
    scene.execute(&format!("BEGIN;\n{sql}\nCOMMIT;")).await;
    assert_eq!(scene.rows().await, before);
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'publication'::regclass";
    assert_eq!(scene.number(partitions).await, 16);

    // By COPY, because all rows are new, in one batch each …
    scene.produce((100..4_100).map(|n| generated(n, 0))).await;
    let batches = [("INGESTER_BATCH__LINGER", "2s"), ("INGESTER_BATCH__MAX_ROWS", "4000")];
    let mut ingester = scene.ingester(&batches);
    scene.caught_up(&mut ingester).await;
    // … then by upserts: new, changed and unchanged rows.
    let mixed = (4_100..4_200).map(|n| generated(n, 0));
    let mixed = mixed.chain((0..500).map(|n| generated(n, 1)));
    scene.produce(mixed.chain((1_000..1_300).map(|n| generated(n, 0)))).await;
    scene.caught_up(&mut ingester).await;
    let metrics = ingester.metrics();
    let outcome = |word: &str| metrics.get(&format!("records_total{{outcome=\"{word}\"}}"));
    assert_eq!(
        [outcome("inserted"), outcome("updated"), outcome("unchanged")],
        [Some(4_100.0), Some(500.0), Some(300.0)]
    );
    ingester.stop();
    assert_eq!(scene.count().await, 4_200);
    let later = "SELECT count(*) FROM publication WHERE revision = 1 AND username LIKE '%-1'";
    assert_eq!(scene.number(later).await, 500);

    let query = scene.query();
    let data = query.ask(
        r#"{ package(name: "package-7", version: "1.0.0") { publicationInfo { username tfa } }
             publications(first: 2) { edges { node { name } } } }"#,
        json!({}),
    );
    assert_eq!(
        data,
        json!({
            "package": { "publicationInfo": { "username": "user-7-1", "tfa": false } },
            "publications": { "edges": [
                { "node": { "name": "package-4199" } }, { "node": { "name": "package-4198" } },
            ] },
        })
    );
    query.running.stop();
}

/// The typical row and most others still have their partitions.
#[tokio::test]
async fn a_partition_that_is_detached_pauses_and_no_record_pays_for_it() {
    let scene = Scene::new("detached", 1).await;
    scene.must("migrate", &[]);
    let sql = fs::read_to_string(deploy("postgresql/partitioned.sql")).unwrap();
    scene.execute(&format!("BEGIN;\n{sql}\nCOMMIT;")).await;
    let mut ingester = scene.ingester(&[]);
    scene.produce((0..10).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut ingester).await;
    scene.execute("ALTER TABLE publication DETACH PARTITION publication_p3").await;
    scene.produce((10..210).map(|n| generated(n, 0))).await;
    let reason = paused_by(&mut ingester, "partition").await;
    assert!(reason.starts_with("database_refuses: "), "{reason}");
    let checked = scene.ask("check", &["--json"], &[]);
    assert!(checked.code == Some(1) && checked.log.contains("hash partition"), "{}", checked.log);
    scene
        .execute("ALTER TABLE publication ATTACH PARTITION publication_p3 FOR VALUES WITH (MODULUS 16, REMAINDER 3)")
        .await;
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    ingester.stop();
    assert_eq!((scene.count().await, letters(&scene).await), (210, vec![]));
}
