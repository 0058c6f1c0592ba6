//! Replays as an operator runs them: planned, dry runs, watched, killed, resumed, cancelled.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::{Daemon, Record, eventually};

use crate::support::{PATIENCE, Row, Running, Scene, event, generated, structured, with};

/// The result of an ingester command: exit code, the JSON lines of standard output, and the whole output.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) lines: Vec<Value>,
    pub(crate) log: String,
}

impl Answer {
    pub(crate) fn of(mut daemon: Daemon) -> Self {
        let code = daemon.wait_exit(PATIENCE).code();
        let log = daemon.log();
        Self { code, lines: json_lines(&log), log }
    }

    /// The value of the last line `{"what": …}`.
    pub(crate) fn last(&self, what: &str) -> Value {
        let found = self.lines.iter().rev().find_map(|line| line.get(what));
        found.unwrap_or_else(|| panic!("no {what} in:\n{}", self.log)).clone()
    }
}

pub(crate) fn json_lines(log: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect()
}

impl Scene {
    /// Runs a command of the ingester to its end.
    pub(crate) fn ask(
        &self,
        command: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Answer {
        Answer::of(self.start(command, arguments, environment))
    }

    pub(crate) fn start(
        &self,
        command: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Daemon {
        let command = self.ingester_command(command, "127.0.0.1:0").args(arguments);
        environment.iter().fold(command, |command, (name, value)| command.env(name, value)).spawn()
    }

    /// [`Scene::ask`], which must succeed.
    pub(crate) fn must(&self, command: &str, arguments: &[&str]) -> Answer {
        let answer = self.ask(command, arguments, &[]);
        assert_eq!(answer.code, Some(0), "{command} {arguments:?}:\n{}", answer.log);
        answer
    }

    /// Ingests all produced records, then stops.
    pub(crate) async fn ingest(&self, environment: &[(&str, &str)]) {
        let mut ingester = self.ingester(environment);
        self.caught_up(&mut ingester).await;
        ingester.stop();
    }
}

/// Rows by name and version.
pub(crate) fn by_key(rows: Vec<Row>) -> BTreeMap<(String, String), Row> {
    let key = |row: &Row, column: &str| row[column].clone().unwrap_or_default();
    rows.into_iter().map(|row| ((key(&row, "name"), key(&row, "version")), row)).collect()
}

/// Small batches, so that a kill leaves most records unfinished.
pub(crate) const SLOW: [(&str, &str); 3] = [
    ("INGESTER_BATCH__MAX_ROWS", "500"),
    ("INGESTER_BATCH__IN_FLIGHT", "1"),
    ("INGESTER_LIMITS__MAX_BUFFERED_BYTES", "2MiB"),
];

fn timed(record: Record, millis: i64) -> Record {
    Record { timestamp: Some(millis), ..record }
}

#[tokio::test]
async fn a_replay_by_time_killed_half_way_and_resumed_restores_its_part() {
    const EVENTS: usize = 50_000;
    const STEP: i64 = 1_000;
    let scene = Scene::new("replay", 4).await;
    scene
        .produce((0..EVENTS).map(|n| timed(generated(n, 0), 1_709_633_000_000 + STEP * n as i64)))
        .await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    let before = by_key(scene.rows().await);
    assert_eq!(before.len(), EVENTS);
    scene.execute("DELETE FROM publication").await;

    // The second to the fourth fifth of the topic by time, both ends inclusive.
    let time = |n: i64| (1_709_633_000_000 + STEP * n).to_string();
    let iso = |n: i64| millis_to_iso(time(n).parse().unwrap());
    let (from, until) = (iso(10_000), iso(39_999));
    let arguments =
        ["--from", &from, "--until", &until, "--reason", "a restored backup", "--rate", "8000"];
    let mut running = scene.start("replay", &arguments, &SLOW);
    // Live ingestion continues meanwhile.
    scene.produce((EVENTS..EVENTS + 3_000).map(|n| generated(n, 0))).await;
    eventually("a third of the rows", PATIENCE, async || {
        assert!(running.is_running(), "{}", running.log());
        scene.count().await > 13_000
    })
    .await;
    running.kill();
    let listed = scene.must("replay", &["list"]).last("job");
    assert_eq!(listed["state"], "running", "nobody was left to say otherwise");
    assert_eq!(listed["reason"], "a restored backup");
    assert!(listed["who"].as_str().unwrap().contains('@'), "{listed}");
    let written: u64 = counted(&listed["counts"]);
    assert!(written > 0 && written < 30_000, "{listed}");

    let id = listed["id"].to_string();
    let resumed = scene.must("replay", &["resume", &id]);
    let done = resumed.last("done");
    assert_eq!(done["state"], "done");
    assert_eq!(counted(&done["counts"]), 30_000, "each record of the range once: {done}");
    scene.caught_up(&mut ingester).await;
    // Of the live records, only those produced meanwhile are not from 2024.
    let within = ingester.metrics().get("publish_to_row_seconds_bucket{le=\"5\"}");
    ingester.stop();
    assert_eq!(within, Some(3_000.0), "live ingest was never 5 s behind");
    let restored = by_key(scene.rows().await);
    let part: Vec<_> = before.iter().filter(|(_, row)| in_part(row)).collect();
    assert_eq!(part.len(), 30_000);
    for (key, row) in part {
        assert_eq!(restored.get(key), Some(row));
    }
    assert_eq!(restored.len(), 30_000 + 3_000, "the part and what came meanwhile");
    let refused = scene.ask("replay", &["resume", &id], &[]);
    assert!(refused.code == Some(1) && refused.log.contains("is done"), "{}", refused.log);
}

fn in_part(row: &Row) -> bool {
    let number = row["name"].as_deref().and_then(|name| name.strip_prefix("package-"));
    (10_000..40_000).contains(&number.unwrap().parse::<i32>().unwrap())
}

/// The number of records in a job's counts.
fn counted(counts: &Value) -> u64 {
    let number = |name: &str| counts[name].as_u64().unwrap_or(0);
    let rejected = counts["rejected"].as_object().into_iter().flatten();
    ["inserted", "updated", "unchanged", "skipped"].map(number).iter().sum::<u64>()
        + rejected.filter_map(|(_, count)| count.as_u64()).sum::<u64>()
}

/// An RFC 3339 time in March 2024.
pub(crate) fn millis_to_iso(millis: i64) -> String {
    let march = 1_709_251_200_000;
    let of = millis - march;
    let (day, rest) = (of / 86_400_000, of % 86_400_000);
    format!(
        "2024-03-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        day + 1,
        rest / 3_600_000,
        rest / 60_000 % 60,
        rest / 1_000 % 60,
        rest % 1_000
    )
}

#[tokio::test]
async fn a_dry_run_foretells_exactly_what_the_run_changes() {
    let scene = Scene::new("dry-run", 2).await;
    let wrong = |n: usize, revision: u32, presented: bool| {
        let event = with(event(&format!("p{n}"), "1.0.0"), "/data/revision", json!(revision));
        let event = with(
            event,
            "/data/auth/secondFactor",
            json!({"presented": presented, "verified": presented, "method": "totp"}),
        );
        with(event, "/id", json!(format!("{n}-{revision}")))
    };
    // During the bug, half of the events had wrong data.
    let mut records: Vec<Record> = (0..300)
        .map(|n| structured(&wrong(n, 0, n % 2 == 0 && !(100..200).contains(&n))))
        .collect();
    scene.produce(records.clone()).await;
    scene.ingest(&[]).await;
    // The corrections, not seen by the stopped ingester; also a new package, invalid data, a tombstone, a repetition.
    let corrections = (100..200).map(|n| structured(&wrong(n, 1, n % 2 == 0)));
    let mut later: Vec<Record> = corrections.collect();
    later.push(structured(&event("new", "1.0.0")));
    later.push(Record { value: Some(b"{".into()), ..Record::default() });
    later.push(Record::default());
    later.push(records.remove(0));
    let positions = scene.produce(later.clone()).await;
    let before = by_key(scene.rows().await);

    let range = ["--from", "earliest"];
    let foretold = scene.must("replay", &[&range[..], &["--dry-run"]].concat()).last("dry_run");
    assert_eq!(by_key(scene.rows().await), before, "nothing is written");
    let expected = json!({
        "records": 300 + later.len(), "inserted": 1, "updated": 100, "unchanged": 301, "skipped": 1,
        "rejected": {"not_json": 1},
        "fields": {"tfa": 50, "tfa_reason": 50, "revision": 100, "event_identity": 100},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&foretold[name], value, "{name} in {foretold}");
    }
    let example = &foretold["rejected_examples"][0];
    let bad = positions[101];
    assert_eq!((&example["partition"], &example["offset"]), (&json!(bad.0), &json!(bad.1)));
    assert!(!foretold.to_string().contains("71.160.223.45"));

    let done = scene.must("replay", &range).last("done");
    let counts = &done["counts"];
    assert_eq!((&counts["inserted"], &counts["updated"]), (&json!(1), &json!(100)), "{done}");
    let after = by_key(scene.rows().await);
    let mut changed: BTreeMap<&str, u64> = BTreeMap::new();
    for (key, row) in &before {
        for (column, value) in row {
            *changed.entry(column).or_default() += u64::from(after[key][column] != *value);
        }
    }
    changed.retain(|_, count| *count > 0);
    let fields = foretold["fields"].as_object().unwrap();
    let fields: BTreeMap<&str, u64> =
        fields.iter().map(|(name, count)| (&**name, count.as_u64().unwrap())).collect();
    assert_eq!(changed, fields);
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len(), 0);
    let foretold = scene.must("replay", &[&range[..], &["--dry-run"]].concat()).last("dry_run");
    assert_eq!((&foretold["inserted"], &foretold["updated"]), (&json!(0), &json!(0)));
    scene.must("replay", &[&range[..], &["--dead-letter"]].concat());
    assert_eq!(testkit::consume_all(&scene.brokers, &scene.dead_letters).await.len(), 1);
}

#[tokio::test]
async fn a_running_replay_is_cancelled_and_one_that_is_taken_over_stops() {
    let scene = Scene::new("cancel", 1).await;
    scene.produce((0..5_000).map(|n| generated(n, 0))).await;
    let mut running = scene.start("replay", &["--from", "0", "--rate", "200"], &[]);
    let id = job_of(&mut running).await;
    scene.must("replay", &["cancel", &id]);
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(1), "{}", running.log());
    let listed = scene.must("replay", &["list"]).last("job");
    assert_eq!(listed["state"], "cancelled");
    let written = counted(&listed["counts"]);
    assert_eq!(
        scene.count().await,
        i64::try_from(written).unwrap(),
        "what was read is written, and counted"
    );
    let refused = scene.ask("replay", &["cancel", &id], &[]);
    assert!(
        refused.code == Some(1) && refused.log.contains("is cancelled already"),
        "{}",
        refused.log
    );

