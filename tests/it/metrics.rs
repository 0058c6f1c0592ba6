//! The admin listener: probes, and metrics that exist before the first record.

use serde_json::json;

use crate::support::{Scene, event, structured, with};

/// The series of documented metrics that are 0 before the first record.
const ZERO: [&str; 16] = [
    "records_total{outcome=\"inserted\"}",
    "records_total{outcome=\"updated\"}",
    "records_total{outcome=\"unchanged\"}",
    "records_total{outcome=\"dead_lettered\"}",
    "records_total{outcome=\"skipped\"}",
    "publish_to_row_seconds_count",
    "batch_rows_count",
    "store_write_seconds_count",
    "store_retries_total{class=\"transient\"}",
    "store_retries_total{class=\"data\"}",
    "paused",
    "disputed_total",
    "dead_letters_total{code=\"too_large\"}",
    "dead_letters_total{code=\"not_json\"}",
    "dead_letters_total{code=\"refused_by_store\"}",
    "tor_verdicts_total{reason=\"not_listed\",verdict=\"false\"}",
];

#[tokio::test]
async fn every_series_of_the_ingester_is_there_from_the_start() {
    let scene = Scene::new("metrics", 2).await;
    let mut ingester = scene.ingester(&[]);
    let (status, answer) = ingester.readyz().unwrap();
    assert_eq!((status, answer["state"].as_str()), (200, Some("ready")), "{answer}");
    assert_eq!(testkit::http_get(&ingester.admin, "/livez").unwrap().0, 200);
    assert_eq!(testkit::http_get(&ingester.admin, "/").unwrap().0, 404);

    let metrics = ingester.metrics();
    for series in ZERO {
        assert_eq!(metrics.get(series), Some(0.0), "{series}");
    }
    assert_eq!(metrics.family("dead_letters_total").len(), 10);
    assert_eq!(metrics.sum("dead_letters_total"), 0.0);
    assert_eq!(metrics.sum("tor_verdicts_total") + metrics.sum("tfa_verdicts_total"), 0.0);
    assert!(metrics.family("tfa_verdicts_total").len() >= 8);
    assert!(metrics.get("rebalances_total").is_some());
    let build = metrics.family("build_info");
    let (labels, one) = build.iter().next().expect("build_info");
    assert!(
        *one == 1.0 && labels.contains("librdkafka=\"") && labels.contains("version=\""),
        "{labels}"
    );
    for partition in 0..2 {
        for name in ["lag_records", "lag_seconds"] {
            let series = format!("{name}{{partition=\"{partition}\",topic=\"{}\"}}", scene.topic);
            testkit::eventually(&series, crate::support::PATIENCE, async || {
                ingester.metrics().get(&series) == Some(0.0)
            })
            .await;
        }
    }

    // No label may contain a package, a user or an address, whatever arrives.
    let odd = with(event("left-pad", "1.0.0"), "/data/actor/kind", json!("left-pad"));
    let bad = with(event("left-pad", "1.0.1"), "/data/revision", json!("left-pad"));
    scene.produce([structured(&odd), structured(&bad)]).await;
    scene.caught_up(&mut ingester).await;
    let metrics = ingester.metrics();
    assert_eq!(metrics.sum("records_total"), 2.0);
    assert_eq!(metrics.get("publish_to_row_seconds_count"), Some(1.0));
    for series in metrics.0.keys() {
        for secret in ["left-pad", "brianc", "71.160"] {
            assert!(!series.contains(secret), "{series}");
        }
    }

    let query = scene.query();
    assert_eq!(testkit::http_get(&query.running.admin, "/livez").unwrap().0, 200);
    let (status, answer) = query.running.readyz().unwrap();
    assert_eq!((status, answer["state"].as_str()), (200, Some("ready")), "{answer}");
    let metrics = query.running.metrics();
    assert_eq!(metrics.sum("requests_total"), 0.0);
    assert!(!metrics.family("requests_total").is_empty());
    assert_eq!(metrics.sum("build_info"), 1.0);
    query.ask("{ package(name: \"left-pad\", version: \"1.0.0\") { name } }", json!({}));
    assert_eq!(
        query.running.metrics().get("requests_total{outcome=\"ok\",status=\"2xx\"}"),
        Some(1.0)
    );
    query.running.stop();
    ingester.stop();
}

/// A control record follows the last record of a transaction. An aborted transaction has no visible records at all.
#[tokio::test]
async fn what_a_transaction_leaves_behind_is_no_lag() {
    let scene = Scene::new("transactions", 1).await;
    let ingester = scene.ingester(&[]);
    for (name, commit) in [("kept", true), ("taken-back", false)] {
        let records = [structured(&event(name, "1.0.0"))];
        testkit::produce_in_transaction(&scene.brokers, &scene.topic, records, commit).await;
    }
    testkit::eventually("the row", crate::support::PATIENCE, async || scene.count().await == 1)
        .await;
    let labels = format!("{{partition=\"0\",topic=\"{}\"}}", scene.topic);
    testkit::eventually("no lag", crate::support::PATIENCE, async || {
        let metrics = ingester.metrics();
        let value = |name: &str| metrics.get(&format!("{name}{labels}"));
        (value("lag_records"), value("lag_seconds")) == (Some(0.0), Some(0.0))
    })
    .await;
    // Also for an ingester that starts after the last record and receives none.
    ingester.stop();
    let ingester = scene.ingester(&[]);
    testkit::eventually("no lag", crate::support::PATIENCE, async || {
        ingester.metrics().get(&format!("lag_records{labels}")) == Some(0.0)
    })
    .await;
    ingester.stop();
}

/// An open transaction of a failed producer blocks all later records for read-committed consumers.
#[tokio::test]
async fn what_waits_behind_an_open_transaction_is_lag() {
    let scene = Scene::new("open-transaction", 1).await;
    let ingester = scene.ingester(&[]);
    let open = structured(&event("in-the-transaction", "1.0.0"));
    let transaction = testkit::Transaction::begin(&scene.brokers, &scene.topic).await;
    transaction.produce(&scene.topic, [open]).await;
    let behind = (0..10).map(|n| structured(&event(&format!("behind-{n}"), "1.0.0")));
    scene.produce(behind).await;
    let labels = format!("{{partition=\"0\",topic=\"{}\"}}", scene.topic);
    let value = |name: &str| ingester.metrics().get(&format!("{name}{labels}"));
    testkit::eventually("the lag", crate::support::PATIENCE, async || {
        value("lag_records") == Some(11.0) && value("lag_seconds") > Some(1.0)
    })
    .await;
    assert_eq!(scene.count().await, 0);
    transaction.end(true).await;
    testkit::eventually("no lag", crate::support::PATIENCE, async || {
        value("lag_records") == Some(0.0) && scene.count().await == 11
    })
    .await;
    ingester.stop();
}
