//! Many events: nothing is lost, nothing is counted twice, and the metrics add up.

use crate::support::{Scene, generated};

const PUBLICATIONS: usize = 70_000;
/// How many of these are sent twice, byte for byte.
const DUPLICATES: usize = 20_000;
/// How many of these are sent again with a higher revision.
const REVISIONS: usize = 10_000;
const EVENTS: usize = PUBLICATIONS + DUPLICATES + REVISIONS;

#[tokio::test]
async fn a_hundred_thousand_events_become_the_right_rows() {
    let scene = Scene::new("volume", 8).await;
    // Half of the repetitions follow soon after their originals, in the same batch; the others come at the end.
    let events = (0..PUBLICATIONS).flat_map(|n| {
        let repeated = (n < DUPLICATES / 2).then(|| generated(n, 0));
        let revised = (n < REVISIONS / 2).then(|| generated(n, 1));
        [Some(generated(n, 0)), revised, repeated].into_iter().flatten()
    });
    let late = (DUPLICATES / 2..DUPLICATES).map(|n| generated(n, 0));
    let revised = (REVISIONS / 2..REVISIONS).map(|n| generated(n, 1));
    let mut ingester = scene.ingester(&[]);
    assert_eq!(scene.produce(events.chain(late).chain(revised)).await.len(), EVENTS);
    scene.caught_up(&mut ingester).await;

    let publications = i64::try_from(PUBLICATIONS).unwrap();
    let revisions = i64::try_from(REVISIONS).unwrap();
    assert_eq!(scene.count().await, publications);
    let revised = "SELECT count(*) FROM publication WHERE revision = 1 AND username = replace(name, 'package', 'user') || '-1'";
    assert_eq!(scene.number(revised).await, revisions);
    let original = "SELECT count(*) FROM publication WHERE revision = 0 AND username = replace(name, 'package', 'user')";
    assert_eq!(scene.number(original).await, publications - revisions);
    assert_eq!(scene.number("SELECT count(*) FROM publication WHERE disputed").await, 0);

    let metrics = ingester.metrics();
    let events = EVENTS as f64;
    assert_eq!(metrics.sum("records_total"), events, "{:?}", metrics.family("records_total"));
    // Two batches that write the same new publication at the same time may both count it as inserted.
    let inserted = metrics.get("records_total{outcome=\"inserted\"}").unwrap();
    let at_most = PUBLICATIONS + REVISIONS / 2;
    assert!((PUBLICATIONS as f64..=at_most as f64).contains(&inserted), "{inserted} inserted");
    assert_eq!(metrics.get("records_total{outcome=\"dead_lettered\"}"), Some(0.0));
    assert_eq!(metrics.get("records_total{outcome=\"skipped\"}"), Some(0.0));
    assert_eq!(metrics.sum("tor_verdicts_total"), events);
    assert_eq!(metrics.sum("tfa_verdicts_total"), events);
    let even = metrics
        .get("tfa_verdicts_total{reason=\"second_factor_rejected\",verdict=\"false\"}")
        .unwrap();
    let odd =
        metrics.get("tfa_verdicts_total{reason=\"no_second_factor\",verdict=\"false\"}").unwrap();
    assert_eq!(even + odd, events);
    assert_eq!(metrics.sum("batch_rows_sum"), events);
    ingester.stop();
}
