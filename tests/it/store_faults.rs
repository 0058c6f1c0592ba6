//! Faults of the database while the daemons run: nothing is lost, every wait is reported, broken connections are not
//! used again, and no record becomes a dead letter because of them.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{ConsumedRecord, Daemon, NetworkFault, Postgres, Proxy, consume_all, eventually};

use crate::replay::Answer;
use crate::support::{PATIENCE, Query, Running, SEED, Scene, example_record, generated};

/// The time from the end of a fault to new rows: the promise is two seconds, the rest is for a busy machine.
const RECOVERY: Duration = Duration::from_secs(20);

/// Prints and checks the time since a fault ended.
fn recovered(fault: &str, ended: Instant) {
    let took = ended.elapsed();
    eprintln!("{fault}: recovered after {took:?}");
    assert!(took < RECOVERY, "{fault}: {took:?}");
}

/// Waits until `/readyz` shows a reason with these words, and returns it.
pub(crate) async fn paused_by(ingester: &mut Running, words: &str) -> String {
    eventually(&format!("a pause with {words}"), PATIENCE, async || {
        assert!(ingester.daemon.is_running(), "the daemon ended:\n{}", ingester.daemon.log());
        let (status, answer) = ingester.readyz()?;
        let reason = answer["reason"].as_str()?;
        (status == 503 && reason.contains(words)).then(|| reason.to_owned())
    })
    .await
}

pub(crate) async fn letters(scene: &Scene) -> Vec<ConsumedRecord> {
    consume_all(&scene.brokers, &scene.dead_letters).await
}

/// Executes a statement in which `%I` is the scene's database.
fn of_database(statement: &str) -> String {
    let quoted = statement.replace('\'', "''");
    format!("DO $$ BEGIN EXECUTE format('{quoted}', current_database()); END $$")
}

const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// A trigger that does this before the insert of each row whose name is in `names`.
fn trigger(names: &str, what: &str) -> String {
    format!(
        "CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.name IN ({names}) THEN {what}; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER interfere BEFORE INSERT ON publication FOR EACH ROW EXECUTE FUNCTION interfere()"
    )
}

