//! The dead-letter commands for operators: list, show, correct, redrive, export.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use testkit::Record;

use crate::replay::Answer;
use crate::support::{PATIENCE, Scene, event, example, header, structured, with};

const ADDRESS: &str = "71.160.223.45";
/// A limit under which the large events are too large.
const STRICT: [(&str, &str); 1] = [("INGESTER_LIMITS__MAX_EVENT_BYTES", "2KiB")];

/// A thousand records that are rejected under [`STRICT`]: 300 too large, 400 not JSON, 300 of another registry.
fn letters() -> Vec<Record> {
    let large = |n: usize| {
        let event = event(&format!("large-{n}"), "1.0.0");
        structured(&with(event, "/data/request/userAgent", json!("x".repeat(3_000))))
    };
    let broken = |n: usize| Record {
        value: Some(format!(r#"{{"n":{n},"ip":"{ADDRESS}"#).into()),
        ..Record::default()
    };
    let foreign = |n: usize| {
        structured(&with(event(&format!("f{n}"), "1"), "/data/package/ecosystem", json!("pypi")))
    };
    (0..300).map(large).chain((0..400).map(broken)).chain((0..300).map(foreign)).collect()
}

/// The groups of dead letters by code.
fn groups(answer: &Answer) -> BTreeMap<String, Value> {
    assert_eq!(answer.code, Some(0), "{}", answer.log);
    let groups = answer.lines.iter().filter_map(|line| line.get("dead_letters"));
    groups.map(|group| (group["code"].as_str().unwrap().to_owned(), group.clone())).collect()
}

fn counts(group: &Value) -> [u64; 4] {
    ["letters", "still_bad", "to_redrive", "done"].map(|name| group[name].as_u64().unwrap())
}

#[tokio::test]
async fn what_a_configuration_mends_is_redriven_and_the_rest_stays() {
    let scene = Scene::new("letters", 3).await;
    scene.produce(letters()).await;
    // A record that was redriven before and is still invalid.
    let mut round =
        structured(&with(event("round", "1"), "/data/package/ecosystem", json!("pypi")));
    round.headers.push(header("publication.error.attempts", "4"));
    scene.produce([round, structured(&event("good", "1.0.0"))]).await;
    scene.ingest(&STRICT).await;
    assert_eq!(scene.count().await, 1);

    let listed = groups(&scene.ask("dead-letters", &["list"], &STRICT));
    assert_eq!(counts(&listed["too_large"]), [300, 300, 0, 0]);
    assert_eq!(counts(&listed["not_json"]), [400, 400, 0, 0]);
    assert_eq!(counts(&listed["wrong_ecosystem"]), [301, 301, 0, 0]);
    let times = ["first", "last"].map(|name| listed["not_json"][name].as_str().unwrap().to_owned());
    assert!(times[0] <= times[1] && times[0].starts_with("20"), "{times:?}");

    // Raise the limit again to the default.
    let listed = groups(&scene.must("dead-letters", &["list"]));
    assert_eq!(counts(&listed["too_large"]), [300, 0, 300, 0]);
    let foretold = scene.must("dead-letters", &["redrive", "--dry-run"]).last("dry_run");
    assert_eq!((&foretold["inserted"], &foretold["updated"]), (&json!(300), &json!(0)));
    assert_eq!(foretold["left_out"], json!({"max_attempts": 1}));
    let text = scene.must("dead-letters", &["redrive", "--dry-run", "--output", "text"]).log;
    assert!(text.contains("1 left out: max_attempts"), "{text}");
    let end = scene.lag().await;
    let mut ended = Vec::new();
    for round in 0..2 {
        let done =
            scene.must("dead-letters", &["redrive", "--reason", "a raised limit"]).last("done");
        let inserted = if round == 0 { [300, 0] } else { [0, 300] };
        let counts = &done["counts"];
        assert_eq!(json!([counts["inserted"], counts["unchanged"]]), json!(inserted), "{done}");
        assert_eq!(counts["rejected"], json!({"not_json": 400, "wrong_ecosystem": 300}));
        assert_eq!(done["left_out"], json!({"max_attempts": 1}));
        assert_eq!(scene.count().await, 301);
        ended.push(scene.rows().await);
    }
    assert!(ended[0] == ended[1], "twice in a row the same");
    assert_eq!(scene.lag().await, end, "nothing is committed");
    let all = testkit::consume_all(&scene.brokers, &scene.dead_letters).await;
    assert_eq!(all.len(), 1_001, "what is still bad stays and is not sent again");
    let listed = groups(&scene.must("dead-letters", &["list"]));
    assert_eq!(counts(&listed["too_large"]), [300, 0, 0, 300], "what was redriven is done");
    assert_eq!(counts(&listed["not_json"]), [400, 400, 0, 0]);
    let of_code =
        groups(&scene.must("dead-letters", &["list", "--code", "not_json", "--since", "1h"]));
    assert_eq!(of_code.len(), 1);
    assert!(groups(&scene.must("dead-letters", &["list", "--until", "1h"])).is_empty());
    let job = scene.must("replay", &["list"]).last("job");
    assert_eq!((&job["reason"], &job["state"]), (&json!("a raised limit"), &json!("done")));
}

#[tokio::test]
async fn letters_of_a_partition_and_of_a_time_are_redriven_alone() {
    let scene = Scene::new("letters-selected", 3).await;
    testkit::topic(&scene.brokers, &scene.dead_letters, 2, &[]).await;
    scene.produce(letters().into_iter().take(300)).await;
    scene.ingest(&STRICT).await;
    let all = testkit::consume_all(&scene.brokers, &scene.dead_letters).await;
    let of_first = all.iter().filter(|letter| letter.partition == 0).count();
    assert!(of_first > 0 && of_first < 300, "{of_first} of {}", all.len());
    let inserted = |selection: &[&str]| {
        let command = [&["redrive", "--dry-run"], selection].concat();
        scene.must("dead-letters", &command).last("dry_run")["inserted"].clone()
    };
    assert_eq!(inserted(&["--partition", "0"]), json!(of_first));
    assert_eq!(inserted(&["--since", "1h"]), json!(300));
    assert_eq!(inserted(&["--until", "1h"]), json!(0));
    scene.must("dead-letters", &["redrive", "--partition", "0", "--since", "1h"]);
    assert_eq!(usize::try_from(scene.count().await), Ok(of_first));
    scene.must("dead-letters", &["redrive"]);
    assert_eq!(scene.count().await, 300);
}

#[tokio::test]
async fn letters_are_shown_without_addresses_and_exported_whole_only_when_told() {
    let scene = Scene::new("letters-shown", 1).await;
    let mut late = event("late", "1.0.0");
    late["data"]["package"]["version"] = json!(null);
    // As SDKs write data that they hold as bytes, with the address wherever a producer may put it.
    let mut encoded = event("encoded", "1.0.0");
    let data =
        BASE64_STANDARD.encode(with(example(), "/data/package", json!(1))["data"].to_string());
    encoded["data_base64"] = json!(data);
    encoded.as_object_mut().unwrap().remove("data");
    let encoded = Record {
        key: Some(format!("client:{ADDRESS}").into()),
        headers: vec![header("x-client", &format!("node{ADDRESS}")), header(ADDRESS, "1")],
        ..structured(&encoded)
    };
    let some = letters().into_iter().skip(299).take(3);
    scene.produce(some.chain([structured(&late), encoded])).await;
    scene.ingest(&STRICT).await;
    let show = |offset: &str| scene.must("dead-letters", &["show", "0", offset]);
    for offset in ["0", "1", "2", "3", "4"] {
        let shown = show(offset);
        assert!(!shown.log.contains(ADDRESS) && shown.log.contains("[address]"), "{}", shown.log);
        assert!(!shown.log.contains(&data), "{}", shown.log);
    }
    let letters = testkit::consume_all(&scene.brokers, &scene.dead_letters).await;
    let (number, missing) = letters
        .iter()
        .enumerate()
        .find(|(_, letter)| letter.header("publication.error.code").unwrap() == "missing_field")
        .unwrap();
    let shown = show(&number.to_string()).last("letter");
    assert_eq!(shown["code"], "missing_field");
    assert_eq!(shown["attempts"], 1);
    assert_eq!(json!(missing.header("__connect.errors.exception.message")), shown["message"]);
    assert_eq!(shown["origin"], format!("{}/0/3", scene.topic));
    let none = scene.ask("dead-letters", &["show", "0", "99"], &[]);
    assert!(
        none.code == Some(1) && none.log.contains("there is no dead letter 0 99"),
        "{}",
        none.log
    );

    let file = scene.directory.path().join("letters.ndjson");
    let path = file.to_str().unwrap();
    scene.must("dead-letters", &["export", "--file", path]);
    let masked = std::fs::read_to_string(&file).unwrap();
    assert!(masked.lines().count() == 5 && !masked.contains(ADDRESS), "{masked}");
    assert!(!masked.contains(&data), "{masked}");
    // Without the addresses, the export would become rows with bad addresses.
    let before = scene.count().await;
    let refused = scene.ask("replay", &["--file", path], &[]);
    assert!(refused.code == Some(1) && refused.log.contains("--with-addresses"), "{}", refused.log);
    assert_eq!(scene.count().await, before);
    assert_eq!(scene.must("replay", &["list"]).last("job")["state"], "failed");
    scene.must("dead-letters", &["export", "--with-addresses", "--file", path]);
    assert!(std::fs::read_to_string(&file).unwrap().contains(ADDRESS));
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the operator's alone, though it was there before");
    let direct = scene.must("dead-letters", &["export", "--file", "/dev/stdout"]);
    assert_eq!(direct.lines.iter().filter(|line| line["masked"] == true).count(), 5);
    // A command that fails leaves yesterday's export.
    let former = std::fs::read(&file).unwrap();
    let backwards = ["export", "--since", "1h", "--until", "2h", "--file", path];
    assert_eq!(scene.ask("dead-letters", &backwards, &[]).code, Some(2));
    let missing = [("INGESTER_KAFKA__DEAD_LETTER_TOPIC", "no-such-topic")];
    assert_eq!(scene.ask("dead-letters", &["export", "--file", path], &missing).code, Some(1));
    assert!(std::fs::read(&file).unwrap() == former);
    assert_eq!(std::fs::read_dir(scene.directory.path()).unwrap().count(), 1, "nothing beside it");
    // A whole export can be replayed: the large record is an event now.
    let replayed = scene.ask("replay", &["--file", path], &[]);
    assert_eq!(replayed.last("done")["counts"]["inserted"], 1, "{}", replayed.log);
    assert_eq!(replayed.code, Some(1), "the others are still bad: {}", replayed.log);
    let misuse = scene.ask("dead-letters", &["list", "--code", "bad"], &[]);
    assert!(misuse.code == Some(2) && misuse.log.contains("wrong_ecosystem"), "{}", misuse.log);
    for (option, point) in [("--since", "earliest"), ("--until", "7")] {
        let misuse = scene.ask("dead-letters", &["list", option, point], &[]);
        assert_eq!(misuse.code, Some(2), "{}", misuse.log);
        assert!(!misuse.log.contains("nor earliest"), "only what is allowed: {}", misuse.log);
    }
}

#[tokio::test]
async fn who_waits_for_letters_can_stop_waiting() {
    // The listener accepts connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let brokers = silent.local_addr().unwrap().to_string();
    let scene = Scene::on(brokers, "waiting", "sqlite://x.db".into());
    let file = scene.directory.path().join("letters.ndjson");
    std::fs::write(&file, "yesterday").unwrap();
    let to_file = ["export", "--file", file.to_str().unwrap()];
    for arguments in [&["export"][..], &to_file, &["show", "0", "0"]] {
        let mut waiting =
            scene.ingester_command("dead-letters", "127.0.0.1:0").args(arguments).spawn();
        let _asked = tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
        waiting.terminate();
        let answer = Answer::of(waiting);
        assert_eq!(answer.code, Some(1), "{}", answer.log);
        assert!(answer.log.contains("stopped before its end"), "{arguments:?}: {}", answer.log);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "yesterday");
    assert_eq!(std::fs::read_dir(scene.directory.path()).unwrap().count(), 1, "nothing beside it");
}
