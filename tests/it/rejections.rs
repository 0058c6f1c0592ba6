//! Records that are not publish events go to the dead-letter topic, complete and once, and block nothing.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use serde_json::json;
use testkit::{ConsumedRecord, Record};

use crate::rejection_cases::{
    ADDRESS, Cases, Expected, MARK, MAX_EVENT_BYTES, REFUSED_VERSION, STAMPED, id,
};
use crate::support::{Row, Scene, event, header, identity, structured, with};

/// The headers that the ingester adds to a record's own, in any order.
const HEADERS: [&str; 10] = [
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "__connect.errors.connector.name",
    "__connect.errors.stage",
    "__connect.errors.exception.message",
    "publication.error.code",
    "publication.error.attempts",
    "publication.error.at",
    "publication.ingester.version",
];

/// Every code of crates/model/README.md, Rejections, with its stage.
const CODES: [(&str, &str); 10] = [
    ("too_large", "VALUE_CONVERTER"),
    ("not_json", "VALUE_CONVERTER"),
    ("not_cloudevent", "VALUE_CONVERTER"),
    ("bad_field", "VALUE_CONVERTER"),
    ("missing_field", "VALUE_CONVERTER"),
    ("wrong_ecosystem", "TRANSFORMATION"),
    ("subject_mismatch", "TRANSFORMATION"),
    ("invalid_time", "TRANSFORMATION"),
    ("future_time", "TRANSFORMATION"),
    ("refused_by_store", "TASK_PUT"),
];

type Position = (i32, i64);

/// The dead letters by the position of their original. Each must occur once.
async fn dead_letters(scene: &Scene) -> BTreeMap<Position, ConsumedRecord> {
    let mut letters = BTreeMap::new();
    for letter in testkit::consume_all(&scene.brokers, &scene.dead_letters).await {
        let number = |name: &str| letter.header(name).expect("the position is in the headers");
        assert_eq!(number("__connect.errors.topic"), scene.topic);
        let partition = number("__connect.errors.partition").parse().expect("a partition");
        let offset = number("__connect.errors.offset").parse().expect("an offset");
        assert!(
            letters.insert((partition, offset), letter).is_none(),
            "twice: {partition}/{offset}"
        );
    }
    letters
}

/// Whether the text is an RFC 3339 time in UTC in this century.
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    text.starts_with("20")
        && (shape == "0000-00-00T00:00:00.000Z" || shape == "0000-00-00T00:00:00Z")
}

/// The differences between a dead letter and the record that it must repeat.
fn faults(scene: &Scene, record: &Record, code: &str, letter: &ConsumedRecord) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |what: &str, holds: bool| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    check("key", letter.key == record.key);
    check("value", letter.value == record.value);
    check("timestamp", letter.timestamp == record.timestamp);
    let (own, added) = letter.headers.split_at(record.headers.len().min(letter.headers.len()));
    check("the record's own headers", own == record.headers);
    let mut names: Vec<&str> = added.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let mut expected = HEADERS;
    expected.sort_unstable();
    check("the names of the headers added", names == expected);
    let text = |name: &str| letter.header(name).unwrap_or_default();
    let found = text("publication.error.code");
    check(&format!("code {found} instead of {code}"), found == code);
    let stage = CODES.iter().find(|(known, _)| *known == code).map_or("", |(_, stage)| stage);
    check("stage", text("__connect.errors.stage") == stage);
    check("group", text("__connect.errors.connector.name") == scene.group);
    check("attempts", text("publication.error.attempts") == "1");
    check("time", is_time(&text("publication.error.at")));
    check("version", text("publication.ingester.version").split('.').count() == 3);
    let message = text("__connect.errors.exception.message");
    check("message", !message.is_empty() && message.len() <= 500);
    for (name, value) in added {
        let value = String::from_utf8_lossy(value.as_deref().unwrap_or_default());
        check(
            &format!("{name} quotes a value: {value}"),
            !value.contains(MARK) && !value.contains(ADDRESS),
        );
    }
    faults
}

