//! Hostile records: they need bounded time and memory, and the good records around them become rows.

use testkit::{Record, consume_all};

use crate::support::{Scene, event, generated, structured};

/// The limit of buffered records (16 MiB), the memory of librdkafka and the allocator (64 MiB), and one record of the
/// maximum size (16 MiB) for each of the four writes, which the dead-letter producer holds twice.
const MOST: u64 = (16 + 64 + 4 * 16) << 20;
const MIB: usize = 1 << 20;

fn raw(value: impl Into<Vec<u8>>) -> Record {
    Record { partition: Some(0), value: Some(value.into()), ..Record::default() }
}

/// The example event with this value in an unknown field.
fn with_unknown(name: &str, value: &str) -> Vec<u8> {
    let text = event(name, "1.0.0").to_string();
    format!("{{\"unknown\":{value},{}", &text[1..]).into_bytes()
}

#[tokio::test]
async fn hostile_records_cost_bounded_time_and_memory() {
    let scene = Scene::without_topic("hostile", testkit::postgres().database().await.url);
    scene.make_topic(1, &[("max.message.bytes", "20000000")]).await;
    let deep = |open: &str, close: &str, levels: usize| {
        format!("{}1{}", open.repeat(levels), close.repeat(levels))
    };
    let rejected = [
        raw("[".repeat(10 * MIB)),
        raw("{\"a\":".repeat(2 * MIB)),
        raw(with_unknown("a", &deep("[", "]", MIB))),
        raw(with_unknown("b", &deep("{\"a\":", "}", 200_000))),
        raw(vec![0; 10 * MIB]),
        raw(vec![0xff; 10 * MIB]),
        raw("9".repeat(10 * MIB)),
        raw(format!("\"{}", "\\u0000".repeat(MIB))),
        raw(with_unknown("c", "\"unfinished")),
    ];
    // Unusual, but valid events: unknown fields are ignored, whatever their length.
    let accepted = [
        raw(with_unknown("long-number", &"9".repeat(5 * MIB))),
        raw(with_unknown("long-text", &format!("\"{}\"", "\\ud83d\\ude00".repeat(MIB / 2)))),
        raw(with_unknown("many-keys", &format!("{{{}\"z\":1}}", "\"a\":1,".repeat(MIB)))),
        raw(with_unknown("many-values", &format!("[{}1]", "null,".repeat(MIB)))),
        raw(with_unknown("repeated", &format!("1,{}\"z\":1", "\"unknown\":2,".repeat(300_000)))),
        Record {
            headers: (0..10_000)
                .map(|n| (format!("ce_{n}"), Some(vec![b'x'; 100])))
                .chain([("content-type".to_owned(), Some("application/cloudevents+json".into()))])
                .collect(),
            partition: Some(0),
            ..structured(&event("many-headers", "1.0.0"))
        },
    ];
    let (bad, good) = (rejected.len(), accepted.len());
    for (n, record) in rejected.into_iter().chain(accepted).enumerate() {
        let between = Record { partition: Some(0), ..generated(n, 0) };
        scene.produce([between, record]).await;
    }

    let mut ingester = scene.ingester(&[("INGESTER_LIMITS__MAX_EVENT_BYTES", "16MiB")]);
    scene.caught_up(&mut ingester).await;
    let peak = ingester.daemon.peak_memory().unwrap();
    assert!(peak < MOST, "{} MiB", peak >> 20);
    assert_eq!(scene.count().await, i64::try_from(bad + good + good).unwrap());
    let metrics = ingester.metrics();
    // A number is JSON, but not an event.
    assert_eq!(metrics.get("dead_letters_total{code=\"not_cloudevent\"}"), Some(1.0));
    assert_eq!(metrics.get("dead_letters_total{code=\"not_json\"}"), Some(bad as f64 - 1.0));
    assert_eq!(consume_all(&scene.brokers, &scene.dead_letters).await.len(), bad);
    ingester.stop();
}