#[tokio::test]
async fn what_refuses_every_row_pauses_and_no_record_pays_for_it() {
    const EVENTS: usize = 2_500;
    let cases = [
        ("ALTER TABLE publication ADD COLUMN x integer NOT NULL", "column \"x\"", "DROP COLUMN x"),
        (
            "ALTER TABLE publication ADD CONSTRAINT nobody CHECK (username IS NULL) NOT VALID",
            "constraint nobody",
            "DROP CONSTRAINT nobody",
        ),
        (
            "ALTER TABLE publication RENAME COLUMN username TO login",
            "username",
            "RENAME COLUMN login TO username",
        ),
        ("ALTER TABLE publication RENAME TO elsewhere", "publication", ""),
    ];
    for (breaks, words, mends) in cases {
        let scene = Scene::new("refuses-every-row", 1).await;
        let limit = ("INGESTER_REJECT__MAX_CONSECUTIVE", "100");
        let mut ingester = scene.ingester(&[limit]);
        scene.execute(breaks).await;
        scene.produce((0..EVENTS).map(|n| generated(n, 0))).await;
        let reason = paused_by(&mut ingester, words).await;
        assert!(reason.starts_with("database_refuses: "), "{reason}");
        // The write is retried for as long as it takes.
        eventually("more tries", PATIENCE, async || {
            ingester.metrics().sum("store_retries_total") >= 5.0
        })
        .await;
        assert_eq!(scene.lag().await, i64::try_from(EVENTS).unwrap(), "{breaks}: nothing moves");
        let log = ingester.daemon.log();
        let said = log.lines().filter(|line| line.contains("database_refuses")).count();
        assert_eq!(said, 1, "{breaks}:\n{log}");
        let mends = match mends {
            "" => "ALTER TABLE elsewhere RENAME TO publication".to_owned(),
            mends => format!("ALTER TABLE publication {mends}"),
        };
        scene.execute(&mends).await;
        scene.caught_up(&mut ingester).await;
        ingester.shows("ready").await;
        ingester.stop();
        assert_eq!(scene.count().await, i64::try_from(EVENTS).unwrap());
        assert_eq!(letters(&scene).await, []);
    }
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_one_dead_letter_and_said_where() {
    let scene = Scene::new("one-row", 1).await;
    scene.must("migrate", &[]);
    scene.execute(&trigger("'package-3'", "RAISE EXCEPTION 'not %', NEW.username")).await;
    scene
        .execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER swallow BEFORE INSERT ON publication FOR EACH ROW WHEN (NEW.name = 'package-5')
             EXECUTE FUNCTION swallow()",
        )
        .await;
    // A code of the operator's own, and one that otherwise means a missing right.
    for (n, code) in [(7, "PX001"), (9, "42501")] {
        scene
            .execute(&format!(
                "CREATE FUNCTION block_{n}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'user % is blocked', NEW.username USING ERRCODE = '{code}'; END $$;
                 CREATE TRIGGER block_{n} BEFORE INSERT ON publication FOR EACH ROW WHEN (NEW.name = 'package-{n}')
                 EXECUTE FUNCTION block_{n}()"
            ))
            .await;
    }
    scene.produce((0..14).map(|n| generated(n, 0))).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert_eq!(scene.count().await, 10, "the good rows of the batch");
    let letters = letters(&scene).await;
    let of = |letter: &ConsumedRecord, name: &str| letter.header(name).unwrap();
    let mut places: Vec<_> =
        letters.iter().map(|letter| of(letter, "__connect.errors.offset")).collect();
    places.sort();
    assert_eq!(places, ["3", "5", "7", "9"]);
    for letter in &letters {
        assert_eq!(of(letter, "publication.error.code"), "refused_by_store");
        let message = of(letter, "__connect.errors.exception.message");
        let words = ["P0001", "not in the table publication", "PX001", "42501"];
        assert!(words.iter().any(|word| message.contains(word)), "{message}");
        assert!(!message.contains("user-"), "{message}");
    }
    let metrics = ingester.metrics();
    assert_eq!(metrics.get("dead_letters_total{code=\"refused_by_store\"}"), Some(4.0));
    assert_eq!(metrics.get("records_total{outcome=\"dead_lettered\"}"), Some(4.0));
    assert_eq!(metrics.sum("records_total"), 14.0);
    let log = ingester.stop();
    for offset in [3, 5, 7, 9] {
        let place = format!("topic={} partition=0 offset={offset}", scene.topic);
        assert!(log.contains(&place), "{log}");
    }
    assert!(!log.contains("user-"), "{log}");
}

#[tokio::test]
async fn a_lock_on_the_table_is_said_and_waited_for() {
    let scene = Scene::new("locked", 1).await;
    let mut ingester = scene.ingester(&[]);
    let mut operator = PgConnection::connect(&scene.store).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE publication").execute(&mut operator).await.unwrap();
    scene.produce((0..1_500).map(|n| generated(n, 0))).await;
    let reason = paused_by(&mut ingester, "no write has ended for 10s").await;
    assert!(reason.starts_with("database_time_limit: "), "{reason}");
    // Also after the statement reached its time limit and others replaced it.
    eventually("a statement to be given up", PATIENCE, async || {
        ingester.metrics().get("store_retries_total{class=\"timed_out\"}") >= Some(1.0)
    })
    .await;
    let (status, answer) = ingester.readyz().unwrap();
    assert_eq!(status, 503, "{answer}");
    sqlx::raw_sql("ROLLBACK").execute(&mut operator).await.unwrap();
    let released = Instant::now();
    scene.caught_up(&mut ingester).await;
    recovered("the lock", released);
    ingester.shows("ready").await;
    let log = ingester.stop();
    // No line quotes the statement, which has a text for each row.
    assert_eq!(log.lines().find(|line| line.len() > 1_000), None);
    assert_eq!((scene.count().await, letters(&scene).await), (1_500, vec![]));
}

