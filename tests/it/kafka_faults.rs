//! Faults of the broker while an ingester runs: it continues by itself where possible, and reports what it cannot fix.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use testkit::{Kafka, NetworkFault, Proxy, Record, consume_all, eventually};

use crate::store_faults::paused_by;
use crate::support::{PATIENCE, Scene, event, generated, structured};

fn bad(n: usize) -> Record {
    Record { key: Some(format!("bad-{n}").into()), value: Some("{".into()), ..Record::default() }
}

#[tokio::test]
async fn a_dead_letter_topic_that_was_deleted_is_created_again() {
    // Kafka's own defaults: a topic that a client asks for is made, and keeps records for a week.
    let kafka = Kafka::builder().property("auto.create.topics.enable", true);
    let mut kafka = kafka.property("log.retention.ms", 604_800_000).start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "letters-deleted", store);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[]);
    // The leader epoch of the old topic is higher than the new topic's.
    for _ in 0..2 {
        scene.produce([bad(0), generated(0, 0)]).await;
        scene.caught_up(&mut ingester).await;
        kafka.kill();
        kafka.start_again();
    }
    scene.produce([bad(0)]).await;
    scene.caught_up(&mut ingester).await;
    testkit::delete_topic(&scene.brokers, &scene.dead_letters).await;
    scene.produce([bad(1), generated(1, 0)]).await;
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    let letters = consume_all(&scene.brokers, &scene.dead_letters).await;
    let keys: Vec<_> = letters.iter().map(|letter| letter.key.clone().unwrap()).collect();
    assert_eq!(keys, [b"bad-1".to_vec()]);
    assert_eq!(scene.count().await, 2);
    let checked = scene.ask("check", &["--json"], &[]);
    assert!(!checked.log.contains("dead_letters.retention"), "{}", checked.log);
    ingester.stop();
}

#[tokio::test]
async fn a_commit_that_the_coordinator_refuses_is_logged() {
    // The ingester's metadata is longer.
    let kafka = Kafka::builder().property("offset.metadata.max.bytes", 60).start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "commit-refused", store);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[]);
    scene.produce([generated(0, 0)]).await;
    eventually("the refusal", PATIENCE, async || {
        assert!(ingester.daemon.is_running(), "the ingester ended:\n{}", ingester.daemon.log());
        ingester.daemon.log().contains("refused a commit")
    })
    .await;
    assert_eq!(scene.count().await, 1);
}

/// Records with the largest timestamp that a broker accepts.
#[tokio::test]
async fn records_stamped_at_the_end_of_time_stop_nothing() {
    let scene = Scene::without_topic("stamped", testkit::postgres().database().await.url);
    let any_time = "9223372036854775807";
    let any = [("message.timestamp.after.max.ms", any_time), ("retention.ms", "-1")];
    scene.make_topic(1, &any).await;
    let stamped = |record: Record, timestamp| Record { timestamp: Some(timestamp), ..record };
    let times = [i64::MAX, i64::MAX / 1_000, 253_402_300_800_000, 1];
    let mut records = Vec::new();
    for (n, time) in times.into_iter().enumerate() {
        records.push(stamped(bad(n), time));
        records.push(stamped(structured(&event(&format!("p{n}"), "1.0.0")), time));
    }
    scene.produce(records).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    // The event time of the last record is after its timestamp.
    assert_eq!(scene.count().await, 3);
    let letters = consume_all(&scene.brokers, &scene.dead_letters).await;
    assert_eq!(letters.len(), 5);
    let mut kept: Vec<_> = letters
        .iter()
        .filter(|letter| letter.header("publication.error.code").as_deref() == Some("not_json"))
        .map(|letter| letter.timestamp.unwrap())
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, [1, 253_402_300_800_000, i64::MAX / 1_000, i64::MAX]);
    assert_eq!(ingester.metrics().sum("records_total"), 8.0);
    ingester.stop();
    for (command, arguments) in [
        ("dead-letters", &["list"][..]),
        ("dead-letters", &["show", "0", "0"]),
        ("replay", &["--from", "earliest"]),
        ("replay", &["--from", "2020-01-01T00:00:00Z"]),
        ("reconcile", &["--from", "earliest"]),
    ] {
        let answer = scene.ask(command, arguments, &[]);
        assert_eq!(answer.code, Some(0), "{command} {arguments:?}: {}", answer.log);
    }
}

/// Two machines from the same image: a group has one member per instance id, and the newer one replaces the older.
#[tokio::test]
async fn the_older_of_two_members_with_one_name_ends_and_says_why() {
    let scene = Scene::new("one-name", 2).await;
    let named = [("INGESTER_KAFKA__CLIENT__GROUP_INSTANCE_ID", "one")];
    let mut older = scene.ingester(&named);
    scene.produce((0..10).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut older).await;
    let mut newer = scene.ingester(&named);
    scene.produce((10..20).map(|n| generated(n, 0))).await;
    let status = older.daemon.wait_exit(PATIENCE);
    let log = older.daemon.log();
    assert_eq!(status.code(), Some(70), "{log}");
    assert!(log.contains("instance"), "{log}");
    scene.caught_up(&mut newer).await;
    assert_eq!(scene.count().await, 20);
    newer.stop();
}

