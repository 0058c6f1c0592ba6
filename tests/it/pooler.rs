//! PgBouncer between the daemons and PostgreSQL, in a common setup.

use testkit::Pgbouncer;

use crate::support::{Scene, generated};

/// Fewer sessions than the daemon would use.
#[tokio::test]
async fn a_pooler_with_few_sessions_is_shared() {
    let direct = testkit::postgres().database().await.url;
    let (_, database) = direct.rsplit_once('/').unwrap();
    for sessions in [2, 3] {
        let pooler =
            Pgbouncer::with(&direct, "session", &format!("default_pool_size = {sessions}"));
        let scene = Scene::without_topic("few", pooler.url(database));
        scene.make_topic(2, &[]).await;
        let mut ingester = scene.ingester(&[]);
        for turn in 0..3 {
            scene.produce((turn * 5_000..(turn + 1) * 5_000).map(|n| generated(n, 0))).await;
            scene.caught_up(&mut ingester).await;
        }
        let metrics = ingester.metrics();
        assert_eq!(metrics.sum("records_total"), 15_000.0, "{sessions}");
        ingester.shows("ready").await;
        ingester.stop();
    }
}
