//! `check`: it confirms what is right, names what is unsafe, and returns an exit code for scripts.

use std::collections::BTreeSet;

use serde_json::Value;
use testkit::{Daemon, DatabaseAdmin};

use crate::replay::Answer;
use crate::rights;
use crate::support::{Scene, event, free_address, generated, structured, write_snapshot};

/// `level what` of every finding that is not ok, and the whole answer.
fn found(answer: &Answer) -> (BTreeSet<String>, Value) {
    let check = answer.last("check");
    let findings = check["findings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let wrong = findings.filter(|finding| finding["level"] != "ok");
    (
        wrong
            .map(|finding| format!("{} {}", text(&finding["level"]), text(&finding["what"])))
            .collect(),
        check,
    )
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The findings that a single broker always has.
const ONE_REPLICA: [&str; 2] = ["warning source.replication", "warning dead_letters.replication"];

#[tokio::test]
async fn a_sound_installation_has_nothing_but_its_one_broker() {
    let scene = Scene::without_topic("check", testkit::postgres().database().await.url);
    scene.make_topic(3, &[("retention.ms", "-1")]).await;
    let lists = scene.directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    let lists = [("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap())];
    // Before the first run, the schema and the dead-letter topic do not exist, and there are no lists.
    let fresh = scene.ask("check", &["--json"], &lists);
    let expected = set(&[
        "warning source.replication",
        "warning dead_letters",
        "warning store.schema",
        "warning lists.missing",
    ]);
    // The shared test server runs without fsync.
    let durable = |found: BTreeSet<String>| -> BTreeSet<String> {
        found.into_iter().filter(|one| !one.contains("durability")).collect()
    };
    assert_eq!(durable(found(&fresh).0), expected, "{}", fresh.log);

    scene.ingest(&lists).await;
    // The time of a list is in its file name. A list without one is as old as its download.
    write_snapshot(scene.directory.path().join("lists").as_path(), "current", &[]);
    let checked = scene.ask("check", &["--json"], &lists);
    let (wrong, check) = found(&checked);
    assert_eq!(durable(wrong), set(&ONE_REPLICA), "{}", checked.log);
    let text = check.to_string();
    for right in ["source.read", "group", "dead_letters.write", "store.rights", "store.schema"] {
        assert!(text.contains(right), "{right} in {text}");
    }
    assert!(
        text.contains("is allowed") && check["memory"].as_str().unwrap().contains("16.0 MiB"),
        "{text}"
    );
    assert!(check["guarantee"].as_array().unwrap().len() >= 4, "{text}");
    // The check wrote nothing.
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await, []);
    let words = scene.ask("check", &[], &lists);
    assert!(words.log.contains("what follows from these settings"), "{}", words.log);
}

#[tokio::test]
async fn a_warning_fails_only_a_strict_check() {
    let mut scene = Scene::without_topic("check-strict", String::new());
    scene.store = format!("sqlite://{}", scene.directory.path().join("rows.db").display());
    scene.make_topic(1, &[("retention.ms", "-1")]).await;
    let lists = scene.directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    write_snapshot(&lists, "current", &[]);
    let lists = [("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap())];
    scene.ingest(&lists).await;
    for (arguments, code) in [(&["--json"][..], 0), (&["--json", "--strict"], 1)] {
        let checked = scene.ask("check", arguments, &lists);
        assert_eq!(found(&checked).0, set(&ONE_REPLICA), "{}", checked.log);
        assert_eq!(checked.code, Some(code), "{arguments:?}: {}", checked.log);
    }
}

#[tokio::test]
async fn an_address_that_nobody_listens_on_is_no_missing_right() {
    let mut scene = Scene::new("check-address", 1).await;
    scene.must("migrate", &[]);
    // As where a name has an address of IPv6 and the broker listens on IPv4.
    scene.brokers = format!("{},{},{}", free_address(), free_address(), scene.brokers);
    let checked = scene.ask("check", &["--json"], &[]);
    let read = ["source.read", "group", "positions"].map(|what| format!("problem {what}"));
    assert!(read.iter().all(|one| !found(&checked).0.contains(one)), "{}", checked.log);
}

#[tokio::test]
async fn what_is_unsafe_is_named_and_fails() {
    let scene = Scene::without_topic("check-unsafe", "sqlite://unused.db".into());
    let store = format!("sqlite://{}", scene.directory.path().join("publications.db").display());
    let sqlite = [("INGESTER_STORE__URL", store.as_str())];
    scene
        .make_topic(
            1,
            &[
                ("cleanup.policy", "compact,delete"),
                ("retention.ms", "3600000"),
                ("retention.bytes", "1000000"),
                ("max.message.bytes", "2000000"),
            ],
        )
        .await;
    let letters = [
        ("min.insync.replicas", "2"),
        ("retention.ms", "86400000"),
        ("max.message.bytes", "1000"),
        ("message.timestamp.before.max.ms", "86400000"),
        ("segment.bytes", "1048576"),
    ];
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &letters).await;
    let unsafe_ = scene.ask("check", &["--json"], &sqlite);
    let expected = set(&[
        "problem source.compacted",
        "problem source.retention",
        "warning source.retention_bytes",
        "warning source.replication",
        "warning dead_letters.replication",
        "warning dead_letters.retention",
        "warning dead_letters.size",
        "warning dead_letters.segment",
        "warning dead_letters.timestamps",
        "warning store.schema",
        "warning lists",
    ]);
    let wrong = found(&unsafe_).0;
    assert!(
        wrong.is_superset(&expected),
        "{:?} are missing in:\n{}",
        expected.difference(&wrong),
        unsafe_.log
    );
    assert_eq!(unsafe_.code, Some(1));
    assert!(!scene.directory.path().join("publications.db").exists(), "nothing is made");

    let away =
        scene.ask("check", &["--json"], &[sqlite[0], ("INGESTER_KAFKA__BROKERS", "127.0.0.1:1")]);
    assert_eq!(away.code, Some(1));
    assert!(found(&away).0.contains("problem kafka"), "{}", away.log);
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let scene = Scene::new("check-rights", 1).await;
    scene.must("migrate", &[]);
    let role = testkit::unique("reader").replace('-', "_");
    let database = scene.store.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    scene
        .execute(&format!("CREATE ROLE {role} LOGIN; GRANT CONNECT ON DATABASE \"{database}\" TO {role}; GRANT SELECT ON publication TO {role}"))
        .await;
    let (_, host) = scene.store.split_once('@').unwrap();
    let store = format!("postgres://{role}@{host}");
    let refused = scene.ask("check", &["--json"], &[("INGESTER_STORE__URL", &store)]);
    assert_eq!(refused.code, Some(1), "{}", refused.log);
    assert!(refused.log.contains("INSERT on publication"), "{}", refused.log);
}

/// What `run` would lose at once, and what it will not read before a transaction ends.
#[tokio::test]
async fn records_that_cannot_be_read_are_named() {
    let scene = Scene::new("check-positions", 1).await;
    scene.produce((0..30).map(|n| generated(n, 0))).await;
    scene.ingest(&[]).await;
    let positions = || {
        let checked = scene.ask("check", &["--json"], &[]);
        let (wrong, check) = found(&checked);
        (wrong.contains("warning positions"), check.to_string())
    };
    assert!(!positions().0, "{}", positions().1);
    let transaction = testkit::Transaction::begin(&scene.brokers, &scene.topic).await;
    transaction.produce(&scene.topic, (30..35).map(|n| generated(n, 0))).await;
    scene.produce((35..100).map(|n| generated(n, 0))).await;
    let (warned, said) = positions();
    assert!(warned && said.contains("from offset 30 to the end 100"), "{said}");
    assert!(said.contains("committed 30, end 100"), "{said}");
    for command in ["replay", "reconcile"] {
        let asked = scene.ask(command, &["--from", "50"], &[]);
        assert_eq!(asked.code, Some(2), "{}", asked.log);
        assert!(asked.log.contains("an open transaction begins at 30"), "{}", asked.log);
    }
    let asked = scene.ask("reconcile", &["--from", "0"], &[]);
    assert!(asked.log.contains("an open transaction ends the range"), "{}", asked.log);
    transaction.end(true).await;
    assert!(!positions().0, "{}", positions().1);
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 80).await;
    let (warned, said) = positions();
    assert!(warned && said.contains("begins at 80: the 50 records"), "{said}");
}

#[tokio::test]
async fn a_database_that_takes_no_writes_fails() {
    let scene = Scene::new("check-read-only", 1).await;
    scene.must("migrate", &[]);
    let problem = |answer: &Answer| found(answer).0.contains("problem store.read_only");
    assert!(!problem(&scene.ask("check", &["--json"], &[])));
    DatabaseAdmin::of(&scene.store).alter("SET default_transaction_read_only = on").await;
    let checked = scene.ask("check", &["--json"], &[]);
    assert!(checked.code == Some(1) && problem(&checked), "{}", checked.log);
}

#[tokio::test]
async fn a_broker_that_refuses_a_right_is_quoted_and_nothing_is_written_to_find_out() {
    let kafka = rights::broker();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "check-acls", store);
    scene.make_topic(1, &[]).await;
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &[("retention.ms", "-1")]).await;
    scene.produce([structured(&event("one", "1.0.0"))]).await;
    let rights = ["source.read", "group", "dead_letters.write"];
    let refused = |answer: &Answer| -> Vec<String> {
        let wrong = found(answer).0.into_iter();
        wrong.filter(|one| rights.iter().any(|right| one.ends_with(right))).collect()
    };
    let checked = scene.ask("check", &["--json"], &[]);
    assert_eq!(refused(&checked), Vec::<String>::new(), "{}", checked.log);

    // With an ACL for one operation, all other operations on the resource are denied.
    let allow = ["--add", "--allow-principal", "User:*", "--operation", "Describe"];
    testkit::acls(&scene.brokers, &[&allow[..], &["--group", &scene.group]].concat());
    testkit::acls(
        &scene.brokers,
        &[&allow[..], &["--operation", "DescribeConfigs", "--topic", &scene.dead_letters]].concat(),
    );
    let checked = scene.ask("check", &["--json"], &[]);
    assert_eq!(
        refused(&checked),
        ["problem dead_letters.write", "problem group"],
        "{}",
        checked.log
    );
    assert!(checked.log.contains("TopicAuthorizationFailed"), "{}", checked.log);
    // A group that the user may not even describe says nothing about the topic.
    let hidden = [("INGESTER_KAFKA__GROUP", "check-acls-hidden")];
    let delete = ["--add", "--allow-principal", "User:*", "--operation", "Delete"];
    testkit::acls(&scene.brokers, &[&delete[..], &["--group", hidden[0].1]].concat());
    let checked = scene.ask("check", &["--json"], &hidden);
    assert_eq!(
        refused(&checked),
        ["problem dead_letters.write", "problem group"],
        "{}",
        checked.log
    );
    testkit::acls(&scene.brokers, &[&allow[..], &["--topic", &scene.topic]].concat());
    // The user's own group, so that the topic's right is the only one that is missing beside the dead letters'.
    let own = [("INGESTER_KAFKA__GROUP", "check-acls-own")];
    let checked = scene.ask("check", &["--json"], &own);
    assert_eq!(
        refused(&checked),
        ["problem dead_letters.write", "problem source.read"],
        "{}",
        checked.log
    );
    assert_eq!(checked.code, Some(1));
    let replay = scene.ask("replay", &["--from", "earliest"], &[]);
    assert!(
        replay.code == Some(1) && replay.log.contains("TopicAuthorizationFailed"),
        "{}",
        replay.log
    );
}

/// The check executes the daemon's statements, so it finds each of these problems before the daemon does.
#[tokio::test]
async fn a_database_whose_statements_fail_is_a_problem() {
    let scene = Scene::new("check-statements", 1).await;
    scene.must("migrate", &[]);
    let problems = || {
        let checked = scene.ask("check", &["--json"], &[]);
        let problems = found(&checked).0.into_iter().filter(|one| one.starts_with("problem"));
        // The shared test server runs without fsync.
        let problems = problems.filter(|one| !one.contains("durability"));
        (problems.collect::<Vec<_>>(), checked)
    };
    let works = |checked: &Answer| checked.log.matches(" works").count();
    let (found, checked) = problems();
    assert!(found.is_empty() && works(&checked) == 4, "{}", checked.log);
    let refusing = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'closed for the winter'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON publication FOR EACH ROW EXECUTE FUNCTION refuse()";
    let without = |table: &str, column: &str| {
        let (drop, add) = (format!("DROP COLUMN {column}"), format!("ADD COLUMN {column} text"));
        [drop, add].map(|change| format!("ALTER TABLE {table} {change}"))
    };
    let [dropped, added] = without("publication", "integrity");
    let [forgotten, known] = without("ingest_position", "evidence");
    let [unheard, heard] = without("replay_job", "reason");
    let hidden = "ALTER TABLE _sqlx_migrations RENAME TO hidden";
    let trigger = |when: &str, what: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NULL; END $$; \
             CREATE TRIGGER meddle {when} ON publication FOR EACH ROW EXECUTE FUNCTION meddle()"
        )
    };
    let delete = "DELETE FROM publication WHERE name = NEW.name AND version = NEW.version";
    let deleting = trigger("AFTER INSERT", delete);
    let dropping = trigger("BEFORE UPDATE", "NULL");
    let raising = trigger("BEFORE UPDATE", "RAISE EXCEPTION 'no corrections'");
    let no_meddling = "DROP TRIGGER meddle ON publication";
    for (breaking, mending, expected, word) in [
        (
            refusing,
            "DROP TRIGGER refuse ON publication",
            "problem store.statements",
            "closed for the winter",
        ),
        (&*deleting, no_meddling, "problem store.statements", "a trigger drops it"),
        (&*dropping, no_meddling, "problem store.statements", "a trigger drops the change"),
        (&*raising, no_meddling, "problem store.statements", "no corrections"),
        (&*dropped, &*added, "problem store.statements", "integrity"),
        (&*forgotten, &*known, "problem store.statements", "evidence"),
        (&*unheard, &*heard, "problem store.statements", "reason"),
        (
            hidden,
            "ALTER TABLE hidden RENAME TO _sqlx_migrations",
            "problem store.schema",
            "_sqlx_migrations",
        ),
    ] {
        scene.execute(breaking).await;
        let (found, checked) = problems();
        assert!(found.contains(&expected.to_owned()), "{breaking}: {}", checked.log);
        assert!(
            checked.code == Some(1) && checked.log.contains(word),
            "{breaking}: {}",
            checked.log
        );
        scene.execute(mending).await;
    }
    let (found, checked) = problems();
    assert_eq!(found, Vec::<String>::new(), "{}", checked.log);
    assert_eq!(scene.count().await, 0, "nothing was kept");
}

