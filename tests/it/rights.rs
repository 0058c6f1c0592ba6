//! Rights that are missing or taken away: said with who and what, and used again as soon as they are back.

use testkit::{Kafka, Record, acls, eventually};

use crate::support::{PATIENCE, Scene, generated};

async fn scene(kafka: &Kafka, name: &str) -> Scene {
    let store = testkit::postgres().database().await.url;
    let scene = Scene { brokers: kafka.brokers(), ..Scene::without_topic(name, store) };
    scene.make_topic(1, &[]).await;
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &[("retention.ms", "-1")]).await;
    scene
}

/// Who has one right has no other any more.
fn allow(scene: &Scene, topic: &str, operations: &[&str]) {
    let mut arguments = vec!["--add", "--allow-principal", "User:*", "--topic", topic];
    for operation in operations {
        arguments.extend(["--operation", operation]);
    }
    acls(&scene.brokers, &arguments);
}

#[tokio::test]
async fn rights_that_come_back_are_used_without_a_restart() {
    let kafka = Kafka::builder()
        .property(
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        )
        .property("allow.everyone.if.no.acl.found", true)
        .start();
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

    // The right to read, in mid-run.
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