    let mut first = scene.start("replay", &["resume", &id], &[]);
    job_of(&mut first).await;
    let mut second = scene.start("replay", &["resume", &id], &[]);
    job_of(&mut second).await;
    assert_eq!(first.wait_exit(PATIENCE).code(), Some(1));
    assert!(first.log().contains("taken over by another process"), "{}", first.log());
    // SIGTERM: all records that were read are written, and the job can be resumed.
    second.terminate();
    assert_eq!(second.wait_exit(PATIENCE).code(), Some(1), "{}", second.log());
    let listed = scene.must("replay", &["list"]).last("job");
    assert_eq!(
        (&listed["state"], &listed["note"]),
        (&json!("cancelled"), &json!("stopped by a signal"))
    );
    scene.execute("UPDATE replay_job SET what = jsonb_set(what, '{rate}', 'null')").await;
    let done = scene.must("replay", &["resume", &id]).last("done");
    assert_eq!(counted(&done["counts"]), 5_000);
    assert_eq!(scene.count().await, 5_000);
}

#[tokio::test]
async fn a_replay_whose_job_the_database_lost_says_so() {
    let scene = Scene::new("lost-job", 1).await;
    scene.produce((0..5_000).map(|n| generated(n, 0))).await;
    let mut running = scene.start("replay", &["--from", "0", "--rate", "200"], &[]);
    let id = job_of(&mut running).await;
    scene.execute("DELETE FROM replay_job").await;
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(1), "{}", running.log());
    let words = format!("the database has no job {id} any more: it went back in time");
    assert!(running.log().contains(&words), "{}", running.log());
}