#[tokio::test]
async fn an_empty_place_where_rows_were_is_a_problem() {
    let mut scene = Scene::without_topic("check-mount", String::new());
    scene.make_topic(1, &[("retention.ms", "-1")]).await;
    let mount = scene.directory.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    scene.store = format!("sqlite://{}", mount.join("rows.db").display());
    scene.produce([structured(&event("one", "1.0.0"))]).await;
    let positions = |answer: &Answer| found(answer).0.contains("problem positions");
    let before = scene.ask("check", &["--json"], &[]);
    assert!(!positions(&before), "a first start makes the file: {}", before.log);
    scene.ingest(&[]).await;
    assert!(!positions(&scene.ask("check", &["--json"], &[])));

    let away = scene.directory.path().join("away");
    std::fs::rename(&mount, &away).unwrap();
    let no_folder = scene.ask("check", &["--json"], &[]);
    assert_eq!(no_folder.code, Some(1));
    assert!(found(&no_folder).0.contains("problem store"), "{}", no_folder.log);
    assert!(no_folder.log.contains(mount.to_str().unwrap()), "{}", no_folder.log);
    // The mount point is an empty folder now.
    std::fs::create_dir(&mount).unwrap();
    let empty = scene.ask("check", &["--json"], &[]);
    assert!(positions(&empty) && empty.code == Some(1), "{}", empty.log);
    assert!(empty.log.contains("rows.db"), "{}", empty.log);
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0, "nothing is made");
    // The same for another database than the one that was written to.
    let other = testkit::postgres().database().await.url;
    let other = scene.ask("check", &["--json"], &[("INGESTER_STORE__URL", &other)]);
    assert!(positions(&other) && other.code == Some(1), "{}", other.log);
}

