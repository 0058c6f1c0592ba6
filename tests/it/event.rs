//! `event check`, which validates events without a topic, and the examples for producers.

use std::path::Path;

use serde_json::{Value, json};
use testkit::Daemon;

use crate::programs::{copy, pip_install, python};
use crate::replay::Answer;
use crate::support::{Scene, event, with};

/// The answers of `event check` to a file with these lines.
fn check(lines: &str, environment: &[(&str, &str)]) -> Answer {
    let scene = Scene::without_topic("event-check", "sqlite://unused.db".into());
    let file = scene.directory.path().join("events.ndjson");
    std::fs::write(&file, lines).unwrap();
    scene.ask("event", &["check", file.to_str().unwrap()], environment)
}

fn answers(answer: &Answer) -> Vec<Value> {
    answer.lines.iter().filter_map(|line| line.get("event").cloned()).collect()
}

#[test]
fn each_line_is_answered_by_a_row_a_reason_or_skipped() {
    let good = event("pg", "7.12.0");
    let lines = [
        good.clone(),
        with(good.clone(), "/data/revision", json!("1")),
        with(good.clone(), "/type", json!("registry.package.deprecated.v1")),
        with(good.clone(), "/subject", json!("pkg:npm/other@7.12.0")),
        json!({"specversion": "1.0"}),
    ];
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let checked = check(&format!("{}\n\nrubbish", lines.join("\n")), &[]);
    assert_eq!(checked.code, Some(1), "{}", checked.log);
    let found = answers(&checked);
    assert_eq!(found.len(), 6, "{}", checked.log);
    let row = &found[0]["row"];
    assert_eq!((&row["name"], &row["version"]), (&json!("pg"), &json!("7.12.0")));
    assert_eq!((&row["tfa"], &row["tfa_reason"]), (&json!(true), &json!("second_factor")));
    assert!(row.get("tor").is_none(), "{row}");
    let reasons: Vec<_> = found
        .iter()
        .filter_map(|one| {
            let one_is = one.get("rejected")?;
            let words = ["code", "stage", "pointer"].map(|name| one_is[name].clone());
            Some((one["line"].clone(), words))
        })
        .collect();
    let expected = [
        (2, json!(["bad_field", "VALUE_CONVERTER", "/data/revision"])),
        (4, json!(["subject_mismatch", "TRANSFORMATION", "/subject"])),
        (5, json!(["not_cloudevent", "VALUE_CONVERTER", "/id"])),
        (7, json!(["not_json", "VALUE_CONVERTER", null])),
    ];
    let expected = expected.map(|(line, words)| (json!(line), words));
    let reasons: Vec<_> = reasons.into_iter().map(|(line, words)| (line, json!(words))).collect();
    assert_eq!(reasons, expected);
    assert_eq!(found[2]["skipped"], true);
    assert!(!checked.log.contains("71.160.223.45"), "{}", checked.log);

    assert_eq!(check(&lines[0], &[]).code, Some(0));
    let scene = Scene::without_topic("event-check", "sqlite://unused.db".into());
    let missing = scene.ask("event", &["check", "/no/such/file"], &[]);
    assert!(missing.code == Some(2) && missing.log.contains("/no/such/file"), "{}", missing.log);
    let schema = scene.ask("event", &["check", "--schema"], &[]);
    assert!(schema.code == Some(0) && schema.log.contains("json-schema.org"), "{}", schema.log);
}

/// A full disk must not look like events that are rejected.
#[test]
fn an_output_that_cannot_be_written_ends_with_2() {
    let scene = Scene::without_topic("event-check", "sqlite://unused.db".into());
    let file = scene.directory.path().join("events.ndjson");
    std::fs::write(&file, event("pg", "7.12.0").to_string()).unwrap();
    for arguments in
        [&["event", "check", file.to_str().unwrap()][..], &["event", "check", "--schema"]]
    {
        let program = Daemon::started_by("exec \"$@\" >/dev/full", "publication-ingester");
        let command = scene.configured(program.args(arguments), "127.0.0.1:0");
        let checked = Answer::of(command.spawn());
        assert_eq!(checked.code, Some(2), "{arguments:?}: {}", checked.log);
    }
}

/// Python's `$` matches before a last line feed too, and other languages read no `\u` in a pattern.
#[test]
fn validators_of_other_languages_refuse_what_the_decoder_refuses() {
    let names = ["pg", "p g", "é", "pg\n", "p\ng", "\u{0}pg", "pg ", "\u{3000}pg", "pg\u{85}", ""];
    let events = names.map(|name| {
        let event = with(event("pg", "7.12.0"), "/subject", Value::Null);
        with(event, "/data/package/name", json!(name)).to_string()
    });
    let lines = events.join("\n");
    let by_decoder: Vec<bool> =
        answers(&check(&lines, &[])).iter().map(|one| one.get("row").is_some()).collect();
    assert_eq!(by_decoder, [true, true, true, false, false, false, false, false, false, false]);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    copy(&tests.join("schema"), folder.path());
    std::fs::write(folder.path().join("events.ndjson"), lines).unwrap();
    pip_install(folder.path());
    let schema = tests.join("../crates/ingester/event.schema.json");
    let printed = python(&["validate.py", schema.to_str().unwrap()], folder.path());
    let by_python: Vec<bool> = printed.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(by_python, by_decoder);
}

#[test]
fn standard_input_is_read_where_no_file_is_named() {
    let scene = Scene::without_topic("event-check", "sqlite://unused.db".into());
    let file = scene.directory.path().join("events.ndjson");
    std::fs::write(&file, format!("{}\nrubbish\n", event("pg", "7.12.0"))).unwrap();
    for arguments in [&["event", "check"][..], &["event", "check", "-"]] {
        let program = Daemon::started_by("exec \"$@\" <\"$EVENTS\"", "publication-ingester");
        let command = scene.configured(program.args(arguments), "127.0.0.1:0");
        let checked = Answer::of(command.env("EVENTS", &file).spawn());
        assert_eq!(checked.code, Some(1), "{arguments:?}: {}", checked.log);
        let found = answers(&checked);
        let places: Vec<_> = found.iter().map(|one| (&one["file"], &one["line"])).collect();
        assert_eq!(places, [(&json!("-"), &json!(1)), (&json!("-"), &json!(2))], "{arguments:?}");
        assert_eq!(found[0]["row"]["name"], "pg", "{arguments:?}");
        assert_eq!(found[1]["rejected"]["code"], "not_json", "{arguments:?}");
    }
}

#[test]
fn the_examples_for_producers_are_events() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ingester/producers.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let blocks = guide.split("```json\n").skip(1);
    let examples: Vec<&str> = blocks.map(|block| block.split_once("\n```").unwrap().0).collect();
    assert!(examples.len() >= 8, "{} examples", examples.len());
    for example in examples {
        let event: Value = serde_json::from_str(example).unwrap();
        let ecosystem = event["data"]["package"]["ecosystem"].as_str().unwrap();
        let checked = check(example, &[("INGESTER_REGISTRY__ECOSYSTEM", ecosystem)]);
        assert_eq!(checked.code, Some(0), "{}", checked.log);
        let row = &answers(&checked)[0]["row"];
        assert_eq!(row["name"], event["data"]["package"]["name"], "{}", checked.log);
        assert_eq!(row["username"], event["data"]["actor"]["username"], "{}", checked.log);
        assert!(row["created"].as_str().unwrap().starts_with("2026-03-05T10:00:00"), "{row}");
    }
}
