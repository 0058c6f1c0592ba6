//! The same events in PostgreSQL and in SQLite must give the same rows and answers.

use serde_json::{Value, json};
use testkit::Record;

use crate::support::{
    Query, Scene, binary, event, generated, rows, structured, with, write_snapshot,
};

/// Plain events, and events with difficult data: scripts, case, long names, nulls, corrections, disputes, repetitions.
fn events() -> Vec<Record> {
    let mut records: Vec<Record> = (0..1_500).map(|n| generated(n, 0)).collect();
    records.extend((0..300).map(|n| generated(n, 1)));
    records.extend((200..400).map(|n| generated(n, 0)));
    for (n, name) in [
        "Pg",
        "pG",
        "пакет",
        "包",
        "é",
        "e\u{301}",
        "a'b\"c\\d",
        "%_",
        "~",
        "@Scope/x",
        "NULL",
        "😀",
    ]
    .iter()
    .enumerate()
    {
        let named = event(name, "1.0.0-β");
        let named = with(named, "/data/actor/username", json!(["Ünï", "x y", "null"][n % 3]));
        let microseconds = format!("2019-07-25T18:09:11.{:06}Z", 999_999 - n);
        records.push(structured(&with(named, "/data/publishedAt", json!(microseconds))));
    }
    let long = event(&"ü".repeat(256), &"9".repeat(256));
    records.push(binary(&with(long, "/data/actor", json!(null))));
    let old =
        with(event("old", "0.0.1"), "/data/publishedAt", json!("1969-12-31T23:59:59.999999Z"));
    records.push(structured(&old));
    // Two events of the same revision that disagree, and a correction that ends another such dispute.
    for name in ["disputed", "settled"] {
        let one = event(name, "1.0.0");
        let other = with(event(name, "1.0.0"), "/data/actor/username", json!(null));
        records.extend([structured(&one), binary(&other)]);
    }
    records.push(structured(&with(
        event("settled", "1.0.0"),
        "/data/revision",
        json!(2_147_483_647),
    )));
    for (n, auth) in [
        json!(null),
        json!({"credential": "oidc"}),
        json!({"credential": "password"}),
        json!({"amr": ["pwd"]}),
    ]
    .iter()
    .enumerate()
    {
        let varied = with(event(&format!("auth-{n}"), "1.0.0"), "/data/auth", auth.clone());
        records.push(structured(&with(varied, "/data/request/edgeTor", json!(n % 2 == 0))));
    }
    let staged = json!({"at": "2019-07-25T10:00:00Z", "actor": {"username": "stager"}, "request": {"ip": "185.220.100.7"}});
    records.push(structured(&with(event("staged", "1.0.0"), "/data/staged", staged)));
    records
}

/// All publications from the API, page by page.
fn answers(query: &Query) -> Vec<Value> {
    const PAGE: &str = "query($after: String) { publications(first: 100, after: $after) { edges { node { name version purl publicationInfo {
        username created tor tfa torReason torSettled tfaReason credential actor disputed } } } pageInfo { hasNextPage endCursor } } }";
    let mut all = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut page = query.ask(PAGE, json!({ "after": after }));
        all.extend(page["publications"]["edges"].as_array().unwrap().iter().cloned());
        let info = page["publications"]["pageInfo"].take();
        if info["hasNextPage"] == false {
            return all;
        }
        after = info["endCursor"].clone();
    }
}

#[tokio::test]
async fn both_databases_end_with_the_same_rows() {
    let postgres = Scene::new("databases", 3).await;
    postgres.produce(events()).await;
    let file = postgres.directory.path().join("publications.db");
    let sqlite = Scene {
        brokers: postgres.brokers.clone(),
        topic: postgres.topic.clone(),
        group: format!("{}.sqlite", postgres.group),
        dead_letters: postgres.dead_letters.clone(),
        store: format!("sqlite://{}", file.display()),
        directory: tempfile::tempdir().unwrap(),
    };
    let lists = tempfile::tempdir().unwrap();
    write_snapshot(lists.path(), "2019-07-25-18-00-00", &[]);
    write_snapshot(lists.path(), "2019-07-25-09-00-00", &[]);
    let environment = [("INGESTER_TOR__SNAPSHOTS", lists.path().to_str().unwrap())];
    let mut ingesters = [postgres.ingester(&environment), sqlite.ingester(&environment)];
    for (scene, ingester) in [&postgres, &sqlite].into_iter().zip(&mut ingesters) {
        scene.caught_up(ingester).await;
    }
    for ingester in ingesters {
        assert_eq!(ingester.metrics().sum("dead_letters_total"), 0.0);
        ingester.stop();
    }

    let expected = rows(&postgres.store).await;
    let found = rows(&sqlite.store).await;
    assert_eq!(expected.len(), 1_500 + 12 + 2 + 2 + 4 + 1);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    let disputed: Vec<_> =
        expected.iter().filter(|row| row["disputed"].as_deref() == Some("true")).collect();
    assert_eq!(disputed.len(), 1, "{disputed:?}");
    assert_eq!(disputed[0]["name"].as_deref(), Some("disputed"));
    let staged = expected.iter().find(|row| row["name"].as_deref() == Some("staged")).unwrap();
    assert_eq!(
        (staged["tor"].as_deref(), staged["tor_reason"].as_deref()),
        (Some("true"), Some("snapshot"))
    );

    let answers_of = |scene: &Scene| {
        let query = scene.query();
        let answers = answers(&query);
        query.running.stop();
        answers
    };
    let (from_postgres, from_sqlite) = (answers_of(&postgres), answers_of(&sqlite));
    assert_eq!(from_postgres.len(), expected.len());
    assert_eq!(from_sqlite, from_postgres);
}