/// Under KIP-848 the broker gives the name of a member that may still be alive to no other member.
#[tokio::test]
async fn a_member_with_a_name_that_is_killed_waits_for_its_name() {
    let setting = |name: &str| format!("group.consumer.{name}.ms");
    let kafka = Kafka::builder()
        .property(&setting("min.session.timeout"), 6_000)
        .property(&setting("session.timeout"), 6_000)
        .property(&setting("min.heartbeat.interval"), 1_000)
        .property(&setting("heartbeat.interval"), 1_000)
        .start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "name-taken", store);
    scene.make_topic(2, &[]).await;
    let named = [
        ("INGESTER_KAFKA__CLIENT__GROUP_INSTANCE_ID", "one"),
        ("INGESTER_KAFKA__CLIENT__GROUP_PROTOCOL", "consumer"),
    ];
    let mut ingester = scene.ingester(&named);
    scene.produce((0..10).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut ingester).await;
    ingester.daemon.kill();
    scene.produce((10..20).map(|n| generated(n, 0))).await;
    let mut ingester = scene.start_ingester(&named);
    let said = paused_by(&mut ingester, "instance ID is still used").await;
    assert!(said.starts_with("kept_out_of_group: "), "{said}");
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    assert_eq!(scene.count().await, 20);
    ingester.stop();
}

/// The coordinator is restarted and unreachable until the session is over, while a commit waits for it: librdkafka sends that
/// commit without the member id, which the broker takes for a second member of this name.
#[tokio::test]
async fn a_member_with_a_name_whose_session_is_over_joins_again() {
    let proxy = Proxy::start();
    let mut kafka = Kafka::builder().listener("PROXIED", "PLAINTEXT", Some(proxy.port())).start();
    proxy.forward_to(&kafka.listener("PROXIED"));
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "name-lost", store);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[
        ("INGESTER_KAFKA__BROKERS", &proxy.address()),
        ("INGESTER_KAFKA__CLIENT__GROUP_INSTANCE_ID", "one"),
        ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "20000"),
    ]);
    scene.produce((0..10).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut ingester).await;
    let mut operator = PgConnection::connect(&scene.store).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE publication").execute(&mut operator).await.unwrap();
    scene.produce((10..20).map(|n| generated(n, 0))).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a write to wait", PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut operator).await.unwrap() > 0
    })
    .await;
    proxy.set(NetworkFault::Cut);
    kafka.kill();
    kafka.start_again();
    sqlx::raw_sql("ROLLBACK").execute(&mut operator).await.unwrap();
    eventually("the session to be over", PATIENCE, async || {
        ingester.daemon.log().contains("Consumer group session timed out")
    })
    .await;
    proxy.set(NetworkFault::None);
    scene.produce((20..30).map(|n| generated(n, 0))).await;
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    assert_eq!(scene.count().await, 30);
    ingester.stop();
}

/// Replaces a text in the broker's properties while it is stopped.
fn reconfigure(kafka: &mut Kafka, from: &str, to: &str) {
    let folder = kafka.log_folder("any", 0);
    let file = folder.ancestors().nth(2).unwrap().join("server.properties");
    kafka.stop();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
    kafka.start_again();
}

/// A password that is changed on the broker only, and changed back.
#[tokio::test]
async fn a_password_that_the_broker_refuses_later_is_said_and_waited_for() {
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
    let mut kafka = Kafka::builder()
        .listener("ASKS", "SASL_PLAINTEXT", None)
        .property("sasl.enabled.mechanisms", "PLAIN")
        .property(
            "listener.name.asks.plain.sasl.jaas.config",
            format!("{login} required user_reader=\"first-secret\";"),
        )
        .start();
    let listener = kafka.listener("ASKS");
    let scene =
        Scene::on(kafka.brokers(), "refused-later", testkit::postgres().database().await.url);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[
        ("INGESTER_KAFKA__BROKERS", &listener),
        ("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", "PLAIN"),
        ("INGESTER_KAFKA__CLIENT__SASL_USERNAME", "reader"),
        ("INGESTER_KAFKA__CLIENT__SASL_PASSWORD", "first-secret"),
    ]);
    scene.produce([bad(0), generated(0, 0)]).await;
    scene.caught_up(&mut ingester).await;
    reconfigure(&mut kafka, "first-secret", "second-secret");
    scene.produce([bad(1), generated(1, 0)]).await;
    let said = paused_by(&mut ingester, "uthentication failed").await;
    assert!(said.starts_with("kafka_away: "), "{said}");
    reconfigure(&mut kafka, "second-secret", "first-secret");
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    let log = ingester.stop();
    assert!(!log.contains("-secret"), "{log}");
    assert_eq!(scene.count().await, 2);
}

