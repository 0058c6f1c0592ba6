//! Lost records are logged and counted, and the remaining ones are read: retention, recreated topics, new partitions,
//! deleted offsets.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use testkit::{Kafka, Record, eventually};

use crate::positions::{has_rows, records, stopped_at_gap};
use crate::replay::{Answer, SLOW, job_of, json_lines};
use crate::runbook::Shell;
use crate::settling::ANY_AGE;
use crate::support::{PATIENCE, Running, Scene, generated, write_snapshot};

fn gap(running: &Running) -> f64 {
    running.metrics().get("offset_gap_records_total").unwrap()
}

#[tokio::test]
async fn retention_that_passed_the_position_is_a_gap() {
    let scene = Scene::new("retention", 2).await;
    scene.produce(records(0..1_000)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(gap(&ingester), 0.0);
    ingester.stop();
    scene.produce(records(1_000..1_500)).await;
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 1_200).await;

    // With `on_gap = "stop"`, every start stops at the gap.
    for _ in 0..2 {
        let log = stopped_at_gap(&scene);
        assert!(log.contains("offsets 1000 to 1199"), "{log}");
        assert!(log.contains(&format!("partition 0 of {}", scene.topic)), "{log}");
    }
    assert_eq!(scene.count().await, 1_000);

    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 1_300);
    assert_eq!(gap(&ingester), 200.0);
    assert_eq!(ingester.metrics().sum("records_total"), 300.0);
    assert!(ingester.stop().contains("the broker deleted records before they were read"));
}

#[tokio::test]
async fn a_gap_at_the_end_of_the_log_is_lost_once() {
    let scene = Scene::new("emptied", 1).await;
    scene.produce(records(0..100)).await;
    scene.ingest(&[]).await;
    scene.produce(records(100..150)).await;
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 150).await;

    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(gap(&ingester), 50.0);
    ingester.stop();
    let mut ingester = scene.ingester(&[]);
    scene.produce(records(150..151)).await;
    has_rows(&scene, &mut ingester, 101).await;
    assert_eq!(gap(&ingester), 0.0, "it was said");
    ingester.stop();
}

#[tokio::test]
async fn retention_that_passes_a_running_ingester_is_a_gap() {
    let scene = Scene::new("overtaken", 1).await;
    scene.produce(records(0..100)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    ingester.daemon.pause();
    scene.produce(records(100..2_100)).await;
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 2_000).await;
    ingester.daemon.resume();
    scene.caught_up(&mut ingester).await;
    // A fetch in progress may still deliver records. The others are counted; every record is one or the other.
    let lost = gap(&ingester);
    assert!(lost > 0.0);
    assert_eq!(scene.count().await as f64 + lost, 2_100.0);
    ingester.stop();
}

#[tokio::test]
async fn a_topic_that_is_created_again_is_read_from_its_first_record() {
    let scene = Scene::new("again", 1).await;
    scene.produce(records(0..100)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;

    // More records than in the old topic: the old position lies within the new log, but has no meaning there.
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(1, &[]).await;
    scene.produce(records(1_000..1_300)).await;
    has_rows(&scene, &mut ingester, 400).await;
    scene.caught_up(&mut ingester).await;
    assert!(ingester.stop().contains("created again"));

    // Again, while no ingester runs, and with fewer records.
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(1, &[]).await;
    scene.produce(records(2_000..2_050)).await;
    let mut ingester = scene.ingester(&[]);
    has_rows(&scene, &mut ingester, 450).await;
    scene.caught_up(&mut ingester).await;
    assert!(ingester.stop().contains("the group has read another topic before"));
}

/// A restarted broker raises the leader epoch of its partitions. The epoch of a new topic begins with 0.
#[tokio::test]
async fn a_topic_that_is_created_again_after_a_restart_of_its_broker_is_read() {
    let mut kafka = Kafka::start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "epoch", store);
    scene.make_topic(1, &[]).await;
    scene.produce(records(0..100)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    for round in 1..3 {
        kafka.kill();
        kafka.start_again();
        scene.produce(records(round * 1_000..round * 1_000 + 10)).await;
        scene.caught_up(&mut ingester).await;
    }
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(1, &[]).await;
    scene.produce(records(5_000..5_050)).await;
    has_rows(&scene, &mut ingester, 170).await;
    scene.caught_up(&mut ingester).await;
    ingester.stop();
}

/// The client of a replay reads nothing of a topic that was created again, and its offsets belong to the old log.
#[tokio::test]
async fn a_topic_that_is_created_again_under_a_replay_ends_it() {
    let mut kafka = Kafka::start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "again-replay", store);
    scene.make_topic(1, &[]).await;
    scene.produce(records(0..5_000)).await;
    kafka.kill();
    kafka.start_again();
    scene.produce(records(5_000..5_010)).await;
    scene.must("migrate", &[]);
    let mut running = scene.start("replay", &["--from", "0", "--rate", "200"], &SLOW);
    job_of(&mut running).await;
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(1, &[]).await;
    scene.produce(records(6_000..6_050)).await;
    let answer = Answer::of(running);
    assert_eq!(answer.code, Some(1), "{}", answer.log);
    // The second message comes if the client asked while the topic did not exist.
    let is_named = ["created again", "UnknownTopic"].iter().any(|word| answer.log.contains(word));
    assert!(is_named, "{}", answer.log);
    assert_eq!(scene.must("replay", &["list"]).last("job")["state"], "failed");
}

