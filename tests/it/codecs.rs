//! Compressed topics: producers choose the codec, and the ingester reads each.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use testkit::Kafka;

use crate::support::{Scene, generated};

/// Kafka's codecs.
const CODECS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];
const EACH: usize = 100;

/// Produces with kcat, whose librdkafka supports every codec, independent of this build.
fn produce(scene: &Scene, codec: &str, values: impl Iterator<Item = Vec<u8>>, settings: &[&str]) {
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", &scene.brokers, "-t", &scene.topic, "-z", codec])
        // Produce all records in one batch, because a batch of one record would not be compressed.
        .args(["-X", "linger.ms=1000", "-H", "content-type=application/cloudevents+json"])
        .args(settings.iter().flat_map(|setting| ["-X", setting]))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = kcat.stdin.take().unwrap();
    for value in values {
        lines.write_all(&value).unwrap();
        lines.write_all(b"\n").unwrap();
    }
    drop(lines);
    assert!(kcat.wait().unwrap().success(), "kcat failed with {codec}");
}

fn value(n: usize) -> Vec<u8> {
    generated(n, 0).value.unwrap()
}

#[tokio::test]
async fn every_codec_is_read() {
    let scene = Scene::new("codecs", 1).await;
    for (n, codec) in CODECS.into_iter().enumerate() {
        produce(&scene, codec, (n * EACH..(n + 1) * EACH).map(value), &[]);
    }
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let all = i64::try_from(CODECS.len() * EACH).unwrap();
    assert_eq!(scene.count().await, all);
    ingester.stop();
}

/// zstd compresses records that resemble each other to less than a hundredth. librdkafka's default limit of a fetched message
/// would refuse such a batch.
#[tokio::test]
async fn a_batch_of_forty_megabytes_in_a_quarter_of_one_is_read() {
    const RECORDS: usize = 36_000;
    const PADDING: usize = 700;
    // A broker of its own, whose log can be measured.
    let kafka = Kafka::start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "large-batch", store);
    scene.make_topic(1, &[]).await;
    // The schema allows unknown fields.
    let padded = (0..RECORDS).map(|n| {
        let text = String::from_utf8(value(n)).unwrap();
        let padding = format!(r#"{{"padding":"{}","#, "x".repeat(PADDING));
        text.replacen('{', &padding, 1).into_bytes()
    });
    let settings = [
        "linger.ms=20000",
        "batch.num.messages=36000",
        "batch.size=200000000",
        "message.max.bytes=200000000",
        "queue.buffering.max.kbytes=400000",
    ];
    produce(&scene, "zstd", padded, &settings);
    let log = kafka.log_folder(&scene.topic, 0).join("00000000000000000000.log");
    let bytes = fs::metadata(log).unwrap().len();
    assert!(bytes < 2_000_000, "the batch is not compressed as a whole: {bytes} bytes");
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, i64::try_from(RECORDS).unwrap());
    ingester.stop();
}