/// The URL of the database by way of the proxy.
fn behind(proxy: &Proxy, store: &str) -> String {
    let server = testkit::host_of(store);
    proxy.forward_to(server);
    store.replace(server, &proxy.address())
}

/// A failed host: its connections stay open and silent, and new connections reach another host.
#[tokio::test]
async fn connections_that_go_silent_are_replaced() {
    let proxy = Proxy::start();
    let mut scene = Scene::new("silent", 1).await;
    let direct = std::mem::take(&mut scene.store);
    scene.store = behind(&proxy, &direct);
    let mut ingester = scene.ingester(&[]);
    let query = scene.query();
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    query.ask(SEED, json!({}));

    // During a write, whose rows the server keeps locked.
    let mut operator = PgConnection::connect(&direct).await.unwrap();
    let slow = trigger("'package-1'", "PERFORM pg_sleep(0.7)");
    sqlx::raw_sql(AssertSqlSafe(slow)).execute(&mut operator).await.unwrap();
    scene.produce((0..1_200).map(|n| generated(n, 0))).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually("a write to be under way", PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(sleeping).fetch_one(&mut operator).await.unwrap() > 0
    })
    .await;
    proxy.silence();
    let began = Instant::now();
    paused_by(&mut ingester, "database_time_limit: ").await;
    scene.caught_up(&mut ingester).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    ingester.shows("ready").await;
    eventually("the query daemon to answer", PATIENCE, async || {
        query.post(SEED, json!({})).0 == 200
    })
    .await;

    // While nothing is written. The periodic write of the account shows that the connection is dead.
    proxy.silence();
    let began = Instant::now();
    scene.produce([generated(2_000, 0)]).await;
    scene.caught_up(&mut ingester).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    ingester.stop();
    assert_eq!(scene.count().await, 1_202);

    // Commands, each while it runs.
    for (command, arguments) in [
        ("replay", ["--from", "earliest", "--rate", "300"]),
        ("reconcile", ["--from", "earliest", "--rate", "300"]),
    ] {
        let mut running = scene.start(command, &arguments, &[("INGESTER_BATCH__MAX_ROWS", "100")]);
        progress(&mut running).await;
        proxy.silence();
        let began = Instant::now();
        let answer = Answer::of(running);
        assert_eq!(answer.code, Some(0), "{command}: {}", answer.log);
        assert!(began.elapsed() < Duration::from_secs(80), "{command} {:?}", began.elapsed());
    }
}