/// The offsets of a job have no meaning in a topic that was created again, also between two runs of the job.
#[tokio::test]
async fn a_job_is_not_resumed_on_a_topic_that_was_created_again() {
    let scene = Scene::new("recreated", 1).await;
    scene.produce((0..2_000).map(|n| generated(n, 0))).await;
    let mut running = scene.start("replay", &["--from", "0", "--rate", "200"], &[]);
    let id = job_of(&mut running).await;
    running.terminate();
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(1), "{}", running.log());
    let written = scene.count().await;

    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(1, &[]).await;
    scene.produce((2_000..5_000).map(|n| generated(n, 0))).await;
    let resumed = scene.ask("replay", &["resume", &id], &[]);
    assert_eq!(resumed.code, Some(1), "{}", resumed.log);
    let job = scene.must("replay", &["list"]).last("job");
    assert_eq!(job["state"], "failed", "{job}");
    assert!(job["note"].as_str().unwrap().contains("the topic was created again"), "{job}");
    assert_eq!(scene.count().await, written);
}

/// Shorter than the interval at which a reader asks for the topic's id.
#[tokio::test]
async fn a_topic_that_is_created_again_under_a_short_replay_fails_it() {
    let scene = Scene::new("recreated-short", 1).await;
    scene.produce((0..2_000).map(|n| generated(n, 0))).await;
    let mut running = scene.start("replay", &["--from", "0", "--rate", "400"], &[]);
    job_of(&mut running).await;
    testkit::delete_topic(&scene.brokers, &scene.topic).await;
    scene.make_topic(1, &[]).await;
    scene.produce((2_000..4_000).map(|n| generated(n, 0))).await;
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(1), "{}", running.log());
    // The second message comes if the client asked while the topic did not exist.
    let is_named =
        ["created again", "UnknownTopic"].iter().any(|word| running.log().contains(word));
    assert!(is_named, "{}", running.log());
}