/// SQLite's own error names neither the file nor the cause.
#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let mut scene = Scene::without_topic("check-file", String::new());
    scene.make_topic(1, &[("retention.ms", "-1")]).await;
    let folder = scene.directory.path().to_owned();
    std::fs::write(folder.join("file"), "This is a text, and it is long enough for a head.")
        .unwrap();
    std::fs::create_dir(folder.join("sealed")).unwrap();
    // Mounts a read-only file system in the daemon's own mount namespace.
    let sealed = format!(
        r#"exec unshare --map-root-user --mount \
           sh -c 'mount -t tmpfs -o ro none "$0" && exec "$@"' {} "$@""#,
        folder.join("sealed").display()
    );
    for (file, cause, problem) in [
        ("file/rows.db", "it is not a folder", "problem store"),
        ("file", "file is not a database", "problem store"),
        ("sealed/rows.db", "Read-only file system", "problem store.schema"),
    ] {
        let path = folder.join(file);
        scene.store = format!("sqlite://{}", path.display());
        let program = || Daemon::started_by(&sealed, "publication-ingester");
        let checked = scene.configured(program().args(["check", "--json"]), "127.0.0.1:0").spawn();
        let checked = Answer::of(checked);
        assert_eq!(checked.code, Some(1), "{file}: {}", checked.log);
        assert!(found(&checked).0.contains(problem), "{file}: {}", checked.log);
        let mut ingester = scene.start_daemon(program(), &[]);
        let log = testkit::eventually("the cause", crate::support::PATIENCE, async || {
            let log = ingester.daemon.log();
            log.contains(cause).then_some(log)
        });
        let log = log.await;
        let line = log.lines().find(|line| line.contains(cause)).unwrap();
        let place = path.parent().filter(|_| cause == "it is not a folder").unwrap_or(&path);
        assert!(line.contains(place.to_str().unwrap()), "{file}: {log}");
        ingester.daemon.terminate();
        ingester.daemon.wait_exit(crate::support::PATIENCE);
    }
}

