//! Compares a range of the topic with the table: changed rows are named exactly, and repaired where the merge rule allows it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::{Daemon, Record, eventually};

use crate::replay::{Answer, by_key, millis_to_iso};
use crate::support::{PATIENCE, Scene, event, structured, with, write_snapshot};

/// 2024-03-05T10:00:00Z
const START: i64 = 1_709_632_800_000;

/// `p{n}`, published and recorded `n` seconds after [`START`]; every second without a second factor, every third from an exit.
fn record(n: i64, revision: u32, recorded: i64) -> Record {
    let second = n % 2 == 0;
    let event = with(
        event(&format!("p{n}"), "1.0.0"),
        "/data/publishedAt",
        json!(millis_to_iso(START + n * 1_000)),
    );
    let event = with(event, "/id", json!(format!("{n}-{revision}")));
    let event = with(event, "/data/revision", json!(revision));
    let event = with(event, "/data/package/integrity", json!("sha512-bbbb"));
    let event = with(
        event,
        "/data/auth/secondFactor",
        json!({"presented": second, "verified": second, "method": "totp"}),
    );
    let ip = if n % 3 == 0 { "109.70.100.19" } else { "71.160.223.45" };
    let record = structured(&with(event, "/data/request/ip", json!(ip)));
    Record { timestamp: Some(START + recorded * 1_000), ..record }
}

/// `kind name` of every difference.
fn named(answer: &Answer) -> BTreeSet<String> {
    let differences = answer.lines.iter().filter_map(|line| line.get("difference"));
    let name = |value: &Value| value.as_str().unwrap().to_owned();
    differences.map(|one| format!("{} {}", name(&one["kind"]), name(&one["name"]))).collect()
}

const ALTERED: &[(i64, &str)] = &[
    (10, "username = 'aaa'"),
    (11, "username = 'zzz'"),
    (12, "username = NULL"),
    (13, "tfa = true, tfa_reason = 'second_factor'"),
    (14, "tfa = false"),
    (15, "tfa = NULL"),
    (16, "tor = true"),
    (17, "tor = true, tor_reason = 'exit_list'"),
    (18, "tor = false"),
    (19, "tor = NULL, tor_reason = 'no_coverage'"),
    (22, "created = created + interval '1 second'"),
    (23, "credential = 'oidc'"),
    (24, "actor = 'unknown'"),
    (25, "tfa_reason = 'amr'"),
    (26, "integrity = 'sha512-aaaa'"),
    (27, "integrity = NULL"),
];