/// The daemon's settling pass skips the rows that the replay writes after it, so these would keep their verdicts.
#[tokio::test]
async fn a_list_of_the_past_that_comes_during_a_replay_fails_it() {
    let scene = Scene::new("lists-meanwhile", 1).await;
    scene.produce((0..1_000).map(|n| generated(n, 0))).await;
    let lists = scene.directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    crate::support::write_snapshot(&lists, "2019-07-25-18-00-00", &[]);
    let evidence = [("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap())];
    let range = ["--from", "0", "--rate", "300"];
    let mut running = scene.start("replay", &range, &evidence);
    job_of(&mut running).await;
    crate::support::write_snapshot(&lists, "2019-07-25-17-00-00", &["71.160.223.45"]);
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(1), "{}", running.log());
    let words = "the exit lists of the past changed while it ran";
    assert!(running.log().contains(words), "{}", running.log());
    assert_eq!(scene.count().await, 1_000);

    // A newer list settles rows later, by itself.
    let mut running = scene.start("replay", &range, &evidence);
    job_of(&mut running).await;
    crate::support::write_snapshot(&lists, "2019-07-25-19-00-00", &[]);
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(0), "{}", running.log());
}

/// The number of the job that a process runs, after its first progress line.
pub(crate) async fn job_of(running: &mut Daemon) -> String {
    eventually("progress", PATIENCE, async || {
        assert!(running.is_running(), "{}", running.log());
        let lines = json_lines(&running.log());
        lines.iter().find_map(|line| Some(line.get("progress")?["job"].to_string()))
    })
    .await
}

#[tokio::test]
async fn a_file_of_events_is_replayed_and_a_raised_generation_takes_verdicts_back() {
    let scene = Scene::without_topic("archive", testkit::postgres().database().await.url);
    let archive = scene.directory.path().join("events.ndjson");
    let events: Vec<String> =
        (0..100).map(|n| event(&format!("p{n}"), "1.0.0").to_string()).collect();
    std::fs::write(&archive, format!("{}\nrubbish\n\n", events.join("\n"))).unwrap();
    let lists = scene.directory.path().join("lists");
    std::fs::create_dir(&lists).unwrap();
    crate::support::write_snapshot(&lists, "2019-07-25-18-00-00", &["71.160.223.45"]);
    let file = ["--file", archive.to_str().unwrap()];
    let poisoned = [("INGESTER_TOR__SNAPSHOTS", lists.to_str().unwrap())];
    let replayed = scene.ask("replay", &file, &poisoned);
    assert_eq!(replayed.code, Some(1), "a line is rejected: {}", replayed.log);
    let done = replayed.last("done");
    assert_eq!(done["counts"]["inserted"], 100);
    assert_eq!(done["counts"]["rejected"], json!({"not_json": 1}));
    assert_eq!(done["rejected"][0]["offset"], 100, "by line");
    let tor = "SELECT count(*) FROM publication WHERE tor";
    assert_eq!(scene.number(tor).await, 100);

    // The list was poisoned. Removing it is not enough within a generation.
    crate::support::write_snapshot(&lists, "2019-07-25-18-00-00", &[]);
    scene.ask("replay", &file, &poisoned);
    assert_eq!(scene.number(tor).await, 100);
    let raised = [poisoned[0], ("INGESTER_ENRICH__GENERATION", "1")];
    let foretold =
        scene.ask("replay", &[&file[..], &["--dry-run"]].concat(), &raised).last("dry_run");
    assert_eq!(foretold["fields"]["tor"], 100, "{foretold}");
    let text =
        scene.ask("replay", &[&file[..], &["--dry-run", "--output", "text"]].concat(), &raised);
    assert!(text.log.contains("also a tor that was true"), "{}", text.log);
    assert_eq!(scene.ask("replay", &file, &raised).last("done")["counts"]["updated"], 100);
    assert_eq!(scene.number(tor).await, 0);
    let lower = scene.ask("replay", &file, &poisoned);
    assert!(lower.code == Some(1) && lower.log.contains("enrich.generation is 0"), "{}", lower.log);
}