/// The differences between a case's row and the expected columns.
fn row_faults(row: Option<&Row>, columns: &[(&str, Option<&str>)]) -> Vec<String> {
    let Some(row) = row else { return vec!["no row".into()] };
    let wrong = columns.iter().filter(|(name, value)| row[*name].as_deref() != *value);
    wrong.map(|(name, value)| format!("{name} is {:?} and not {value:?}", row[*name])).collect()
}

#[tokio::test]
async fn every_record_that_is_no_event_is_a_dead_letter_once() {
    let store = testkit::postgres().database().await.url;
    let scene = Scene::without_topic("rejections", store);
    let limit = (4 * MAX_EVENT_BYTES).to_string();
    scene.make_topic(2, &[("max.message.bytes", &limit), ("retention.ms", "-1")]).await;
    scene.must("migrate", &[]);
    let check = format!("ALTER TABLE publication ADD CHECK (version <> '{REFUSED_VERSION}')");
    scene.execute(&check).await;

    let cases = Cases::all().0;
    let positions = scene.produce(cases.iter().map(|case| case.record.clone())).await;
    let mut ingester = scene.ingester(&[("INGESTER_LOG__FILTER", "debug")]);
    scene.caught_up(&mut ingester).await;

    let letters = dead_letters(&scene).await;
    let rows = scene.rows().await;
    let by_identity: HashMap<&str, &Row> =
        rows.iter().filter_map(|row| Some((row["event_identity"].as_deref()?, row))).collect();
    let mut report = Vec::new();
    let mut codes: BTreeMap<&str, f64> = BTreeMap::new();
    let (mut good, mut skipped) = (0, 0);
    for (number, (case, position)) in cases.iter().zip(&positions).enumerate() {
        let letter = letters.get(position);
        let row = by_identity.get(&*identity("/registry/npm/publish", &id(number))).copied();
        let faults = match &case.expected {
            Expected::Rejected(code) => {
                *codes.entry(code).or_default() += 1.0;
                let mut faults = letter.map_or_else(
                    || vec![format!("no dead letter with {code}")],
                    |letter| faults(&scene, &case.record, code, letter),
                );
                faults.extend(row.map(|_| "a row".to_owned()));
                faults
            }
            Expected::Row(columns) => {
                good += 1;
                let mut faults = row_faults(row, columns);
                let code = letter.and_then(|letter| letter.header("publication.error.code"));
                faults.extend(code.map(|code| format!("a dead letter with {code}")));
                faults
            }
            Expected::Skipped => {
                skipped += 1;
                letter.map(|_| "a dead letter".to_owned()).into_iter().collect()
            }
        };
        report.extend(faults.into_iter().map(|fault| format!("{number}, {}: {fault}", case.what)));
    }
    assert!(report.is_empty(), "{} faults:\n{}", report.len(), report.join("\n"));
    assert_eq!(rows.len(), good);
    let rejected = cases.len() - good - skipped;
    assert_eq!(letters.len(), rejected);

    let metrics = ingester.metrics();
    for (code, _) in CODES {
        let series = format!("dead_letters_total{{code=\"{code}\"}}");
        assert_eq!(metrics.get(&series), Some(codes[code]), "{series}");
    }
    for (outcome, count) in [("inserted", good), ("skipped", skipped), ("dead_lettered", rejected)]
    {
        let series = format!("records_total{{outcome=\"{outcome}\"}}");
        assert_eq!(metrics.get(&series), Some(count as f64), "{series}");
    }
    assert_eq!(metrics.sum("records_total"), cases.len() as f64);
    assert_eq!(metrics.sum("tor_verdicts_total"), metrics.sum("tfa_verdicts_total"));

    let (_, shown) = testkit::http_get(&ingester.admin, "/metrics").unwrap();
    let log = ingester.stop();
    for secret in [ADDRESS, "10.1.2.3", "192.168.1.1", "2405:8100:8000::1", MARK] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "the log quotes {secret}");
        assert!(!shown.contains(secret), "the metrics quote {secret}");
    }
}

