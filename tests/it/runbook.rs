//! Tests of the runbook: after a fault, the commands of its entry, run unchanged, show the cause.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use testkit::{DatabaseAdmin, Kafka, NetworkFault, Postgres, Proxy, Record, StopMode, eventually};

use crate::deploy::{commands, runbook};
use crate::rights;
use crate::support::{
    PATIENCE, Query, Running, Scene, event, free_address, generated, structured, with,
};

/// An operator's shell.
pub(crate) struct Shell {
    /// The variables to paste first.
    variables: Vec<(&'static str, String)>,
    /// The daemon's environment variables.
    settings: Vec<(String, String)>,
    path: OsString,
}

impl Shell {
    pub(crate) fn new(scene: &Scene) -> Self {
        let folder = scene.directory.path();
        let tools = folder.join("tools");
        fs::create_dir(&tools).unwrap();
        testkit::write_tools(&tools);
        let config = folder.join("ingester.toml");
        fs::write(&config, "").unwrap();
        let postgres = testkit::postgres_program("psql").expect("psql is installed");
        let on_path = std::env::var_os("PATH").unwrap();
        let folders = [tools, testkit::program_folder(), postgres.parent().unwrap().to_owned()];
        let folders = folders.into_iter().chain(std::env::split_paths(&on_path));
        let variables = [
            ("CONFIG", config.to_str().unwrap().to_owned()),
            ("KAFKA", scene.brokers.clone()),
            ("TOPIC", scene.topic.clone()),
            ("GROUP", scene.group.clone()),
            ("DATABASE", scene.store.clone()),
        ];
        let settings = [
            ("INGESTER_KAFKA__BROKERS", &scene.brokers),
            ("INGESTER_KAFKA__TOPIC", &scene.topic),
            ("INGESTER_KAFKA__GROUP", &scene.group),
            ("INGESTER_KAFKA__DEAD_LETTER_TOPIC", &scene.dead_letters),
            ("INGESTER_STORE__URL", &scene.store),
        ];
        Self {
            variables: variables.into(),
            settings: settings.map(|(name, value)| (name.to_owned(), value.clone())).into(),
            path: std::env::join_paths(folders).unwrap(),
        }
    }

    /// Adds more environment variables of the daemon.
    fn with(mut self, settings: &[(&str, &str)]) -> Self {
        self.settings.extend(settings.iter().map(|&(name, value)| (name.into(), value.into())));
        self
    }

    fn ingester(mut self, running: &Running) -> Self {
        self.variables.push(("INGESTER", format!("http://{}", running.admin)));
        self
    }

    fn query(mut self, query: &Query) -> Self {
        self.variables.push(("QUERY", format!("http://{}", query.running.admin)));
        self.variables.push(("API", format!("http://{}", query.http)));
        self
    }

    fn lists(mut self, folder: &Path) -> Self {
        self.variables.push(("LISTS", folder.to_str().unwrap().to_owned()));
        self
    }

