//! Unreachable brokers of a cluster, as an operator sees them.

use testkit::{Cluster, Kafka, Record, eventually, partition_states};

use crate::support::{PATIENCE, Running, Scene, generated, write_snapshot};

const OFFSETS: &str = "__consumer_offsets";

async fn paused_for(running: &mut Running, word: &str) -> String {
    eventually(word, PATIENCE, async || {
        let (_, answer) = running.readyz()?;
        let reason = answer["reason"].as_str()?.to_owned();
        (answer["state"] == "paused" && reason.starts_with(word)).then_some(reason)
    })
    .await
}

fn to_partition(partition: i32, numbers: std::ops::Range<usize>) -> impl Iterator<Item = Record> {
    numbers.map(move |n| Record { partition: Some(partition), ..generated(n, 0) })
}

#[tokio::test]
async fn brokers_that_are_away_are_named_and_their_partitions_keep_their_series() {
    let mut kafka = Cluster::start(&Kafka::builder(), 3);
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "brokers", store);
    scene.make_topic(2, &[("min.insync.replicas", "1")]).await;
    let lists = scene.directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    let mut ingester = scene.ingester(&[
        ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "6000"),
        ("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap()),
        ("INGESTER_TOR__REFRESH_EVERY", "1s"),
        ("INGESTER_TOR__SETTLE_HORIZON", "30years"),
    ]);
    let coordinator = partition_states(&scene.brokers, OFFSETS).await[0].leader;
    let (alone, third) = (coordinator % 3 + 1, (coordinator + 1) % 3 + 1);
    testkit::reassign(&scene.brokers, &scene.topic, 1, &[alone]);
    eventually("partition 0 to have one replica", PATIENCE, async || {
        partition_states(&scene.brokers, &scene.topic).await[0].replicas == [alone]
    })
    .await;
    scene.produce(to_partition(0, 0..100)).await;
    scene.caught_up(&mut ingester).await;

    kafka.kill(&[alone]);
    let reason = paused_for(&mut ingester, "leader_missing: ").await;
    assert!(reason.contains("partitions [0]"), "{reason}");
    let metrics = ingester.metrics();
    for family in ["lag_records", "lag_seconds", "partition_state"] {
        let series = metrics.family(family);
        for partition in ["partition=\"0\"", "partition=\"1\""] {
            let is_there = series.keys().any(|labels| labels.contains(partition));
            assert!(is_there, "{family} of {partition}: {series:?}");
        }
    }
    for (command, arguments) in [
        ("reconcile", &["--from", "earliest"][..]),
        ("replay", &["--from", "earliest"]),
        ("check", &[]),
    ] {
        let command = scene.ingester_command(command, "127.0.0.1:0");
        let mut command = arguments.iter().fold(command, |command, one| command.arg(one)).spawn();
        assert_eq!(command.wait_exit(PATIENCE).code(), Some(1));
        assert!(command.log().contains("partitions [0] of"), "{}", command.log());
    }
    // The other partition is read meanwhile.
    scene.produce(to_partition(1, 100..200)).await;
    eventually("the rows of partition 1", PATIENCE, async || scene.count().await == 200).await;
    // And it is settled by a list that comes; partition 0 is when it can be read again. Both addresses are of one record each.
    write_snapshot(&lists, "2024-03-04-23-00-00", &["145.14.0.50", "145.14.0.150"]);
    let settled = "SELECT count(*) FROM publication WHERE tor";
    eventually("a verdict of partition 1", PATIENCE, async || scene.number(settled).await == 1)
        .await;
    kafka.start_again(&[alone]);
    ingester.shows("ready").await;

    kafka.kill(&[coordinator, third]);
    let reason = paused_for(&mut ingester, "coordinator_away: ").await;
    assert!(reason.contains("Connection refused"), "{reason}");
    // A new client is created after two sessions, and the condition stays reported meanwhile.
    eventually("three sessions without a coordinator", PATIENCE, async || {
        let (_, answer) = ingester.readyz()?;
        assert_eq!(answer["state"], "paused", "{answer}");
        let (_, rest) = answer["reason"].as_str()?.split_once("no coordinator for ")?;
        (rest.split(' ').next()?.parse::<u32>().ok()? >= 18).then_some(())
    })
    .await;
    assert!(ingester.daemon.log().contains("stays away: a new kafka client is created"));
    kafka.start_again(&[coordinator, third]);
    ingester.shows("ready").await;
    scene.produce(to_partition(1, 200..300)).await;
    eventually("all rows", PATIENCE, async || scene.count().await == 300).await;
    eventually("both verdicts", PATIENCE, async || scene.number(settled).await == 2).await;
}
