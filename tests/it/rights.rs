//! Missing or revoked rights: reported with the resource, and used again as soon as they are granted.

use testkit::{Kafka, Record, acls, eventually};

use crate::store_faults::paused_by;
use crate::support::{PATIENCE, Scene, generated};

async fn scene(kafka: &Kafka, name: &str) -> Scene {
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), name, store);
    scene.make_topic(1, &[]).await;
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &[("retention.ms", "-1")]).await;
    scene
}

/// Grants these operations on a topic. All other operations on it are then denied.
fn allow(scene: &Scene, topic: &str, operations: &[&str]) {
    let mut arguments = vec!["--add", "--allow-principal", "User:*", "--topic", topic];
    for operation in operations {
        arguments.extend(["--operation", operation]);
    }
    acls(&scene.brokers, &arguments);
}

/// A broker that checks rights. Without an ACL for a resource, everybody may do everything with it.
pub(crate) fn broker() -> Kafka {
    Kafka::builder()
        .property(
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        )
        .property("allow.everyone.if.no.acl.found", true)
        .start()
}

/// Grants this operation on the group. All other operations on it are then denied.
fn allow_group(scene: &Scene, operation: &str) {
    let of = ["--allow-principal", "User:*", "--group", &scene.group, "--operation", operation];
    acls(&scene.brokers, &[&["--add"][..], &of].concat());
}

/// At start the error ends the process, for the operator. Later the ingester waits, because a supervisor would not restart it.
#[tokio::test]
async fn the_right_to_use_the_group_is_missing_at_a_start_and_waited_for_later() {
    let kafka = broker();
    for environment in [&[][..], &[("INGESTER_KAFKA__CLIENT__GROUP_PROTOCOL", "consumer")]] {
        let group = scene(&kafka, "rights-group").await;
        let mut ingester = group.ingester(environment);
        group.produce([generated(0, 0)]).await;
        group.caught_up(&mut ingester).await;
        allow_group(&group, "Describe");
        let reason = paused_by(&mut ingester, &group.group).await;
        assert!(reason.contains("(none)") || reason.contains("GroupAuthorization"), "{reason}");
        group.produce([generated(1, 0)]).await;
        allow_group(&group, "Read");
        group.caught_up(&mut ingester).await;
        ingester.shows("ready").await;
        ingester.stop();
    }

    let topic = scene(&kafka, "rights-topic").await;
    allow(&topic, &topic.topic, &["Describe", "Write"]);
    let group = scene(&kafka, "rights-none").await;
    allow_group(&group, "Describe");
    for (scene, name) in [(&topic, &topic.topic), (&group, &group.group)] {
        scene.produce([generated(0, 0)]).await;
        let mut refused = scene.start_ingester(&[]);
        let status = refused.daemon.wait_exit(PATIENCE);
        let log = refused.daemon.log();
        assert!(status.code() == Some(77) && log.contains(name.as_str()), "{status}: {log}");
    }
}

#[tokio::test]
async fn rights_that_come_back_are_used_without_a_restart() {
    let kafka = broker();
    let scene = scene(&kafka, "rights").await;
    let bad = || Record { value: Some("{".into()), ..Record::default() };
    allow(&scene, &scene.dead_letters, &["Describe"]);
    scene.produce((0..10).map(|n| generated(n, 0)).chain([bad()])).await;
    let mut ingester = scene.start_ingester(&[]);
    let (status, answer) = ingester.shows("paused").await;
    assert_eq!(status, 503);
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.starts_with("dead_letters_wait: "), "{reason}");
    allow(&scene, &scene.dead_letters, &["Write", "Read"]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len(), 1);
    ingester.shows("ready").await;

    // The read right is revoked at run time.
    allow(&scene, &scene.topic, &["Describe", "Write"]);
    scene.produce([generated(10, 0)]).await;
    let (status, answer) = ingester.shows("paused").await;
    assert_eq!(status, 503);
    let reason = answer["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("kafka_not_allowed: "), "{reason}");
    assert!(reason.contains(&scene.topic), "{reason}");
    allow(&scene, &scene.topic, &["Read"]);
    scene.caught_up(&mut ingester).await;
    eventually("ready again", PATIENCE, async || {
        ingester.readyz().is_some_and(|(status, _)| status == 200)
    })
    .await;
    assert_eq!(scene.count().await, 11);
    ingester.stop();
}