#[tokio::test]
async fn rows_deleted_altered_and_made_up_are_named() {
    let scene = Scene::new("reconcile", 2).await;
    let lists = scene.directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    write_snapshot(&lists, "2024-03-05-09-00-00", &["109.70.100.19"]);
    let environment = [("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap())];
    let mut records: Vec<Record> = (0..300).map(|n| record(n, 0, n)).collect();
    // Invalid data, a late record of an act in the range, a repetition, and corrections recorded after the range.
    records.push(Record { value: Some(b"{".into()), timestamp: Some(START), ..Record::default() });
    records.push(record(400, 0, 5_000));
    records.push(record(5, 0, 5));
    records.extend((50..60).map(|n| record(n, 1, 5_001)));
    scene.produce(records).await;
    scene.ingest(&environment).await;
    let before = by_key(scene.rows().await);
    assert_eq!(before.len(), 301);

    let (from, until) = (millis_to_iso(START), millis_to_iso(START + 1_000_000));
    let by_time = ["--from", &*from, "--until", &*until];
    let all = ["--from", "earliest"];
    for range in [&by_time[..], &all] {
        let clean = scene.ask("reconcile", range, &environment);
        assert_eq!((clean.code, named(&clean)), (Some(0), BTreeSet::new()), "{}", clean.log);
    }
    assert_eq!(scene.ask("reconcile", &by_time, &environment).last("reconciled")["records"], 302);

    scene.execute("DELETE FROM publication WHERE name IN ('p1', 'p2', 'p55')").await;
    let mut expected: BTreeSet<String> =
        ["p1", "p2", "p55"].map(|name| format!("missing {name}")).into();
    for (n, change) in ALTERED {
        scene.execute(&format!("UPDATE publication SET {change} WHERE name = 'p{n}'")).await;
        expected.insert(format!("different p{n}"));
    }
    // The event id is right, but the revision too high. A producer that reuses ids can have sent that.
    scene.execute("UPDATE publication SET revision = 7 WHERE name = 'p20'").await;
    expected.insert("unproven p20".to_owned());
    let made_up = "INSERT INTO publication SELECT (p).* FROM (SELECT jsonb_populate_record(p, '{\"name\": \"made-up\"}') AS p \
                   FROM publication AS p WHERE name = 'p200') AS one";
    scene.execute(made_up).await;
    let of_all = scene.ask("reconcile", &all, &environment);
    assert_eq!((of_all.code, named(&of_all)), (Some(1), expected.clone()), "{}", of_all.log);
    expected.insert("extra made-up".to_owned());
    let found = scene.ask("reconcile", &by_time, &environment);
    assert_eq!((found.code, named(&found)), (Some(1), expected.clone()), "{}", found.log);
    assert!(!found.log.contains("109.70.100.19"));

    // Over the whole topic, so that the correction of p55 is found again too. Extra rows are left to operators.
    let repair = [&all[..], &["--repair"]].concat();
    let repaired = scene.ask("reconcile", &repair, &environment);
    let mended = |answer: &Answer| -> BTreeSet<String> {
        let differences = answer.lines.iter().filter_map(|line| line.get("difference"));
        let repaired = differences.filter(|one| one["repaired"] == true);
        repaired.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    // The rows that the merge rule repairs. It keeps the others; only people can know that they were never published.
    let by_merge = ["p1", "p14", "p15", "p18", "p19", "p2", "p27", "p55"].map(str::to_owned);
    assert_eq!(mended(&repaired), by_merge.into(), "{}", repaired.log);
    assert_eq!((repaired.code, &repaired.last("reconciled")["repaired"]), (Some(1), &json!(8)));
    let left = scene.ask("reconcile", &all, &environment);
    let by_hand = [10, 11, 12, 13, 16, 17, 22, 23, 24, 25, 26].map(|n| format!("different p{n}"));
    let expected = by_hand.into_iter().chain(["unproven p20".to_owned()]).collect();
    assert_eq!((left.code, named(&left)), (Some(1), expected), "{}", left.log);
    // Without its row an event is missing, and the merge rule writes it.
    for n in [10, 11, 12, 13, 16, 17, 22, 23, 24, 25, 26] {
        scene.execute(&format!("DELETE FROM publication WHERE name = 'p{n}'")).await;
    }
    let repaired = scene.ask("reconcile", &repair, &environment);
    assert_eq!((repaired.code, mended(&repaired).len()), (Some(0), 11), "{}", repaired.log);
    scene.execute("DELETE FROM publication WHERE name = 'made-up'").await;
    scene.execute("UPDATE publication SET revision = 0 WHERE name = 'p20' AND revision = 7").await;
    assert!(by_key(scene.rows().await) == before, "every row is what it was");
    let clean = scene.ask("reconcile", &by_time, &environment);
    assert_eq!((clean.code, named(&clean)), (Some(0), BTreeSet::new()), "{}", clean.log);
}

#[tokio::test]
async fn a_row_that_the_database_swallows_is_not_repaired() {
    let scene = Scene::new("reconcile-swallowed", 1).await;
    scene.produce((0..20).map(|n| record(n, 0, n))).await;
    scene.ingest(&[]).await;
    scene
        .execute(
            "DELETE FROM publication WHERE name IN ('p3', 'p4');
             CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER swallow BEFORE INSERT ON publication FOR EACH ROW WHEN (NEW.name = 'p3')
             EXECUTE FUNCTION swallow();",
        )
        .await;
    let repaired = scene.ask("reconcile", &["--from", "earliest", "--repair"], &[]);
    assert_eq!(repaired.code, Some(1), "{}", repaired.log);
    assert_eq!(named(&repaired), ["missing p3".to_owned(), "missing p4".to_owned()].into());
    assert_eq!(repaired.last("reconciled")["repaired"], 1);
    let left = scene.ask("reconcile", &["--from", "earliest"], &[]);
    assert_eq!(named(&left), ["missing p3".to_owned()].into());
}

async fn says_that_it_waits(command: &mut Daemon) {
    eventually("the wait to be said", PATIENCE, async || {
        assert!(command.is_running(), "{}", command.log());
        command.log().contains("waiting; it is tried again")
    })
    .await;
}

#[tokio::test]
async fn a_database_that_restarts_at_any_moment_is_waited_for() {
    let mut postgres = testkit::Postgres::start();
    let store = postgres.database().await.url;
    let scene = Scene { store, ..Scene::new("reconcile-restart", 1).await };
    let poison = Record { value: Some(b"{".into()), timestamp: Some(START), ..Record::default() };
    scene.produce((0..3_000).map(|n| record(n, 0, n)).chain([poison])).await;
    scene.ingest(&[]).await;
    // At the start of the command, and during it.
    for rate in [&[][..], &["--rate", "1000"]] {
        let mut commands = vec![("reconcile", [&["--from", "earliest"][..], rate].concat())];
        if rate.is_empty() {
            postgres.stop(testkit::StopMode::Immediate);
            commands.push(("dead-letters", vec!["list"]));
        }
        let mut running: Vec<_> = commands
            .iter()
            .map(|(command, arguments)| scene.start(command, arguments, &[]))
            .collect();
        if !rate.is_empty() {
            eventually("progress", PATIENCE, async || running[0].log().contains("progress")).await;
            postgres.stop(testkit::StopMode::Immediate);
        }
        if rate.is_empty() {
            for command in &mut running {
                says_that_it_waits(command).await;
            }
        }
        postgres.start_again();
        for command in running {
            let answer = Answer::of(command);
            assert_eq!((answer.code, named(&answer)), (Some(0), BTreeSet::new()), "{}", answer.log);
        }
    }
    // While the one statement of `list` is under way: a lock holds it, which ends with the server.
    let mut operator = PgConnection::connect(&scene.store).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE publication").execute(&mut operator).await.unwrap();
    let mut list = scene.start("dead-letters", &["list"], &[]);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // Not in the operator's transaction, which would see the same activity for ever.
    eventually("the statement to wait", PATIENCE, async || scene.number(waiting).await > 0).await;
    postgres.stop(testkit::StopMode::Immediate);
    says_that_it_waits(&mut list).await;
    postgres.start_again();
    let answer = Answer::of(list);
    assert!(answer.code == Some(0) && answer.log.contains("not_json"), "{}", answer.log);
}

#[tokio::test]
async fn an_id_that_was_sent_again_with_a_later_time_costs_no_row_its_earlier_one() {
    let scene = Scene::new("reconcile-ids", 1).await;
    let sent = |minute: i64| {
        let at = START + minute * 60_000;
        let event = with(event("retry", "1.0.0"), "/id", json!("same-id"));
        let event = with(event, "/data/publishedAt", json!(millis_to_iso(at)));
        Record { timestamp: Some(at), ..structured(&event) }
    };
    scene.produce([sent(0), sent(9)]).await;
    scene.ingest(&[]).await;
    let before = scene.rows().await;
    assert_eq!(before[0]["disputed"].as_deref(), Some("true"), "{before:?}");
    // The range has only the second event. The row is from the first one, as the merge rule requires.
    let from = millis_to_iso(START + 8 * 60_000);
    let repaired = scene.must("reconcile", &["--from", &from, "--repair"]);
    assert_eq!(named(&repaired), ["unproven retry".to_owned()].into());
    assert_eq!(repaired.last("reconciled")["repaired"], 0);
    assert_eq!(scene.rows().await, before);
    assert_eq!(named(&scene.must("reconcile", &["--from", "earliest"])), BTreeSet::new());
}