#[tokio::test]
async fn a_database_that_goes_away_pauses_a_replay_and_nothing_is_lost() {
    let postgres = testkit::Postgres::start();
    let store = postgres.database().await.url;
    let scene = Scene::without_topic("replay-outage", store);
    scene.make_topic(2, &[]).await;
    scene.produce((0..20_000).map(|n| generated(n, 0))).await;
    let mut running = scene.start("replay", &["--from", "earliest", "--rate", "5000"], &SLOW);
    job_of(&mut running).await;
    postgres_away_and_back(postgres, &scene, &mut running).await;
}

async fn postgres_away_and_back(
    mut postgres: testkit::Postgres,
    scene: &Scene,
    running: &mut Daemon,
) {
    postgres.stop(testkit::StopMode::Immediate);
    eventually("the pause to be shown", PATIENCE, async || {
        assert!(running.is_running(), "{}", running.log());
        json_lines(&running.log()).iter().any(|line| line["progress"]["paused"].is_string())
    })
    .await;
    postgres.start_again();
    assert_eq!(running.wait_exit(PATIENCE).code(), Some(0), "{}", running.log());
    assert_eq!(scene.count().await, 20_000);
}

#[tokio::test]
async fn a_groups_position_set_back_with_kafkas_own_tool_is_where_ingest_goes_on() {
    let scene = Scene::new("reset", 2).await;
    scene.produce((0..2_000).map(|n| generated(n, 0))).await;
    scene.ingest(&[]).await;
    scene.execute("DELETE FROM publication").await;
    let arguments = [
        "--group",
        &scene.group,
        "--topic",
        &scene.topic,
        "--reset-offsets",
        "--to-earliest",
        "--execute",
    ];
    testkit::consumer_groups(&scene.brokers, &arguments);
    assert_eq!(scene.lag().await, 2_000);
    let mut ingester: Running = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(ingester.metrics().sum("records_total"), 2_000.0);
    ingester.stop();
    assert_eq!(scene.count().await, 2_000);
}

