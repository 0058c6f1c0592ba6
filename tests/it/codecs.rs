//! Compressed topics: producers choose the codec, and the ingester reads each.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Scene, generated};

/// Kafka's codecs.
const CODECS: [&str; 4] = ["gzip", "snappy", "lz4", "zstd"];
const EACH: usize = 100;

/// Produces with kcat, whose librdkafka supports every codec, independent of this build.
fn produce(scene: &Scene, codec: &str, records: std::ops::Range<usize>) {
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", &scene.brokers, "-t", &scene.topic, "-z", codec])
        // Produce all records in one batch, because a batch of one record would not be compressed.
        .args(["-X", "linger.ms=1000", "-H", "content-type=application/cloudevents+json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = kcat.stdin.take().unwrap();
    for n in records {
        lines.write_all(&generated(n, 0).value.unwrap()).unwrap();
        lines.write_all(b"\n").unwrap();
    }
    drop(lines);
    assert!(kcat.wait().unwrap().success(), "kcat failed with {codec}");
}

#[tokio::test]
async fn every_codec_is_read() {
    let scene = Scene::new("codecs", 1).await;
    for (n, codec) in CODECS.into_iter().enumerate() {
        produce(&scene, codec, n * EACH..(n + 1) * EACH);
    }
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let all = i64::try_from(CODECS.len() * EACH).unwrap();
    assert_eq!(scene.count().await, all);
    ingester.stop();
}