/// Nobody sends a query, so only the probe can notice.
#[tokio::test]
async fn a_query_daemon_that_nobody_asks_notices_a_mute_database() {
    let proxy = Proxy::start();
    let scene = Scene::new("mute", 1).await;
    let mut ingester = scene.ingester(&[]);
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    ingester.stop();
    let mut query = Query::start(&behind(&proxy, &scene.store), &[]);
    let shows = async |query: &mut Query, state: &str, status: u16| {
        let began = Instant::now();
        let (shown, answer) = query.running.shows(state).await;
        assert_eq!(shown, status, "{answer}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    };
    // The idle connections die first. The probe replaces them, unless the server is switched off too.
    proxy.silence();
    proxy.set(NetworkFault::HalfOpen);
    shows(&mut query, "paused", 503).await;
    assert_eq!(query.post(SEED, json!({})).0, 503);
    proxy.set(NetworkFault::None);
    shows(&mut query, "ready", 200).await;
    query.ask(SEED, json!({}));
}

async fn progress(running: &mut Daemon) {
    eventually("progress", PATIENCE, async || {
        assert!(running.is_running(), "{}", running.log());
        running.log().contains("\"progress\"")
    })
    .await;
}

#[tokio::test]
async fn sessions_that_were_set_otherwise_are_not_kept() {
    let scene = Scene::new("sessions", 1).await;
    let mut ingester = scene.ingester(&[]);
    let mut next = 0;
    for (breaks, mends, cause) in [
        (
            "ALTER DATABASE %I SET default_transaction_read_only = on",
            "ALTER DATABASE %I RESET default_transaction_read_only",
            "25006",
        ),
        (
            "ALTER DATABASE %I SET lock_timeout = '1ms'",
            "ALTER DATABASE %I RESET lock_timeout",
            "55P03",
        ),
        (
            "ALTER DATABASE %I ALLOW_CONNECTIONS false",
            "ALTER DATABASE %I ALLOW_CONNECTIONS true",
            "55000",
        ),
    ] {
        scene.produce([generated(next, 0)]).await;
        scene.caught_up(&mut ingester).await;
        let (server, name) = scene.store.rsplit_once('/').unwrap();
        let mut operator = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
        let run = async |connection: &mut PgConnection, sql: String| {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
        };
        let named = |sql: &str| sql.replace("%I", &format!("\"{name}\""));
        run(&mut operator, named(breaks)).await;
        let sessions = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        run(&mut operator, sessions).await;
        // With a lock held, so that the short limit takes effect.
        let mut lock = match cause {
            "55P03" => {
                let mut lock = PgConnection::connect(&scene.store).await.unwrap();
                let sql = "SET lock_timeout = 0; BEGIN; LOCK TABLE publication IN EXCLUSIVE MODE";
                run(&mut lock, sql.to_owned()).await;
                Some(lock)
            }
            _ => None,
        };
        scene.produce((next + 1..next + 11).map(|n| generated(n, 0))).await;
        next += 11;
        paused_by(&mut ingester, cause).await;
        run(&mut operator, named(mends)).await;
        let mended = Instant::now();
        if let Some(lock) = &mut lock {
            run(lock, "ROLLBACK".to_owned()).await;
        }
        scene.caught_up(&mut ingester).await;
        recovered(cause, mended);
        ingester.shows("ready").await;
    }
    ingester.stop();
    assert_eq!(scene.count().await, i64::try_from(next).unwrap());
    assert_eq!(letters(&scene).await, []);
}

#[tokio::test]
async fn a_password_that_is_rotated_in_its_file_is_used_by_both_daemons() {
    let server = Postgres::builder().fsync(false).start();
    let mut scene = Scene::without_topic("rotated", server.database().await.url);
    scene.make_topic(1, &[]).await;
    scene.execute("CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'first-secret'").await;
    let mut operator = PgConnection::connect(&scene.store).await.unwrap();
    let hba: String = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut operator).await.unwrap();
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all rotated 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    scene.execute("SELECT pg_reload_conf()").await;
    let place = scene.store.split_once('@').unwrap().1.to_owned();
    let url_file = scene.directory.path().join("url");
    let write = |password: &str| {
        std::fs::write(&url_file, format!("postgres://rotated:{password}@{place}\n")).unwrap();
    };
    write("first-secret");
    let file = url_file.to_str().unwrap().to_owned();
    let owner = std::mem::take(&mut scene.store);
    let mut ingester = scene.ingester(&[("INGESTER_STORE__URL_FILE", &file)]);
    let mut query = Query::start("", &[("QUERY_STORE__URL_FILE", &file)]);
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    query.ask(SEED, json!({}));

    scene.store = owner;
    scene.execute("ALTER ROLE rotated PASSWORD 'second-secret'").await;
    scene.execute(END_SESSIONS).await;
    scene.produce([generated(0, 0)]).await;
    paused_by(&mut ingester, "28P01").await;
    query.running.shows("paused").await;
    write("second-secret");
    let written = Instant::now();
    scene.caught_up(&mut ingester).await;
    eventually("the query daemon to answer", PATIENCE, async || {
        query.post(SEED, json!({})).0 == 200
    })
    .await;
    recovered("the password", written);
    query.running.shows("ready").await;
    for running in [ingester, query.running] {
        let log = running.stop();
        assert!(!log.contains("-secret"), "{log}");
    }
}

#[tokio::test]
async fn a_columns_type_may_change_under_warm_daemons() {
    let scene = Scene::new("types", 1).await;
    let mut ingester = scene.ingester(&[]);
    let query = scene.query();
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    let everything = r#"query { package(name: "pg", version: "7.12.0") { publicationInfo { username tor tfa created } }
        publications(first: 10) { edges { node { name } } } search(prefix: "p", first: 5) }"#;
    for (revision, kind) in (0..).zip(["varchar(300)", "text", "varchar(400)"]) {
        // Several requests in parallel, so that each daemon has several used sessions.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| query.ask(everything, json!({})));
            }
        });
        scene.execute(&format!("ALTER TABLE publication ALTER COLUMN username TYPE {kind}")).await;
        for _ in 0..20 {
            query.ask(everything, json!({}));
        }
        scene.produce([generated(0, revision)]).await;
        scene.caught_up(&mut ingester).await;
    }
    assert_eq!(letters(&scene).await, []);
    let log = ingester.stop() + &query.running.stop();
    assert!(!log.contains("cached plan"), "{log}");
}