#[tokio::test]
async fn what_cannot_be_replayed_is_said_before_there_is_a_job() {
    let scene = Scene::new("no-replay", 2).await;
    scene.produce((0..30).map(|n| generated(n, 0))).await;
    let directory = scene.directory.path().to_str().unwrap().to_owned();
    let asked = |arguments: &[&str], code, reason: &str| {
        let answer = scene.ask("replay", arguments, &[]);
        assert_eq!(answer.code, Some(code), "{arguments:?}: {}", answer.log);
        assert!(answer.log.contains(reason), "{arguments:?}: {}", answer.log);
    };
    asked(&["--file", "/no/such/file"], 1, "/no/such/file");
    asked(&["--file", &directory], 1, "is a folder");
    asked(&["--from", "5", "--until", "2"], 2, "offset 5 until offset 2 is backwards");
    asked(&["--from", "1h", "--until", "2h"], 2, "is backwards");
    asked(&["--from", "2099-01-01T00:00:00Z"], 2, "is still to come");
    asked(&["--from", "31"], 2, "offset 31 is still to come");
    let jobs = scene.must("replay", &["list"]);
    assert!(jobs.lines.iter().all(|line| line.get("job").is_none()), "{}", jobs.log);
    for (command, arguments) in [
        ("reconcile", &["--from", "5", "--until", "2"][..]),
        ("reconcile", &["--from", "31"]),
        ("dead-letters", &["list", "--since", "1h", "--until", "2h"]),
        ("dead-letters", &["list", "--since", "2099-01-01T00:00:00Z"]),
        ("dead-letters", &["redrive", "--since", "2099-01-01T00:00:00Z"]),
    ] {
        let refused = scene.ask(command, arguments, &[]);
        assert_eq!(refused.code, Some(2), "{command} {arguments:?}: {}", refused.log);
    }

    // A file without any event is probably the wrong file. A damaged export is not an event either.
    let file = scene.directory.path().join("rubbish");
    std::fs::write(&file, "root:x:0:0\n\ndaemon:x:1:1\n").unwrap();
    let foretold = scene.ask("replay", &["--file", file.to_str().unwrap(), "--dry-run"], &[]);
    assert_eq!(foretold.code, Some(1), "{}", foretold.log);
    let rubbish = scene.ask("replay", &["--file", file.to_str().unwrap()], &[]);
    assert_eq!(rubbish.code, Some(1), "{}", rubbish.log);
    assert!(rubbish.log.contains("no line of the file is an event"), "{}", rubbish.log);
    assert_eq!(rubbish.last("done")["counts"]["rejected"], json!({"not_json": 2}));
    for empty in ["", "\n \n"] {
        std::fs::write(&file, empty).unwrap();
        let empty = scene.ask("replay", &["--file", file.to_str().unwrap()], &[]);
        assert_eq!(empty.code, Some(1), "{}", empty.log);
        assert!(empty.log.contains("the file has no event"), "{}", empty.log);
    }
    let damaged = json!({"topic": "t", "partition": 0, "offset": 7, "timestamp": null, "key": null, "headers": [],
        "value": {"hex": "ff0"}});
    std::fs::write(&file, damaged.to_string()).unwrap();
    let damaged = scene.ask("replay", &["--file", file.to_str().unwrap()], &[]);
    assert_eq!(damaged.code, Some(1), "{}", damaged.log);
    assert!(damaged.log.contains("line 1 is a damaged export of a record"), "{}", damaged.log);
}

/// Every command that waits for a locked table, or for a silent broker, ends within a second of a signal.
#[tokio::test]
async fn a_signal_ends_every_command_whatever_it_waits_for() {
    let scene = Scene::new("signals", 1).await;
    scene.produce((0..10).map(|n| generated(n, 0)).chain([poison()])).await;
    scene.ingest(&[]).await;
    let pool = sqlx::PgPool::connect(&scene.store).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE publication, replay_job, _sqlx_migrations")
        .execute(&mut *lock)
        .await
        .unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let brokers = silent.local_addr().unwrap().to_string();
    let no_broker = [("INGESTER_KAFKA__BROKERS", &*brokers)];
    let commands: [(&str, &[&str]); 7] = [
        ("migrate", &[]),
        ("check", &[]),
        ("replay", &["--from", "earliest"]),
        ("replay", &["list"]),
        ("reconcile", &["--from", "earliest"]),
        ("dead-letters", &["list"]),
        ("dead-letters", &["redrive"]),
    ];
    for (command, arguments) in commands {
        let mut waiting = scene.start(command, arguments, &[]);
        let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        eventually(&format!("{command} {arguments:?} to wait"), PATIENCE, async || {
            assert!(waiting.is_running(), "{command} {arguments:?}: {}", waiting.log());
            sqlx::query_scalar::<_, i64>(blocked).fetch_one(&pool).await.unwrap() > 0
        })
        .await;
        ends_at_once(waiting, command, arguments);
        // The server may not have noticed the client's end yet. Its session must not be mistaken for the next command's.
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
        eventually("the sessions of a command that ended to go", PATIENCE, async || {
            sqlx::query_scalar::<_, i64>(end).fetch_one(&pool).await.unwrap() == 0
        })
        .await;
    }
    lock.rollback().await.unwrap();
    pool.close().await;
    for (command, arguments) in &commands[1..] {
        if *arguments == ["list"] && *command == "replay" {
            continue;
        }
        let waiting = scene.start(command, arguments, &no_broker);
        let asked = tokio::time::timeout(PATIENCE, silent.accept()).await;
        let _held = asked.unwrap_or_else(|_| panic!("{command} {arguments:?} never asks")).unwrap();
        ends_at_once(waiting, command, arguments);
    }
}