#[tokio::test]
async fn a_dead_letter_that_came_back_counts_its_attempts() {
    let scene = Scene::new("attempts", 1).await;
    let mut returned = structured(&with(event("again", "1.0.0"), "/data/revision", json!(-1)));
    returned.headers.push(header("publication.error.attempts", "2"));
    returned.timestamp = Some(STAMPED);
    let positions = scene.produce([returned.clone()]).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let letters = dead_letters(&scene).await;
    let letter = &letters[&positions[0]];
    assert_eq!(letter.header("publication.error.attempts").as_deref(), Some("3"));
    assert_eq!((&letter.key, &letter.value), (&returned.key, &returned.value));
    ingester.stop();
}

/// A record that is surely rejected, with a value that no topic of [`small_dead_letters`] accepts.
fn too_large_for_dead_letters() -> Record {
    // Random data, so that compression does not make it fit.
    let noise: String = (0..400_u32).map(|n| identity("noise", &n.to_string())).collect();
    let event = structured(&event("large", "1.0.0"));
    Record { timestamp: Some(STAMPED), value: Some(noise.into()), ..event }
}

/// Creates a dead-letter topic with a small `max.message.bytes`.
async fn small_dead_letters(scene: &Scene) {
    let config = [("max.message.bytes", "5000"), ("retention.ms", "-1")];
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &config).await;
}

#[tokio::test]
async fn a_value_that_the_dead_letter_topic_refuses_is_left_out() {
    let scene = Scene::new("omitted", 1).await;
    small_dead_letters(&scene).await;
    let large = too_large_for_dead_letters();
    let positions = scene.produce([large.clone(), structured(&event("good", "1.0.0"))]).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;

    let letters = dead_letters(&scene).await;
    assert_eq!(letters.len(), 1);
    let omitted = &letters[&positions[0]];
    assert_eq!(omitted.header("publication.value.omitted").as_deref(), Some("true"));
    let kept = (&omitted.key, &omitted.value, omitted.timestamp);
    assert_eq!(kept, (&large.key, &Some(Vec::new()), large.timestamp), "empty, not null");
    assert_eq!(omitted.headers[..1], large.headers[..]);
    assert_eq!(omitted.header("publication.error.code").as_deref(), Some("not_json"));
    assert_eq!(scene.count().await, 1);
    assert_eq!(ingester.metrics().get("dead_letters_total{code=\"not_json\"}"), Some(1.0));
    ingester.stop();
}

/// A broker checks the compressed size, and keys and headers compress as well as values.
#[tokio::test]
async fn a_key_and_headers_that_the_dead_letter_topic_refuses_are_left_out() {
    let scene = Scene::new("omitted-key", 1).await;
    small_dead_letters(&scene).await;
    let bad = too_large_for_dead_letters();
    let long = vec![b'k'; 20_000];
    let large_key = Record { key: Some(long.clone()), ..bad.clone() };
    let headers = vec![("content-type".to_owned(), Some(long))];
    let large_headers = Record { headers, ..bad };
    let good = structured(&event("good", "1.0.0"));
    let positions = scene.produce([large_key.clone(), large_headers.clone(), good]).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;

    let letters = dead_letters(&scene).await;
    assert_eq!(letters.len(), 2);
    let place = |offset| format!("{}/0/{offset}", scene.topic).into_bytes();
    let kept = [(Some(place(positions[0].1)), "headers"), (large_headers.key.clone(), "key")];
    for ((position, record), (key, kept)) in
        positions.iter().zip([&large_key, &large_headers]).zip(kept)
    {
        let letter = &letters[position];
        for omitted in ["value", "key", "headers"] {
            let name = format!("publication.{omitted}.omitted");
            let expected = (omitted != kept).then(|| "true".to_owned());
            assert_eq!(letter.header(&name), expected, "{name}");
        }
        let seen = (&letter.key, &letter.value, letter.timestamp);
        assert_eq!(seen, (&key, &Some(Vec::new()), record.timestamp));
        assert_eq!(letter.header("content-type").is_some(), kept == "headers");
        assert_eq!(letter.header("publication.error.code").as_deref(), Some("not_json"));
    }
    assert_eq!(scene.count().await, 1);
    ingester.stop();
}