#[tokio::test]
async fn a_topic_that_is_created_again_with_fewer_partitions_is_read_whole() {
    let scene = Scene::new("fewer", 4).await;
    let mut ingester = scene.ingester(&[]);
    let spread = |numbers: std::ops::Range<usize>, partitions: usize| {
        numbers.map(move |n| Record {
            partition: i32::try_from(n % partitions).ok(),
            ..generated(n, 0)
        })
    };
    scene.produce(spread(0..40, 4)).await;
    scene.caught_up(&mut ingester).await;
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(2, &[]).await;
    scene.produce(spread(40..80, 2)).await;
    eventually("all rows", PATIENCE, async || {
        assert!(ingester.daemon.is_running(), "{}", ingester.daemon.log());
        scene.count().await == 80
    })
    .await;
    scene.caught_up(&mut ingester).await;
    let (status, answer) = ingester.shows("ready").await;
    assert_eq!((status, &answer["reason"]), (200, &Value::Null));
    ingester.stop();
}

/// A member without partitions gets no assignment when the topic is created again.
#[tokio::test]
async fn a_spare_member_is_ready_again_when_its_topic_is_created_again() {
    let scene = Scene::new("spare", 1).await;
    let mut members = [scene.ingester(&[]), scene.ingester(&[])];
    scene.produce((0..10).map(|n| generated(n, 0))).await;
    eventually("all rows", PATIENCE, async || scene.count().await == 10).await;
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    for member in &mut members {
        member.shows("paused").await;
    }
    scene.make_topic(1, &[]).await;
    scene.produce((10..20).map(|n| generated(n, 0))).await;
    eventually("all rows", PATIENCE, async || scene.count().await == 20).await;
    for mut member in members {
        let (status, answer) = member.shows("ready").await;
        assert_eq!((status, &answer["reason"]), (200, &Value::Null));
        member.stop();
    }
}

/// A broker gets another address, and its old one accepts connections and closes them, like a proxy, a load balancer or
/// another server would. librdkafka 2.12 by itself looks for the coordinator there for ever.
#[tokio::test]
async fn a_broker_that_moved_is_found_although_its_old_address_accepts_connections() {
    let [bootstrap, before, after] = [Proxy::start(), Proxy::start(), Proxy::start()];
    let kafka = Kafka::builder()
        .listener("BEFORE", "PLAINTEXT", Some(before.port()))
        .listener("AFTER", "PLAINTEXT", Some(after.port()))
        .start();
    before.forward_to(&kafka.listener("BEFORE"));
    after.forward_to(&kafka.listener("AFTER"));
    bootstrap.forward_to(&kafka.listener("BEFORE"));
    let scene = Scene::on(kafka.brokers(), "moved", testkit::postgres().database().await.url);
    scene.make_topic(2, &[]).await;
    let mut ingester = scene.ingester(&[
        ("INGESTER_KAFKA__BROKERS", &bootstrap.address()),
        ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "6000"),
    ]);
    scene.produce([bad(0), generated(0, 0)]).await;
    scene.caught_up(&mut ingester).await;
    bootstrap.forward_to(&kafka.listener("AFTER"));
    bootstrap.cut();
    before.set(NetworkFault::Cut);
    scene.produce([bad(1), generated(1, 0)]).await;
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    assert_eq!(scene.count().await, 2);
    // A letter that was written before the member left the group may be written again.
    let letters = consume_all(&scene.brokers, &scene.dead_letters).await;
    let keys: BTreeSet<_> = letters.into_iter().filter_map(|letter| letter.key).collect();
    assert_eq!(keys, [b"bad-0".to_vec(), b"bad-1".to_vec()].into());
    let log = ingester.stop();
    assert!(log.contains("a new kafka client is created"), "{log}");
}

/// All connections are closed at once, long enough for librdkafka to give up. Then they work again.
#[tokio::test]
async fn a_client_that_finds_no_broker_is_made_anew() {
    let proxy = Proxy::start();
    let kafka = Kafka::builder()
        .listener("PROXIED", "PLAINTEXT", Some(proxy.port()))
        .property("group.min.session.timeout.ms", 1_000)
        .start();
    proxy.forward_to(&kafka.listener("PROXIED"));
    let scene = Scene::on(kafka.brokers(), "unfound", testkit::postgres().database().await.url);
    scene.make_topic(2, &[]).await;
    let mut ingester = scene.ingester(&[
        ("INGESTER_KAFKA__BROKERS", &proxy.address()),
        ("INGESTER_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "2000"),
    ]);
    scene.produce([generated(0, 0)]).await;
    scene.caught_up(&mut ingester).await;
    proxy.set(NetworkFault::Cut);
    eventually("two clients that find no broker", PATIENCE, async || {
        let log = ingester.daemon.log();
        log.matches("no broker is connected: a new kafka client is created").count() >= 2
    })
    .await;
    ingester.shows("paused").await;
    scene.produce([generated(1, 0)]).await;
    proxy.set(NetworkFault::None);
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    assert_eq!(scene.count().await, 2);
    ingester.stop();
}
