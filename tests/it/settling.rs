//! Verdicts that are updated by new lists: later ones, older ones, broken ones, and lists that arrive while no ingester runs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{DatabaseAdmin, Record, eventually};

use crate::support::{Running, Scene, event, structured, with, write_snapshot};

/// An exit scanned before T, only in a list that arrives late.
const EXIT: &str = "109.70.100.19";
/// An exit scanned an hour after T, and never before.
const EXIT_AFTER: &str = "109.70.100.20";
/// An exit that a list names only after it was written again, with as many addresses as before.
const EXIT_ADDED: &str = "109.70.100.21";

/// Puts the acts of these tests within the horizon.
pub(crate) const ANY_AGE: (&str, &str) = ("INGESTER_TOR__SETTLE_HORIZON", "30years");

const SNAPSHOTS: &str = "INGESTER_TOR__SNAPSHOTS";

/// An empty folder.
fn folder(scene: &Scene, name: &str) -> PathBuf {
    let folder = scene.directory.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// The settings of an ingester that reads the lists of a folder every second, and settles acts of any age.
fn followed<'p>(key: &'static str, lists: &'p Path) -> [(&'static str, &'p str); 3] {
    [(key, lists.to_str().unwrap()), ("INGESTER_TOR__REFRESH_EVERY", "1s"), ANY_AGE]
}

/// A publication at the example's T, 2019-07-25T18:09:11.204Z, from this address.
fn from(name: &str, address: &str) -> Value {
    with(event(name, "1.0.0"), "/data/request/ip", json!(address))
}

/// Name, `tor`, reason and whether settled, of each row.
async fn verdicts(scene: &Scene) -> Vec<String> {
    let column = |row: &crate::support::Row, name: &str| row[name].clone().unwrap_or("null".into());
    let verdict = |row| {
        let [name, tor, reason] = ["name", "tor", "tor_reason"].map(|name| column(&row, name));
        let settled = if column(&row, "tor_settled") == "true" { "settled" } else { "open" };
        format!("{name} {tor} {reason} {settled}")
    };
    scene.rows().await.into_iter().map(verdict).collect()
}

/// Records read and rows written by each finished settling pass, from the log.
fn passes(log: &str) -> Vec<(u64, u64)> {
    let number = |line: &str, name: &str| {
        let (_, value) = line.split_once(name)?;
        value.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok()
    };
    let lines = log.lines().filter(|line| line.contains("settling: done"));
    lines.map(|line| (number(line, "records").unwrap(), number(line, "rows").unwrap())).collect()
}

async fn become_these(scene: &Scene, running: &mut Running, expected: &[&str]) {
    eventually(&format!("the verdicts {expected:?}"), crate::support::PATIENCE, async || {
        assert!(running.daemon.is_running(), "the ingester ended:\n{}", running.daemon.log());
        verdicts(scene).await == expected
    })
    .await;
}