/// Replaces the content of a folder by that of another.
fn replace(folder: &Path, by: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    fs::create_dir(folder).unwrap();
    for file in fs::read_dir(by).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
}

/// As after an unclean election, or a power loss that truncated the log: the log ends before the position, new records
/// replace the lost ones, and the position lies within the log again.
#[tokio::test]
async fn a_log_that_was_cut_and_grew_again_is_read_from_the_cut() {
    let mut kafka = Kafka::start();
    let scene = Scene::on(kafka.brokers(), "cut", testkit::postgres().database().await.url);
    scene.make_topic(1, &[]).await;
    scene.produce(records(0..100)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let (log, kept) = (kafka.log_folder(&scene.topic, 0), scene.directory.path().join("kept"));
    kafka.stop();
    replace(&kept, &log);
    kafka.start_again();
    scene.produce(records(100..300)).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 300);
    ingester.stop();
    kafka.stop();
    replace(&log, &kept);
    kafka.start_again();
    scene.produce(records(1_000..1_400)).await;

    for _ in 0..2 {
        let log = stopped_at_gap(&scene);
        assert!(log.contains("offsets 100 to 299"), "{log}");
    }
    let mut ingester = scene.ingester(&[]);
    has_rows(&scene, &mut ingester, 700).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(gap(&ingester), 200.0);
    assert!(ingester.stop().contains("continues from the cut"));
    // The truncation is detected once: the next start reports nothing.
    let mut ingester = scene.ingester(&[]);
    scene.produce(records(1_400..1_401)).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(gap(&ingester), 0.0);
    ingester.stop();
}

/// The broker lost dead letters that it had acknowledged, together with the producer's sequence numbers (out of order
/// sequence number). The loss cannot be detected; later letters must arrive.
#[tokio::test]
async fn letters_that_the_broker_lost_keep_no_later_ones_back() {
    let mut kafka = Kafka::start();
    let scene = Scene::on(kafka.brokers(), "lost", testkit::postgres().database().await.url);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[]);
    // Letters for one partition, each in its own batch.
    let letter = async |n: usize, ingester: &mut Running| {
        let headers = vec![(n.to_string(), None)];
        let (key, value) = (Some("bad".into()), Some("{".into()));
        scene.produce([Record { key, value, headers, ..Record::default() }]).await;
        scene.caught_up(ingester).await;
    };
    // A letter may arrive twice when its offset was not committed before the broker stopped.
    let letters = async || {
        let letters = testkit::consume_all(&scene.brokers, &scene.dead_letters).await;
        let number = |(name, _): &(String, _)| name.parse().ok();
        let numbers = letters.iter().filter_map(|letter| letter.headers.iter().find_map(number));
        (numbers.collect::<BTreeSet<usize>>(), letters[0].partition)
    };
    letter(0, &mut ingester).await;
    let log = kafka.log_folder(&scene.dead_letters, letters().await.1);
    let kept = scene.directory.path().join("kept");
    kafka.stop();
    replace(&kept, &log);
    kafka.start_again();
    for n in 1..5 {
        letter(n, &mut ingester).await;
    }
    assert_eq!(letters().await.0, (0..5).collect());
    kafka.stop();
    replace(&log, &kept);
    kafka.start_again();
    letter(5, &mut ingester).await;
    letter(6, &mut ingester).await;
    assert_eq!(letters().await.0, [0, 5, 6].into());
    ingester.shows("ready").await;
    let log = ingester.stop();
    assert!(log.contains("OutOfOrderSequenceNumber"), "{log}");
}

/// A power loss: the broker is killed, and the end of its log file is lost.
fn lose_end_of_log(kafka: &mut Kafka, scene: &Scene) {
    let log = kafka.log_folder(&scene.topic, 0).join("00000000000000000000.log");
    kafka.kill();
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes - bytes / 3).unwrap();
    kafka.start_again();
}