#[tokio::test]
async fn a_foreign_member_is_named() {
    let scene = Scene::new("check-members", 1).await;
    scene.must("migrate", &[]);
    let members = |answer: &Answer| {
        let check = answer.last("check");
        let found = check["findings"].as_array().unwrap().iter();
        let mut found = found.filter(|finding| finding["what"] == "group.members");
        let found = found.next().unwrap().clone();
        (found["level"].as_str().unwrap().to_owned(), found["message"].as_str().unwrap().to_owned())
    };
    let alone = scene.ask("check", &["--json"], &[]);
    assert_eq!(members(&alone), ("ok".into(), "nobody is in the group".into()), "{}", alone.log);
    let ingester = scene.ingester(&[]);
    let (level, message) = members(&scene.ask("check", &["--json"], &[]));
    assert_eq!(level, "ok", "{message}");
    for word in ["1 members", "cooperative-sticky", "publication-ingester (/127.0.0.1)"] {
        assert!(message.contains(word), "{message}");
    }
    ingester.stop();
    let client = "a\nmadeup";
    let kcat = testkit::Daemon::program("kcat")
        .args(["-b", &scene.brokers, "-X", &format!("client.id={client}")])
        .args(["-G", &scene.group, &scene.topic])
        .spawn();
    let named = testkit::eventually("the foreign member", crate::support::PATIENCE, async || {
        let checked = scene.ask("check", &["--json"], &[]);
        let (level, message) = members(&checked);
        (level == "problem").then_some((message, checked.code))
    });
    let (message, code) = named.await;
    assert_eq!(code, Some(1));
    assert!(
        message.contains("assignor range") && message.contains("madeup (/127.0.0.1)"),
        "{message}"
    );
    // A name with a line feed must not make a line of its own.
    let text = scene.ask("check", &[], &[]);
    assert!(!text.log.lines().any(|line| line.starts_with("madeup")), "{}", text.log);
    let mut ingester = scene.start_ingester(&[]);
    let (_, answer) = ingester.shows("paused").await;
    let reason = answer["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("kept_out_of_group: ") && reason.contains("Inconsistent"),
        "{reason}"
    );
    drop(kcat);
    ingester.shows("ready").await;
    ingester.stop();
}