    /// A journal with this log, because no test runs below systemd.
    pub(crate) fn journal(self, scene: &Scene, log: &str) -> Self {
        let folder = scene.directory.path();
        fs::write(folder.join("journal"), log).unwrap();
        let program = folder.join("tools/journalctl");
        let text = format!("#!/bin/sh\ncat '{}'\n", folder.join("journal").display());
        fs::write(&program, text).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Runs the commands of the entry and checks their output for these words.
    pub(crate) fn shows(&self, heading: &str, words: &[&str]) {
        let entries = runbook();
        let commands = commands(&entries[heading]);
        let output = Command::new("bash")
            .args(["-c", commands])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env("PATH", &self.path)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        for word in words {
            assert!(
                text.contains(word),
                "{heading}: no {word:?} in what\n{commands}\nshowed:\n{text}"
            );
        }
    }
}

/// A record that is not JSON.
fn rejected() -> Record {
    Record { value: Some(b"<html>".to_vec()), ..Record::default() }
}

#[tokio::test]
async fn a_database_that_is_away() {
    let mut server = Postgres::start();
    let scene = Scene::without_topic("runbook-database", server.database().await.url);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[]);
    // The only partition belongs to the first ingester, which writes the account. This one has nothing to write.
    let mut spare = scene.ingester(&[]);
    let mut query = scene.query();
    server.stop(StopMode::Fast);
    ingester.shows("paused").await;
    query.running.shows("paused").await;
    let (_, answer) = spare.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().starts_with("database_silent: "), "{answer}");
    let without_work = Shell::new(&scene).ingester(&spare).query(&query);
    without_work.shows("Paused: database_silent", &["PROBLEM store"]);
    let shell = without_work.ingester(&ingester);
    scene.produce([generated(0, 0)]).await;
    eventually("the write to fail", PATIENCE, async || {
        let (_, answer) = ingester.readyz()?;
        answer["reason"].as_str()?.starts_with("database_away: ").then_some(())
    })
    .await;
    // The address shows where `store.url` leads, which an operator cannot see in `store.url_file`.
    shell.shows("Paused: database_away", &["PROBLEM store", testkit::host_of(&scene.store)]);
    shell.shows("State: paused", &["database"]);
    shell.shows("PublicationQueryNotReady", &["\"state\":\"paused\"", "database"]);
    shell.shows("PublicationStoreRetries", &["PROBLEM store"]);
    let shell = shell.journal(&scene, &ingester.daemon.log());
    shell.shows("PublicationLagBurnsSlowly", &["waiting; it is tried again", "assigned"]);
}

#[tokio::test]
async fn a_database_that_takes_no_writes() {
    let scene = Scene::new("runbook-read-only", 1).await;
    scene.must("migrate", &[]);
    DatabaseAdmin::of(&scene.store).alter("SET default_transaction_read_only = on").await;
    Shell::new(&scene).shows("PublicationStoreRetries", &["store.read_only", "usename"]);
}

#[tokio::test]
async fn a_topic_that_is_not_there() {
    let scene = Scene::without_topic("runbook-topic", testkit::postgres().database().await.url);
    let refresh = [("INGESTER_KAFKA__CLIENT__TOPIC_METADATA_REFRESH_INTERVAL_MS", "500")];
    let mut ingester = scene.start_ingester(&refresh);
    let (_, answer) = ingester.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().starts_with("topic_missing: "), "{answer}");
    Shell::new(&scene).shows("Paused: topic_missing", &["PROBLEM source", &scene.topic]);
}

#[tokio::test]
async fn brokers_that_do_not_answer() {
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(free_address(), "runbook-kafka", store);
    let mut ingester = scene.start_ingester(&[]);
    let (_, answer) = ingester.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().starts_with("kafka_away: "), "{answer}");
    Shell::new(&scene).shows("Paused: kafka_away", &["PROBLEM kafka", &scene.brokers]);
}

/// The group's coordinator receives the request for the committed offsets, and no response arrives.
#[tokio::test]
async fn start_offsets_that_do_not_arrive() {
    const OFFSET_FETCH: u16 = 9;
    let proxy = Proxy::start();
    let kafka = Kafka::builder().listener("PROXIED", "PLAINTEXT", Some(proxy.port())).start();
    proxy.forward_to(&kafka.listener("PROXIED"));
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "runbook-starts", store);
    scene.make_topic(1, &[]).await;
    scene.produce([generated(0, 0)]).await;
    proxy.set(NetworkFault::RequestsLost(OFFSET_FETCH));
    let mut ingester = scene.start_ingester(&[("INGESTER_KAFKA__BROKERS", &proxy.address())]);
    let (_, answer) = ingester.shows("paused").await;
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.starts_with("start_offsets_unknown: partitions [0] of "), "{reason}");
    let mut shell = Shell::new(&scene);
    shell.variables.push(("KAFKA", proxy.address()));
    shell.shows("Paused: start_offsets_unknown", &["Timeout", "Leader: 1"]);
    assert_eq!(scene.count().await, 0, "nothing is read from anywhere");
    proxy.set(NetworkFault::None);
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    assert_eq!(scene.count().await, 1);
    ingester.stop();
}