/// A power loss, and then new records. Returns the offset of the first of them, which is the first lost offset.
async fn power_loss(kafka: &mut Kafka, scene: &Scene, numbers: std::ops::Range<usize>) -> i64 {
    lose_end_of_log(kafka, scene);
    scene.produce(records(numbers)).await[0].1
}

#[tokio::test]
async fn a_power_loss_that_takes_the_logs_last_records_is_seen() {
    for on_gap in ["continue", "stop"] {
        let mut kafka = Kafka::start();
        let scene = Scene::on(kafka.brokers(), "power", testkit::postgres().database().await.url);
        scene.make_topic(1, &[]).await;
        let environment = [("INGESTER_KAFKA__ON_GAP", on_gap)];
        let mut ingester = scene.ingester(&environment);
        for n in 0..10 {
            scene.produce(records(n * 10..(n + 1) * 10)).await;
        }
        scene.caught_up(&mut ingester).await;
        // While the ingester runs. More new records than lost ones, so that its position lies within the log again.
        let first = power_loss(&mut kafka, &scene, 1_000..1_200).await;
        assert!((10..100).contains(&first), "{first}");
        if on_gap == "stop" {
            let words = format!("offsets {first} to 99");
            for _ in 0..2 {
                let status = ingester.daemon.wait_exit(PATIENCE);
                let log = ingester.daemon.log();
                assert!(status.code() == Some(65) && log.contains(&words), "{status}: {log}");
                ingester = scene.start_ingester(&environment);
            }
            ingester.daemon.wait_exit(PATIENCE);
            ingester = scene.ingester(&[]);
        }
        has_rows(&scene, &mut ingester, 300).await;
        scene.caught_up(&mut ingester).await;
        assert_eq!(gap(&ingester), (100 - first) as f64);
        assert!(ingester.stop().contains("continues from the cut"));
        if on_gap == "stop" {
            continue;
        }
        // While the ingester is stopped.
        let end = first + 200;
        let first = power_loss(&mut kafka, &scene, 2_000..2_300).await;
        assert!(first < end, "{first}");
        let mut ingester = scene.ingester(&[]);
        has_rows(&scene, &mut ingester, 600).await;
        scene.caught_up(&mut ingester).await;
        assert_eq!(gap(&ingester), (end - first) as f64);
        ingester.stop();
    }
}