#[tokio::test]
async fn a_time_limit_of_the_role_makes_batches_smaller() {
    const EVENTS: usize = 3_000;
    let scene = Scene::new("role-limit", 1).await;
    scene.must("migrate", &[]);
    let all = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$; \
               CREATE TRIGGER slow BEFORE INSERT ON publication FOR EACH ROW EXECUTE FUNCTION slow()";
    scene.execute(all).await;
    scene.execute(&of_database("ALTER DATABASE %I SET statement_timeout = '700ms'")).await;
    scene.produce((0..EVENTS).map(|n| generated(n, 0))).await;
    let mut ingester = scene.ingester(&[]);
    scene.caught_up(&mut ingester).await;
    assert!(ingester.metrics().get("store_retries_total{class=\"timed_out\"}") >= Some(1.0));
    ingester.stop();
    let events = i64::try_from(EVENTS).unwrap();
    assert_eq!((scene.count().await, letters(&scene).await), (events, vec![]));
}

#[tokio::test]
async fn a_database_that_cannot_be_worked_with_is_refused_by_name() {
    let scene = Scene::new("refused", 1).await;
    let (server, name) = scene.store.rsplit_once('/').unwrap();
    let latin = format!("{name}.latin");
    scene
        .execute(&format!(
            "CREATE DATABASE \"{latin}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc"
        ))
        .await;
    let latin = format!("{server}/{latin}");
    scene.must("migrate", &[]);
    scene
        .execute("CREATE RULE forget AS ON INSERT TO publication WHERE NEW.name = 'x' DO INSTEAD NOTHING")
        .await;
    for (store, word) in [(&latin, "LATIN1"), (&scene.store, "forget")] {
        let environment = [("INGESTER_STORE__URL", store.as_str())];
        let mut ingester = scene.start_ingester(&environment);
        let status = ingester.daemon.wait_exit(PATIENCE);
        let log = ingester.daemon.log();
        assert!(!status.success() && log.contains(word), "{status}: {log}");
        let checked = scene.ask("check", &["--json"], &environment);
        let check = checked.last("check");
        let findings = check["findings"].as_array().unwrap();
        let is_named = findings.iter().any(|finding| {
            finding["level"] == "problem" && finding["message"].as_str().unwrap().contains(word)
        });
        assert!(checked.code == Some(1) && is_named, "{}", checked.log);
    }
}