/// Eight batches share one connection, and each of them takes seconds to write.
#[tokio::test]
async fn a_pool_that_is_too_small() {
    let scene = Scene::new("runbook-busy", 1).await;
    scene.must("migrate", &[]);
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql \
                AS $$ BEGIN PERFORM pg_sleep(0.04); RETURN NEW; END $$; \
                CREATE TRIGGER slow BEFORE INSERT ON publication FOR EACH ROW EXECUTE FUNCTION slow()";
    scene.execute(slow).await;
    scene.produce((0..2_000).map(|n| generated(n, 0))).await;
    let mut ingester = scene.start_ingester(&[
        ("INGESTER_STORE__MAX_CONNECTIONS", "1"),
        ("INGESTER_STORE__CONNECT_TIMEOUT", "1s"),
        ("INGESTER_STORE__STATEMENT_TIMEOUT", "60s"),
        ("INGESTER_BATCH__IN_FLIGHT", "8"),
        ("INGESTER_BATCH__MAX_ROWS", "100"),
    ]);
    eventually("a pause", PATIENCE, async || {
        let (_, answer) = ingester.readyz()?;
        let reason = answer["reason"].as_str()?;
        let words =
            "database_busy: no connection of the pool is free: all 1 (store.max_connections)";
        reason.starts_with(words).then_some(())
    })
    .await;
    Shell::new(&scene).shows("Paused: database_busy", &["Timeout", "WITH incoming AS"]);
    scene.execute("DROP TRIGGER slow ON publication").await;
    scene.caught_up(&mut ingester).await;
    ingester.shows("ready").await;
    ingester.stop();
    assert_eq!(scene.count().await, 2_000);
}

#[tokio::test]
async fn a_broker_that_refuses_a_right() {
    let kafka = rights::broker();
    let store = testkit::postgres().database().await.url;
    let scene = Scene::on(kafka.brokers(), "runbook-acls", store);
    scene.make_topic(1, &[]).await;
    testkit::topic(&scene.brokers, &scene.dead_letters, 1, &[("retention.ms", "-1")]).await;
    // With an ACL for one operation on a topic, all other operations are denied.
    let describe_only = |topic: &str| {
        let allow = ["--add", "--allow-principal", "User:*", "--operation", "Describe"];
        let settings = ["--operation", "DescribeConfigs", "--topic", topic];
        testkit::acls(&scene.brokers, &[&allow[..], &settings].concat());
    };
    let shell = Shell::new(&scene);

    describe_only(&scene.dead_letters);
    let mut ingester = scene.ingester(&[]);
    scene.produce([rejected()]).await;
    let (_, answer) = ingester.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().starts_with("dead_letters_wait: "), "{answer}");
    shell.shows("Paused: dead_letters_wait", &["PROBLEM dead_letters.write"]);
    ingester.stop();

    describe_only(&scene.topic);
    let mut refused = scene.start_ingester(&[]);
    let code = refused.daemon.wait_exit(PATIENCE).code();
    assert_eq!(code, Some(77), "{}", refused.daemon.log());
    shell.shows("Exit code 77", &["PROBLEM source.read"]);
}

#[tokio::test]
async fn a_transaction_that_is_left_open() {
    let scene = Scene::new("runbook-transaction", 1).await;
    let ingester = scene.ingester(&[]);
    let transaction = testkit::Transaction::begin(&scene.brokers, &scene.topic).await;
    transaction.produce(&scene.topic, [generated(0, 0)]).await;
    scene.produce([generated(1, 0)]).await;
    let shell = Shell::new(&scene).ingester(&ingester);
    let words = ["Ongoing", "from offset 0", "CurrentTransactionStartOffset"];
    shell.shows("PublicationPartitionStopped", &words);
    transaction.end(true).await;
    ingester.stop();
}