#[tokio::test]
async fn rows_change_when_lists_come_without_anybody_doing_anything() {
    let scene = Scene::new("settling", 2).await;
    let lists = folder(&scene, "lists");
    let environment = followed(SNAPSHOTS, &lists);
    let mut ingester = scene.ingester(&environment);
    let events = [
        from("exit", EXIT),
        from("exit-added", EXIT_ADDED),
        from("exit-after", EXIT_AFTER),
        from("other", "71.160.223.45"),
        from("six", "2620:7:6001::101"),
    ];
    let poison = Record { value: Some(b"{".into()), ..Record::default() };
    scene.produce(events.iter().map(structured).chain([poison])).await;
    scene.caught_up(&mut ingester).await;
    let none = ["exit", "exit-added", "exit-after", "other", "six"];
    let none = none.map(|name| format!("{name} null no_coverage open"));
    assert_eq!(verdicts(&scene).await, none);

    // A list before T without these addresses: for now they are not listed. It covers no IPv6.
    write_snapshot(&lists, "2019-07-25-18-00-00", &["109.70.100.99"]);
    let unlisted = [
        "exit false not_listed open",
        "exit-added false not_listed open",
        "exit-after false not_listed open",
        "other false not_listed open",
        "six null no_coverage open",
    ];
    become_these(&scene, &mut ingester, &unlisted).await;

    // The newest list again, with another address in the place of one.
    write_snapshot(&lists, "2019-07-25-18-00-00", &[EXIT_ADDED]);
    let added = [
        "exit false not_listed open",
        "exit-added true snapshot settled",
        "exit-after false not_listed open",
        "other false not_listed open",
        "six null no_coverage open",
    ];
    become_these(&scene, &mut ingester, &added).await;

    // An older list that arrives late, and a list after T. Between them an error page, which replaces nothing.
    std::fs::write(lists.join("2019-07-25-18-30-00"), "<html>503</html>").unwrap();
    write_snapshot(&lists, "2019-07-25-17-00-00", &[EXIT]);
    write_snapshot(&lists, "2019-07-25-19-00-00", &[EXIT_AFTER]);
    let gained = [
        "exit true snapshot settled",
        "exit-added true snapshot settled",
        "exit-after null listed_after open",
        "other false not_listed open",
        "six null no_coverage open",
    ];
    become_these(&scene, &mut ingester, &gained).await;
    let metrics = ingester.metrics();
    assert_eq!(metrics.sum("records_total"), 6.0, "what is read again is not counted again");
    assert_eq!(metrics.get(r#"exit_lists_refused_total{source="snapshot"}"#), Some(1.0));

    // The list that settles them arrives while no ingester runs.
    ingester.stop();
    write_snapshot(&lists, "2019-07-25-21-30-00", &[]);
    let mut ingester = scene.ingester(&environment);
    let settled = [
        "exit true snapshot settled",
        "exit-added true snapshot settled",
        "exit-after null listed_after settled",
        "other false not_listed settled",
        "six null no_coverage settled",
    ];
    become_these(&scene, &mut ingester, &settled).await;
    assert_eq!(ingester.metrics().sum("records_total"), 0.0);
    ingester.stop();
    let letters = testkit::consume_all(&scene.brokers, &scene.dead_letters).await;
    assert_eq!(letters.len(), 1, "a settling pass rejects nothing anew");
    assert_eq!(scene.lag().await, 0);
}

/// What a list had changed is lost with a restored copy. The partition forgets by which lists it is settled.
#[tokio::test]
async fn a_database_that_went_back_is_settled_again_without_a_new_list() {
    let scene = Scene::new("settling-back", 1).await;
    let admin = DatabaseAdmin::of(&scene.store);
    let lists = folder(&scene, "lists");
    let environment = followed(SNAPSHOTS, &lists);
    write_snapshot(&lists, "2019-07-25-18-00-00", &[]);
    let mut ingester = scene.ingester(&environment);
    scene.produce([structured(&from("exit", EXIT))]).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(verdicts(&scene).await, ["exit false not_listed open"]);
    admin.copy().await;
    write_snapshot(&lists, "2019-07-25-17-00-00", &[EXIT]);
    become_these(&scene, &mut ingester, &["exit true snapshot settled"]).await;
    scene.produce([structured(&from("other", "71.160.223.45"))]).await;
    let both = ["exit true snapshot settled", "other false not_listed open"];
    become_these(&scene, &mut ingester, &both).await;
    scene.caught_up(&mut ingester).await;

    admin.put_back().await;
    become_these(&scene, &mut ingester, &both).await;
    assert_eq!(ingester.metrics().get("store_rewound_records_total"), Some(1.0));
    ingester.stop();
}

/// An Anonymous IP database is evidence of its build's time on, and the build after it settles what it does not name.
#[tokio::test]
async fn databases_of_anonymous_addresses_are_evidence() {
    const DATABASE: &[u8] =
        include_bytes!("../../crates/enrich/tests/data/anonymous-ip/GeoIP2-Anonymous-IP-Test.mmdb");
    /// When that database was built: 2026-02-04T22:49:29Z.
    const BUILT: u32 = 1_770_245_369;
    let scene = Scene::new("settling-databases", 1).await;
    let databases = folder(&scene, "databases");
    let environment = followed("INGESTER_TOR__ANONYMOUS_IP", &databases);
    let mut ingester = scene.ingester(&environment);
    let at = |name: &str, address: &str| {
        with(from(name, address), "/data/publishedAt", json!("2026-02-05T12:00:00Z"))
    };
    let events = [at("exit", "81.2.69.160"), at("other", "71.160.223.45")];
    scene.produce(events.iter().map(structured)).await;
    scene.caught_up(&mut ingester).await;
    let none = ["exit null no_coverage open", "other null no_coverage open"];
    assert_eq!(verdicts(&scene).await, none);
    std::fs::write(databases.join("first.mmdb"), DATABASE).unwrap();
    let named = ["exit true anonymous_ip settled", "other false not_listed open"];
    become_these(&scene, &mut ingester, &named).await;
    let mut later = DATABASE.to_vec();
    let key = b"build_epoch";
    let epoch = later.windows(key.len()).rposition(|part| part == key).unwrap() + key.len();
    let epoch = (epoch..).find(|&at| later[at..at + 4] == BUILT.to_be_bytes()).unwrap();
    later[epoch..epoch + 4].copy_from_slice(&(BUILT + 4 * 86_400).to_be_bytes());
    std::fs::write(databases.join("second.mmdb"), later).unwrap();
    let settled = ["exit true anonymous_ip settled", "other false not_listed settled"];
    become_these(&scene, &mut ingester, &settled).await;
    ingester.stop();
}

/// A list older than the newest one changes settled verdicts, also when it arrived while no ingester ran.
#[tokio::test]
async fn an_older_list_that_came_between_two_runs_is_not_missed() {
    let scene = Scene::new("settling-between", 1).await;
    let lists = folder(&scene, "lists");
    let environment = [(SNAPSHOTS, lists.to_str().unwrap()), ANY_AGE];
    write_snapshot(&lists, "2019-07-25-18-00-00", &[]);
    write_snapshot(&lists, "2019-07-25-22-00-00", &[]);
    let mut ingester = scene.ingester(&environment);
    scene
        .produce([structured(&from("exit", EXIT)), structured(&from("other", "71.160.223.45"))])
        .await;
    scene.caught_up(&mut ingester).await;
    let unlisted = ["exit false not_listed settled", "other false not_listed settled"];
    assert_eq!(verdicts(&scene).await, unlisted);
    ingester.stop();

    write_snapshot(&lists, "2019-07-25-17-00-00", &[EXIT]);
    let mut ingester = scene.ingester(&environment);
    let listed = ["exit true snapshot settled", "other false not_listed settled"];
    become_these(&scene, &mut ingester, &listed).await;
    eventually("the pass to end", crate::support::PATIENCE, async || {
        passes(&ingester.daemon.log()) == [(2, 1)]
    })
    .await;
    scene.produce([structured(&from("third", "71.160.223.45"))]).await;
    scene.caught_up(&mut ingester).await;
    ingester.stop();

    // A newer list changes no settled verdict.
    write_snapshot(&lists, "2019-07-25-23-00-00", &[]);
    let mut ingester = scene.ingester(&environment);
    scene.produce([structured(&from("fourth", "71.160.223.45"))]).await;
    scene.caught_up(&mut ingester).await;
    let log = ingester.stop();
    assert_eq!(passes(&log), []);
}

/// The cost of settling: records read and rows written, with and without changes.
#[tokio::test]
async fn a_pass_reads_and_writes_what_it_must_and_no_pass_is_run_for_nothing() {
    let scene = Scene::new("settling-cost", 2).await;
    let lists = folder(&scene, "lists");
    write_snapshot(&lists, "2019-07-25-18-00-00", &[]);
    let within = followed(SNAPSHOTS, &lists);
    let fast = [within[0], within[1]];
    let mut ingester = scene.ingester(&within);
    let others = (0..10).map(|n| structured(&from(&format!("other-{n}"), "71.160.223.45")));
    scene.produce(others.chain([structured(&from("exit", EXIT))])).await;
    scene.caught_up(&mut ingester).await;

    // One of eleven verdicts changes. The others stay open and are not written.
    write_snapshot(&lists, "2019-07-25-18-05-00", &[EXIT]);
    let settled = async |ingester: &mut Running, expected: &[(u64, u64)]| {
        eventually(&format!("the passes {expected:?}"), crate::support::PATIENCE, async || {
            assert!(ingester.daemon.is_running(), "{}", ingester.daemon.log());
            passes(&ingester.daemon.log()) == expected
        })
        .await;
    };
    settled(&mut ingester, &[(11, 1)]).await;
    // A list without these addresses: ten open rows are read, and none is written.
    write_snapshot(&lists, "2019-07-25-18-07-00", &[]);
    settled(&mut ingester, &[(11, 1), (11, 0)]).await;
    // Records in both partitions, so that both store which lists they are settled by.
    let late = (0..20).map(|n| structured(&from(&format!("late-{n}"), EXIT_AFTER)));
    scene.produce(late).await;
    scene.caught_up(&mut ingester).await;
    ingester.stop();

    // A restart, and a second member that takes over a partition. The lists are the same, so nothing is read.
    let mut first = scene.ingester(&within);
    let mut second = scene.ingester(&within);
    let more = (0..20).map(|n| structured(&from(&format!("more-{n}"), "71.160.223.45")));
    scene.produce(more).await;
    scene.caught_up(&mut first).await;
    scene.caught_up(&mut second).await;
    for member in [first, second] {
        let log = member.stop();
        assert!(!log.contains("evaluating again"), "{log}");
    }

    // The rows of 2019 are open but older than the horizon of seven days: a new list starts no pass for them.
    let mut ingester = scene.ingester(&fast);
    write_snapshot(&lists, "2019-07-25-18-08-00", &[]);
    eventually("the list to be seen", crate::support::PATIENCE, async || {
        assert!(ingester.daemon.is_running(), "{}", ingester.daemon.log());
        ingester.daemon.log().contains("2019-07-25T18:08:00")
    })
    .await;
    scene.produce([structured(&from("last", "71.160.223.45"))]).await;
    scene.caught_up(&mut ingester).await;
    let log = ingester.stop();
    assert!(!log.contains("evaluating again"), "{log}");
}

#[tokio::test]
async fn a_row_that_the_database_refuses_in_a_pass_is_named_and_tried_with_the_next_list() {
    let scene = Scene::new("settling-refused", 1).await;
    let lists = folder(&scene, "lists");
    write_snapshot(&lists, "2019-07-25-18-00-00", &[]);
    write_snapshot(&lists, "2019-07-25-21-30-00", &[]);
    let mut ingester = scene.ingester(&followed(SNAPSHOTS, &lists));
    scene.produce(["bad", "good"].map(|name| structured(&from(name, EXIT)))).await;
    scene.caught_up(&mut ingester).await;
    let none = ["bad false not_listed settled", "good false not_listed settled"];
    become_these(&scene, &mut ingester, &none).await;

    scene
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.name = 'bad' THEN RAISE EXCEPTION 'closed'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON publication FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    write_snapshot(&lists, "2019-07-25-17-00-00", &[EXIT]);
    let refused = ["bad false not_listed settled", "good true snapshot settled"];
    become_these(&scene, &mut ingester, &refused).await;
    eventually("the end of the pass", crate::support::PATIENCE, async || {
        !passes(&ingester.daemon.log()).is_empty()
    })
    .await;
    let log = ingester.daemon.log();
    assert!(log.contains("the database refused a row"), "{log}");

    scene.execute("DROP TRIGGER refuse ON publication").await;
    write_snapshot(&lists, "2019-07-25-22-00-00", &[]);
    let both = ["bad true snapshot settled", "good true snapshot settled"];
    become_these(&scene, &mut ingester, &both).await;
}

#[tokio::test]
async fn a_folder_of_lists_that_is_missing_stops_no_record() {
    let scene = Scene::new("settling-folder", 1).await;
    let lists = scene.directory.path().join("lists");
    let environment = followed(SNAPSHOTS, &lists);
    let mut ingester = scene.ingester(&environment);
    scene.produce([structured(&from("exit", EXIT))]).await;
    scene.caught_up(&mut ingester).await;
    assert_eq!(verdicts(&scene).await, ["exit null no_coverage open"]);
    assert!(
        ingester.daemon.log().contains("tor.snapshots: cannot read"),
        "{}",
        ingester.daemon.log()
    );
    // The alert on a source without a list compares these.
    assert_eq!(ingester.metrics().family("exit_list_age_seconds").len(), 0);
    assert_eq!(ingester.metrics().family("exit_lists_refused_total").len(), 1);
    std::fs::create_dir(&lists).unwrap();
    write_snapshot(&lists, "2019-07-25-18-00-00", &[EXIT]);
    become_these(&scene, &mut ingester, &["exit true snapshot settled"]).await;
    ingester.stop();
}

#[tokio::test]
async fn questions_about_lists_are_answered_on_the_command_line() {
    let scene = Scene::without_topic("tor-command", "sqlite://unused.db".into());
    let lists = folder(&scene, "lists");
    write_snapshot(&lists, "2019-07-25-17-00-00", &[EXIT]);
    std::fs::write(lists.join("2019-07-25-18-00-00"), "").unwrap();
    let run = |arguments: &[&str], code: i32| {
        let command = scene.ingester_command("tor", "127.0.0.1:0").args(arguments);
        let mut daemon = command.env(SNAPSHOTS, &lists).spawn();
        let status = daemon.wait_exit(crate::support::PATIENCE);
        assert_eq!(status.code(), Some(code), "{arguments:?}:\n{}", daemon.log());
        daemon.log()
    };
    let explained = run(&["explain", "--address", EXIT, "--at", "2019-07-25T18:09:11.204Z"], 0);
    assert!(
        explained.contains("tor true, by snapshot; later lists cannot change it"),
        "{explained}"
    );
    assert!(explained.contains("2019-07-25T17:00:00.000000Z snapshot"), "{explained}");
    let coverage = run(&["coverage"], 0);
    assert!(coverage.contains("2019-07-25  IPv4"), "{coverage}");
    let verified = run(&["verify", "--source", "snapshots", lists.to_str().unwrap()], 1);
    assert!(verified.contains("2019-07-25-18-00-00: holds no address"), "{verified}");
    assert!(verified.contains("2 files, 1 valid, 1 refused"), "{verified}");
    run(&["explain", "--address", EXIT, "--at", "yesterday"], 2);
}