/// A byte on the broker's disk is corrupted: the batch with it is named in the log, counted and skipped.
#[tokio::test]
async fn a_damaged_batch_is_a_gap() {
    let mut kafka = Kafka::start();
    let scene = Scene::on(kafka.brokers(), "damaged", testkit::postgres().database().await.url);
    scene.make_topic(1, &[]).await;
    for n in 0..3 {
        scene.produce(records(n * 100..(n + 1) * 100)).await;
    }
    kafka.stop();
    let log = kafka.log_folder(&scene.topic, 0).join("00000000000000000000.log");
    let mut bytes = fs::read(&log).unwrap();
    let mark = b"package-150\"";
    let place = bytes.windows(mark.len()).position(|some| some == mark).unwrap();
    bytes[place] = b'P';
    fs::write(&log, bytes).unwrap();
    kafka.start_again();

    let log = stopped_at_gap(&scene);
    assert!(log.contains(&format!("partition 0 of {}", scene.topic)), "{log}");
    assert!(scene.count().await < 150, "nothing behind the gap is read");
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let lost = gap(&ingester);
    assert!((1.0..=100.0).contains(&lost), "{lost}");
    assert_eq!(scene.count().await as f64 + lost, 300.0);
    let log = ingester.stop();
    let shell = Shell::new(&scene).journal(&scene, &log);
    shell.shows("PublicationRecordsLost", &["damaged on the broker's disk"]);
    // Replays, reconcile and settling skip the batch too. What of it is in the range is said.
    let replayed = scene.ask("replay", &["--from", "earliest", "--until", "latest"], &[]);
    assert_eq!(replayed.code, Some(1), "{}", replayed.log);
    assert_eq!(replayed.last("done")["left_out"]["gone"].as_f64(), Some(lost));
    assert_eq!(scene.count().await as f64 + lost, 300.0);
    let reconciled = scene.ask("reconcile", &["--from", "earliest"], &[]);
    assert_eq!(reconciled.code, Some(1), "{}", reconciled.log);
    let reconciled = reconciled.last("reconciled");
    assert_eq!(reconciled["records"].as_f64(), Some(300.0 - lost));
    assert_eq!(
        (reconciled["gone"].as_f64(), reconciled["missing"].as_f64()),
        (Some(lost), Some(0.0))
    );
    let part = scene.ask("reconcile", &["--from", "150", "--until", "160"], &[]);
    assert_eq!(part.last("reconciled")["gone"], 11, "{}", part.log);
    let lists = scene.directory.path();
    write_snapshot(lists, "2024-03-04-23-00-00", &[]);
    write_snapshot(lists, "2024-03-06-23-00-00", &[]);
    let environment = [("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap()), ANY_AGE];
    let ingester = scene.ingester(&environment);
    eventually("the rows to settle", PATIENCE, async || {
        scene.number("SELECT count(*) FROM publication WHERE NOT tor_settled").await == 0
    })
    .await;
    assert_eq!(scene.count().await as f64 + lost, 300.0);
    ingester.stop();
}

#[tokio::test]
async fn new_partitions_are_read_from_the_first_record_and_for_offsets_that_are_gone_the_account_counts()
 {
    let scene = Scene::new("offsets", 1).await;
    scene.produce(records(0..100)).await;
    let refresh = [("INGESTER_KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS", "500")];
    let mut ingester = scene.ingester(&refresh);
    scene.caught_up(&mut ingester).await;
    testkit::add_partitions(&scene.brokers, &scene.topic, 3).await;
    let more = (100..200).map(|n| Record { partition: Some(2), ..generated(n, 0) });
    scene.produce(more).await;
    has_rows(&scene, &mut ingester, 200).await;
    scene.caught_up(&mut ingester).await;
    ingester.stop();

    testkit::delete_group(&scene.brokers, &scene.group).await;
    scene.produce(records(200..210)).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 210);
    let metrics = ingester.metrics();
    assert_eq!(metrics.sum("records_total"), 10.0);
    assert_eq!(metrics.get("offset_gap_records_total"), Some(0.0));
    assert!(ingester.stop().contains("the group has no committed offset: reading where"));
}

#[tokio::test]
async fn when_everything_is_rejected_reading_stops_until_a_restart() {
    let scene = Scene::new("limit", 1).await;
    let poison = |n| Record {
        partition: Some(0),
        value: Some(format!("no event {n}").into()),
        ..Record::default()
    };
    scene.produce(records(0..10)).await;
    scene.produce((0..500).map(poison)).await;
    scene.produce(records(10..20)).await;
    let limit = [("INGESTER_REJECT__MAX_CONSECUTIVE", "50")];
    let mut ingester = scene.start_ingester(&limit);
    let (status, answer) = ingester.shows("paused").await;
    assert_eq!(status, 503);
    assert!(answer["reason"].as_str().unwrap().contains("reject.max_consecutive"), "{answer}");
    // Ten good records and fifty rejections are finished and committed; the others wait.
    eventually("the commit", PATIENCE, async || scene.lag().await == 460).await;
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len(), 50);
    assert_eq!(ingester.metrics().get("paused"), Some(1.0));
    assert_eq!(testkit::http_get(&ingester.admin, "/livez").unwrap().0, 200);
    // The ingester does not end by itself, and SIGTERM still works.
    assert!(ingester.daemon.is_running());
    ingester.stop();

    let mut ingester = scene.start_ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 20);
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len(), 500);
    ingester.stop();
}

/// A power loss during a replay: the remaining records are read, and the lost part of the range is named.
#[tokio::test]
async fn a_power_loss_under_a_replay_is_counted_and_named() {
    let mut kafka = Kafka::start();
    let scene =
        Scene::on(kafka.brokers(), "power-replay", testkit::postgres().database().await.url);
    scene.make_topic(1, &[]).await;
    for n in 0..16 {
        scene.produce(records(n * 1_000..(n + 1) * 1_000)).await;
    }
    scene.must("migrate", &[]);
    let environment = [SLOW[0], SLOW[1], ("INGESTER_LIMITS__MAX_BUFFERED_BYTES", "8MiB")];
    let mut running = scene.start("replay", &["--from", "0", "--rate", "700"], &environment);
    job_of(&mut running).await;
    lose_end_of_log(&mut kafka, &scene);
    // What was fetched before is read by now. The rest of the log, and its end, wait in the client's queue for the rate.
    eventually("the rest of the log to be fetched", PATIENCE, async || {
        let read = |line: &Value| line["progress"]["read"].as_u64() > Some(8_100);
        json_lines(&running.log()).iter().any(read)
    })
    .await;
    let first = scene.produce(records(20_000..20_001)).await[0].1;
    assert!((8_000..15_999).contains(&first), "{first}");

    let answer = Answer::of(running);
    assert_eq!(answer.code, Some(1), "{}", answer.log);
    let gone = answer.last("done")["left_out"]["gone"].as_i64().unwrap();
    // One record was produced after the loss.
    assert_eq!((scene.count().await, gone), (first + 1, 16_000 - first - 1), "{}", answer.log);
    assert!(answer.log.contains("the log was cut"), "{}", answer.log);
}