#[tokio::test]
async fn nothing_but_rejections() {
    let scene = Scene::new("runbook-rejections", 1).await;
    let mut ingester = scene.ingester(&[("INGESTER_REJECT__MAX_CONSECUTIVE", "3")]);
    scene.produce((0..3).map(|_| rejected())).await;
    let (_, answer) = ingester.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().starts_with("rejection_limit: "), "{answer}");
    let letters = async || testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len();
    eventually("the dead letters", PATIENCE, async || letters().await == 3).await;
    let shell = Shell::new(&scene);
    shell.shows("Paused: rejection_limit", &["not_json", "3"]);
    shell.shows("PublicationDeadLetters", &["not_json", "3"]);
}

#[tokio::test]
async fn exit_codes() {
    let scene = Scene::new("runbook-exits", 1).await;
    scene.produce((0..100).map(|n| generated(n, 0))).await;
    scene.ingest(&[("INGESTER_ENRICH__GENERATION", "2")]).await;
    let shell = || {
        fs::remove_dir_all(scene.directory.path().join("tools")).ok();
        Shell::new(&scene)
    };
    let ends = |code: i32, settings: &[(&str, &str)]| {
        let mut ended = scene.start_ingester(settings);
        assert_eq!(ended.daemon.wait_exit(PATIENCE).code(), Some(code), "{}", ended.daemon.log());
    };

    ends(1, &[]);
    shell().shows("Exit code 1", &["store.generation"]);

    let unknown = [("INGESTER_KAFKA__BROKER", "marked-value")];
    ends(78, &unknown);
    shell().with(&unknown).shows("Exit code 78", &["kafka.broker"]);

    scene.produce((100..200).map(|n| generated(n, 0))).await;
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 150).await;
    ends(65, &[("INGESTER_KAFKA__ON_GAP", "stop"), ("INGESTER_ENRICH__GENERATION", "2")]);
    let earliest = format!("{}:0:150", scene.topic);
    shell().shows("Exit code 65", &[" 100 ", &earliest]);
}

#[tokio::test]
async fn events_that_contradict_each_other() {
    let scene = Scene::new("runbook-disputed", 1).await;
    let one = event("contradicted", "1.0.0");
    let other = with(event("contradicted", "1.0.0"), "/data/actor/username", json!("mallory"));
    scene.produce([structured(&one), structured(&other)]).await;
    scene.ingest(&[]).await;
    let query = scene.query();
    Shell::new(&scene).query(&query).shows("PublicationDisputed", &["contradicted", "1.0.0"]);
}

#[tokio::test]
async fn lists_that_are_refused_or_missing() {
    let scene = Scene::new("runbook-lists", 1).await;
    let lists = scene.directory.path().join("lists");
    fs::create_dir(&lists).unwrap();
    let set = [("INGESTER_TOR__EXIT_LISTS", lists.to_str().unwrap())];
    let shell = Shell::new(&scene).with(&set).lists(&lists);
    shell.shows("PublicationExitListMissing", &["no valid list"]);
    fs::write(lists.join("2024-03-05-10-02-00"), "<html>503</html>").unwrap();
    shell.shows("PublicationExitListsRefused", &["2024-03-05-10-02-00"]);
}

#[tokio::test]
async fn a_query_daemon_whose_statements_fail() {
    let scene = Scene::new("runbook-errors", 1).await;
    scene.must("migrate", &[]);
    let query = scene.query();
    scene.execute("ALTER TABLE publication RENAME TO elsewhere").await;
    let (status, body) = query.post(crate::support::SEED, json!({}));
    assert!(status >= 500, "{status} {body}");
    let shell = Shell::new(&scene).query(&query);
    shell.shows("PublicationQueryErrors", &["status=\"5xx\"", "class=\"fatal\""]);
}

/// At least ten entries are tested above.
#[test]
fn enough_entries_are_tried() {
    let text = include_str!("runbook.rs");
    let tried = runbook().into_keys().filter(|heading| text.contains(&format!("\"{heading}\"")));
    let tried: BTreeSet<_> = tried.collect();
    assert!(tried.len() >= 10, "{tried:?}");
}
