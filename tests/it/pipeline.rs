//! The path of a record from the topic to the answer.

use serde_json::json;

use crate::support::{
    Row, SEED, Scene, binary, event, example, example_record, identity, with, write_snapshot,
};

/// An address in the list below, within the window of the event.
const EXIT: &str = "109.70.100.19";

fn row(columns: &[(&str, Option<&str>)]) -> Row {
    columns.iter().map(|(name, text)| ((*name).to_owned(), text.map(str::to_owned))).collect()
}

/// The row of the example event (crates/model/README.md), evaluated without exit lists.
fn example_row() -> Row {
    row(&[
        ("name", Some("pg")),
        ("version", Some("7.12.0")),
        ("username", Some("brianc")),
        ("created", Some("2019-07-25T18:09:11.204000Z")),
        ("tor", None),
        ("tfa", Some("true")),
        ("tor_reason", Some("no_coverage")),
        ("tfa_reason", Some("second_factor")),
        ("tor_evidence_until", None),
        ("tor_settled", Some("false")),
        ("credential", Some("session_token")),
        ("actor", Some("user")),
        ("revision", Some("0")),
        ("generation", Some("0")),
        ("event_identity", Some(&identity("/registry/npm/publish", "01J3YQ6M2C"))),
        ("disputed", Some("false")),
        ("integrity", None),
    ])
}

fn changed(mut row: Row, columns: &[(&str, Option<&str>)]) -> Row {
    for (name, text) in columns {
        row.insert((*name).to_owned(), text.map(str::to_owned));
    }
    row
}

#[tokio::test]
async fn the_example_event_becomes_the_answer_of_the_seed() {
    let scene = Scene::new("pipeline", 1).await;
    let mut ingester = scene.ingester(&[]);
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.rows().await, [example_row()]);
    let query = scene.query();
    let answer = query.post(SEED, json!({}));
    let unknown =
        r#"{"data":{"package":{"publicationInfo":{"username":"brianc","tor":null,"tfa":true}}}}"#;
    assert_eq!(answer, (200, unknown.to_owned()));
    ingester.stop();

    // The same event in binary mode, evaluated again with a list that covers its time; also an event from an exit, and
    // a version that was never sent in structured mode.
    write_snapshot(scene.directory.path(), "2019-07-25-18-00-00", &[EXIT]);
    let snapshots = scene.directory.path().to_str().unwrap();
    let mut ingester = scene.ingester(&[("INGESTER_TOR__SNAPSHOTS", snapshots)]);
    let over_tor = with(event("pg", "7.12.1"), "/data/request/ip", json!(EXIT));
    let only_binary =
        with(with(example(), "/id", json!("B")), "/data/package/version", json!("7.12.2"));
    let only_binary = with(only_binary, "/subject", json!("pkg:npm/pg@7.12.2"));
    scene.produce([binary(&example()), binary(&over_tor), binary(&only_binary)]).await;
    scene.caught_up(&mut ingester).await;
    let list = Some("2019-07-25T18:00:00.000000Z");
    let not_listed =
        [("tor", Some("false")), ("tor_reason", Some("not_listed")), ("tor_evidence_until", list)];
    let evaluated = changed(example_row(), &not_listed);
    let id = over_tor["id"].as_str().unwrap();
    let listed = [
        ("version", Some("7.12.1")),
        ("tor", Some("true")),
        ("tor_reason", Some("snapshot")),
        ("tor_settled", Some("true")),
        ("event_identity", Some(&*identity("/registry/npm/publish", id))),
    ];
    let binary_id = identity("/registry/npm/publish", "B");
    let binary_row = [("version", Some("7.12.2")), ("event_identity", Some(&*binary_id))];
    let expected =
        [evaluated.clone(), changed(evaluated.clone(), &listed), changed(evaluated, &binary_row)];
    assert_eq!(scene.rows().await, expected);

    let known =
        r#"{"data":{"package":{"publicationInfo":{"username":"brianc","tor":false,"tfa":true}}}}"#;
    assert_eq!(query.post(SEED, json!({})), (200, known.to_owned()));
    let all = "{ package(name: \"pg\", version: \"7.12.1\") { name version purl publicationInfo { username created tor tfa torReason torSettled tfaReason credential actor disputed } } }";
    let expected = json!({"package": {"name": "pg", "version": "7.12.1", "purl": "pkg:npm/pg@7.12.1", "publicationInfo": {
        "username": "brianc", "created": "2019-07-25T18:09:11.204Z", "tor": true, "tfa": true, "torReason": "SNAPSHOT",
        "torSettled": true, "tfaReason": "SECOND_FACTOR", "credential": "SESSION_TOKEN", "actor": "USER", "disputed": false}}});
    assert_eq!(query.ask(all, json!({})), expected);

    let log = ingester.stop() + &query.running.stop();
    for address in [EXIT, "71.160.223.45"] {
        assert!(!log.contains(address), "the log holds a publisher's address:\n{log}");
    }
}