/// A letter has the timestamp of its record. The dead-letter topic may refuse timestamps that the source topic accepts.
#[tokio::test]
async fn a_time_that_the_dead_letter_topic_refuses_is_kept_in_a_header() {
    let scene = Scene::without_topic("ahead", testkit::postgres().database().await.url);
    let any_time = [("message.timestamp.after.max.ms", "9223372036854775807")];
    scene.make_topic(1, &any_time).await;
    let strict = [("message.timestamp.after.max.ms", "3600000"), ("retention.ms", "-1")];
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &strict).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ahead = i64::try_from(now.as_millis()).unwrap() + 2 * 3_600_000;
    let bad = structured(&event("bad", "1.0.0"));
    let bad = Record { timestamp: Some(ahead), value: Some("{".into()), ..bad };
    let positions = scene.produce([bad.clone(), structured(&event("good", "1.0.0"))]).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let letter = &dead_letters(&scene).await[&positions[0]];
    assert_eq!(letter.header("publication.record.timestamp"), Some(ahead.to_string()));
    assert!(letter.timestamp.unwrap() < ahead);
    assert_eq!((&letter.value, &letter.key), (&bad.value, &bad.key), "nothing else is lost");
    assert_eq!(letter.headers[..1], bad.headers[..]);
    assert_eq!(scene.count().await, 1);
    ingester.stop();
}

/// The broker refuses a letter that does not fit into a segment.
#[tokio::test]
async fn a_letter_that_no_segment_holds_goes_without_its_value() {
    let scene = Scene::without_topic("segment", testkit::postgres().database().await.url);
    let wide = [("max.message.bytes", "3000000"), ("retention.ms", "-1")];
    scene.make_topic(1, &wide).await;
    let narrow = [wide[0], wide[1], ("segment.bytes", "1048576")];
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &narrow).await;
    let checked = scene.ask("check", &["--json"], &[]);
    assert!(checked.log.contains("dead_letters.segment"), "{}", checked.log);
    let large = with(event("large", "1.0.0"), "/data/padding", json!("x".repeat(1_500_000)));
    let large = structured(&large);
    let positions = scene.produce([large, structured(&event("good", "1.0.0"))]).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let letter = &dead_letters(&scene).await[&positions[0]];
    assert_eq!(letter.header("publication.value.omitted").as_deref(), Some("true"));
    assert_eq!(letter.header("publication.key.omitted"), None);
    assert_eq!(letter.header("publication.error.code").as_deref(), Some("too_large"));
    assert_eq!(scene.count().await, 1);
    ingester.stop();
    // The original is still at the position in the letter, and is redriven from there.
    let room = [("INGESTER_LIMITS__MAX_EVENT_BYTES", "2MiB")];
    let listed = scene.ask("dead-letters", &["list"], &room);
    assert_eq!(listed.last("dead_letters")["to_redrive"], 1, "{}", listed.log);
    let redriven = scene.ask("dead-letters", &["redrive"], &room);
    assert_eq!((redriven.code, scene.count().await), (Some(0), 2), "{}", redriven.log);
    // When the original is deleted, that is reported.
    testkit::delete_records(&scene.brokers, &scene.topic, 0, positions[1].1).await;
    let foretold = scene.ask("dead-letters", &["redrive", "--dry-run"], &room);
    assert_eq!(foretold.code, Some(1), "{}", foretold.log);
    assert_eq!(foretold.last("dry_run")["left_out"], json!({"original_gone": 1}));
    let redriven = scene.ask("dead-letters", &["redrive"], &room);
    assert_eq!(redriven.code, Some(1), "{}", redriven.log);
    assert_eq!(redriven.last("done")["left_out"], json!({"original_gone": 1}));
    assert!(redriven.log.contains(&format!("{}/0/0", scene.topic)), "{}", redriven.log);
}