/// The only synchronous standby is gone: each commit waits for it, and no time limit of the server ends the wait.
#[tokio::test]
async fn commits_that_wait_for_a_standby_that_is_gone_are_said_and_waited_for() {
    let server = Postgres::builder().start();
    let scene = Scene::without_topic("no-standby", server.database().await.url);
    scene.make_topic(1, &[]).await;
    let mut ingester = scene.ingester(&[]);
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    scene.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    scene.execute("SELECT pg_reload_conf()").await;
    let began = Instant::now();
    scene.produce((0..1_500).map(|n| generated(n, 0))).await;
    let reason = paused_by(&mut ingester, "database_").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?} {reason}", began.elapsed());
    eventually("a write to be given up", PATIENCE, async || {
        ingester.metrics().get("store_retries_total{class=\"timed_out\"}") >= Some(1.0)
    })
    .await;
    scene.execute("ALTER SYSTEM RESET synchronous_standby_names").await;
    scene.execute("SELECT pg_reload_conf()").await;
    let mended = Instant::now();
    scene.caught_up(&mut ingester).await;
    assert!(mended.elapsed() < Duration::from_secs(20), "{:?}", mended.elapsed());
    ingester.shows("ready").await;
    ingester.stop();
    assert_eq!((scene.count().await, letters(&scene).await), (1_501, vec![]));
}

/// A server that ends idle sessions, and one that allows the role only a few.
#[tokio::test]
async fn few_sessions_that_end_when_they_are_idle_suffice() {
    let scene = Scene::new("few-sessions", 2).await;
    scene.must("migrate", &[]);
    let role = testkit::unique("few").replace('-', "_");
    scene
        .execute(&format!(
            "CREATE ROLE \"{role}\" LOGIN SUPERUSER; ALTER ROLE \"{role}\" SET idle_session_timeout = '1s'"
        ))
        .await;
    let limit =
        |sessions: u32| format!("ALTER ROLE \"{role}\" NOSUPERUSER CONNECTION LIMIT {sessions}");
    scene
        .execute(&format!("{}; GRANT ALL ON ALL TABLES IN SCHEMA public TO \"{role}\"", limit(3)))
        .await;
    let store = scene.store.replace("postgres@", &format!("{role}@"));
    let mut ingester = scene.ingester(&[("INGESTER_STORE__URL", &store)]);
    let began = Instant::now();
    for turn in 0..3 {
        scene.produce((turn * 5_000..(turn + 1) * 5_000).map(|n| generated(n, 0))).await;
        scene.caught_up(&mut ingester).await;
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    ingester.shows("ready").await;
    ingester.stop();
    assert_eq!((scene.count().await, letters(&scene).await), (15_000, vec![]));
    scene.execute(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
}

/// An error that has ended before the row is retried: `tuple concurrently updated`, a table that is being replaced.
#[tokio::test]
async fn an_error_that_is_over_at_once_makes_no_letter() {
    let scene = Scene::new("at-once", 1).await;
    scene.must("migrate", &[]);
    let mut ingester = scene.ingester(&[]);
    for (n, code) in ["XX000", "42P01", "42703", "P0001", "23503"].into_iter().enumerate() {
        scene
            .execute(&format!(
                "CREATE SEQUENCE tries_{n}; CREATE FUNCTION once_{n}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF nextval('tries_{n}') = 1 THEN RAISE EXCEPTION 'once' USING ERRCODE = '{code}'; END IF; \
                 RETURN NEW; END $$; CREATE TRIGGER once_{n} BEFORE INSERT ON publication FOR EACH ROW \
                 WHEN (NEW.name = 'package-{n}') EXECUTE FUNCTION once_{n}()"
            ))
            .await;
        scene.produce([generated(n, 0)]).await;
        scene.caught_up(&mut ingester).await;
    }
    ingester.stop();
    assert_eq!((scene.count().await, letters(&scene).await), (5, vec![]));
}