fn poison() -> Record {
    Record { value: Some(b"{".into()), ..Record::default() }
}

/// Sends SIGTERM and checks the time. The promise is a second; the rest is for a busy machine.
fn ends_at_once(mut waiting: Daemon, command: &str, arguments: &[&str]) {
    let asked = std::time::Instant::now();
    waiting.terminate();
    let answer = Answer::of(waiting);
    let took = asked.elapsed();
    assert_eq!(answer.code, Some(1), "{command} {arguments:?}: {}", answer.log);
    assert!(took.as_millis() < 1_500, "{command} {arguments:?} took {took:?}: {}", answer.log);
}

#[tokio::test]
async fn a_plan_says_what_retention_has_removed_and_a_partition_is_read_once() {
    let scene = Scene::new("removed", 1).await;
    scene.produce((0..30).map(|n| generated(n, 0))).await;
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 20).await;
    scene.must("migrate", &[]);
    let ends: [&[&str]; 3] = [
        &["--from", "0", "--until", "10"],
        &["--from", "earliest", "--until", "10"],
        &["--from", "5"],
    ];
    for range in ends {
        let answer = scene.must("replay", &[range, &["--dry-run"]].concat());
        assert_eq!(answer.last("plan")["removed_before"], json!({"0": 20}), "{range:?}");
    }
    let range = ["--from", "0", "--until", "10", "--output", "text"];
    let text = scene.must("replay", &range).log;
    assert!(
        text.contains("partition 0: what was asked for before offset 20 is no longer"),
        "{text}"
    );

    let range = ["--from", "20", "--partition", "0", "--partition", "0"];
    let answer = scene.must("replay", &range);
    assert_eq!(answer.last("plan")["removed_before"], json!({}));
    assert_eq!(counted(&answer.last("done")["counts"]), 10);
}

#[tokio::test]
async fn what_is_deleted_while_a_replay_runs_is_counted_and_named() {
    const EVENTS: u64 = 10_000;
    let scene = Scene::new("deleted", 1).await;
    let count = usize::try_from(EVENTS).unwrap();
    scene.produce((0..count).map(|n| generated(n, 0))).await;
    scene.must("migrate", &[]);
    let range = ["--from", "0", "--rate", "800", "--yes"];
    let mut running = scene.start("replay", &range, &SLOW);
    let id = job_of(&mut running).await;
    let mut foretelling = scene.start("replay", &[&range[..], &["--dry-run"]].concat(), &SLOW);
    eventually("the dry run to read", PATIENCE, async || {
        assert!(foretelling.is_running(), "{}", foretelling.log());
        json_lines(&foretelling.log())
            .iter()
            .any(|line| line["progress"]["read"].as_u64() > Some(0))
    })
    .await;
    testkit::delete_records(&scene.brokers, &scene.topic, 0, 8_000).await;

    // The run is killed after it has saved what is gone; the next run must know.
    let saved = "SELECT coalesce(max((counts->'left_out'->>'gone')::bigint), 0) FROM replay_job";
    eventually("the gone records to be saved", PATIENCE, async || {
        assert!(running.is_running(), "{}", running.log());
        scene.number(saved).await > 0
    })
    .await;
    running.kill();
    assert!(running.log().contains("the topic's retention deleted them"), "{}", running.log());
    let answer = scene.ask("replay", &["resume", &id], &[]);
    assert_eq!(answer.code, Some(1), "{}", answer.log);
    let done = answer.last("done");
    assert_eq!(done["state"], "done", "{done}");
    let gone = done["left_out"]["gone"].as_u64().unwrap();
    assert_eq!((counted(&done["counts"]), gone > 1_000), (EVENTS - gone, true), "{done}");
    assert_eq!(scene.count().await, i64::try_from(EVENTS - gone).unwrap());
    let listed = scene.must("replay", &["list"]).last("job");
    assert_eq!(listed["counts"]["left_out"], json!({"gone": gone}));
    let text = scene.must("replay", &["list", "--output", "text"]).log;
    assert!(text.contains(&format!("{gone} left out: gone")), "{text}");

    let foretold = Answer::of(foretelling);
    assert_eq!(foretold.code, Some(1), "{}", foretold.log);
    let result = foretold.last("dry_run");
    let gone = result["left_out"]["gone"].as_u64().unwrap();
    assert_eq!((result["records"].as_u64(), gone > 1_000), (Some(EVENTS - gone), true), "{result}");
}