#[tokio::test]
async fn a_record_without_a_key_is_a_letter_with_its_place_as_key_on_a_compacted_topic() {
    let scene = Scene::new("compacted", 1).await;
    let compacted = [("cleanup.policy", "compact"), ("retention.ms", "-1")];
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &compacted).await;
    let bad = Record { value: Some("{".into()), timestamp: Some(STAMPED), ..Record::default() };
    let keyed = Record { key: Some("k".into()), ..bad.clone() };
    let good = structured(&event("good", "1.0.0"));
    let positions = scene.produce([bad.clone(), keyed.clone(), good]).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let letters = dead_letters(&scene).await;
    let letter = &letters[&positions[0]];
    assert_eq!(letter.key, Some(format!("{}/0/0", scene.topic).into_bytes()));
    assert_eq!((&letter.value, letter.timestamp), (&bad.value, bad.timestamp));
    assert_eq!(letter.header("publication.key.omitted").as_deref(), Some("true"));
    assert_eq!(faults(&scene, &keyed, "not_json", &letters[&positions[1]]), [""; 0]);
    assert_eq!(scene.count().await, 1);
    ingester.stop();
}

/// librdkafka cannot send the timestamp 0, but Java clients can.
#[tokio::test]
async fn a_record_of_1970_is_a_letter_that_says_so() {
    let scene = Scene::without_topic("epoch", testkit::postgres().database().await.url);
    scene.make_topic(1, &[("retention.ms", "-1")]).await;
    testkit::produce_in_1970(&scene.brokers, &scene.topic);
    let read = testkit::consume_all(&scene.brokers, &scene.topic).await;
    assert_eq!(read[0].timestamp, Some(0));
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let letter = &dead_letters(&scene).await[&(0, 0)];
    assert_eq!(letter.header("publication.record.timestamp").as_deref(), Some("0"));
    assert_eq!(letter.value, read[0].value);
    assert!(letter.timestamp.unwrap() > STAMPED);
    ingester.stop();
}

/// A refusal by the whole topic is not a fault of a record: everything waits, and the reason is reported.
#[tokio::test]
async fn a_topic_that_refuses_every_letter_pauses_with_the_reason() {
    let scene = Scene::new("refuses-all", 1).await;
    let nothing = [("max.message.bytes", "100"), ("retention.ms", "-1")];
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &nothing).await;
    scene.produce([Record { value: Some("{".into()), ..Record::default() }]).await;
    let mut ingester = scene.start_ingester(&[]);
    let (status, answer) = ingester.shows("paused").await;
    assert_eq!(status, 503);
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("refuses every dead letter"), "{reason}");
    assert_eq!(scene.lag().await, 1, "nothing moves");
    ingester.stop();
}

/// The broker refuses batches, not records. Records that were in a batch with a large one, or are too large only
/// together, must still arrive complete.
#[tokio::test]
async fn only_the_value_that_is_too_large_is_left_out() {
    let scene = Scene::new("neighbours", 1).await;
    small_dead_letters(&scene).await;
    let large = too_large_for_dead_letters();
    let small = |n: u32| {
        let noise: String = (0..40).map(|m| identity(&n.to_string(), &m.to_string())).collect();
        Record { value: Some(noise.into()), ..large.clone() }
    };
    let records: Vec<Record> =
        (0..10).map(small).chain([large.clone()]).chain((10..20).map(small)).collect();
    let positions = scene.produce(records.clone()).await;
    scene.ingest(&[]).await;

    let letters = dead_letters(&scene).await;
    assert_eq!(letters.len(), records.len());
    let whole = |position: &&Position| {
        letters[*position].value.as_ref().is_some_and(|value| !value.is_empty())
    };
    assert_eq!(positions.iter().filter(whole).count(), records.len() - 1);
    for (record, position) in
        records.iter().zip(&positions).filter(|(record, _)| record.value != large.value)
    {
        assert_eq!(faults(&scene, record, "not_json", &letters[position]), [""; 0]);
    }
}
