//! Hostile requests to the API are refused or answered, and other clients are not affected. `cargo xtask bench hostile`
//! runs them in full size; here some are smaller.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use sqlx::{PgPool, SqlitePool};
use tempfile::TempDir;
use testkit::Daemon;
use testkit::hostile::{Attack, AttackResult, Target, WitnessResult, attacks, bulk, run_attack};

use crate::graphql_bulk::{add, migrate, migrated};
use crate::support::Query;

/// The default of `limits.max_memory`.
const MEMORY: u64 = 128 << 20;
/// Factor on the allowed wait of a witness, because a debug build on a shared machine is slower than the release build.
/// A starved witness waits longer than that. The bench has the exact figures.
const SLACK: u32 = 5;
/// `package-0` to `package-4999` with fields of the greatest lengths.
const ROWS_ON_SQLITE: &str = "INSERT INTO publication (name, version, created, revision, generation, tor_reason, tfa_reason,
        credential, actor, tor_settled, disputed, tor, tfa, username, event_identity, integrity)
    WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 4999)
    SELECT 'package-' || n, '1.0.0', '2024-01-01T00:00:00.000000Z', 0, 0, 'not_listed', 'second_factor', 'session_token',
        'user', 1, 0, 0, 1, hex(zeroblob(128)), zeroblob(16), NULL
    FROM numbers";
/// Parts of answers that no client may get.
const WRONG: [&str; 3] = ["500", "INTERNAL_SERVER_ERROR", "no answer"];

#[tokio::test]
async fn hostile_requests_hurt_nobody() {
    let store = migrated(testkit::postgres()).await;
    let pool = PgPool::connect(&store).await.unwrap();
    add(&pool, 0, 4_999, 1_000).await;
    pool.close().await;
    attacked(Query::start(&store, &[]), &attacks(20_000));
}

/// SQLite runs inside the daemon, so its rows and its threads take the daemon's memory.
#[tokio::test]
async fn hostile_requests_hurt_nobody_on_sqlite() {
    let (store, _directory) = on_sqlite();
    let pool = SqlitePool::connect(&store).await.unwrap();
    sqlx::raw_sql(ROWS_ON_SQLITE).execute(&pool).await.unwrap();
    pool.close().await;
    let reads_rows = |attack: &Attack| {
        ["answers", "references, all", "pages of 100"].iter().any(|part| attack.name.contains(part))
    };
    let mut reading: Vec<_> = attacks(20_000).into_iter().filter(reads_rows).collect();
    reading.push(bulk(12));
    attacked(Query::start(&store, &[]), &reading);
}

/// A migrated file.
fn on_sqlite() -> (String, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite://{}", directory.path().join("publications.db").display());
    migrate(&store);
    (store, directory)
}

fn attacked(mut query: Query, attacks: &[Attack]) {
    let target = Target {
        http: query.http.parse().unwrap(),
        admin: query.running.admin.parse().unwrap(),
        pid: query.running.daemon.pid(),
    };
    let mut harm = Vec::new();
    for attack in attacks {
        let result = run_attack(attack, target);
        let log = query.running.daemon.log();
        assert!(query.running.daemon.is_running(), "{}:\n{log}", attack.name);
        let wrong = WRONG
            .iter()
            .find(|word| result.answer.starts_with(**word) || result.answer.ends_with(**word));
        let is_well = result.witnesses.iter().all(|witness| witness.is_well(SLACK));
        eprintln!("{}", line(&attack.name, &result));
        if wrong.is_some() || !is_well || result.peak >= MEMORY {
            harm.push(format!("{}: {result:#?}", attack.name));
        }
    }
    assert!(harm.is_empty(), "{}", harm.join("\n"));
    query.running.stop();
}

fn line(name: &str, result: &AttackResult) -> String {
    let waits = result.witnesses.iter().map(|witness| match &witness.failed {
        Some(failed) => format!("{} {failed}", witness.name),
        None => {
            let WitnessResult { name, longest, busy, .. } = witness;
            format!("{name} {} ms ({busy} times busy)", longest.as_millis())
        }
    });
    let peak = result.peak as f64 / 1e6;
    format!("{name} | {} | {peak:.0} MB | {}", result.answer, waits.collect::<Vec<_>>().join(", "))
}

#[test]
fn bodies_of_one_address_that_come_in_parts_are_answered() {
    /// Their bodies are twice the share of an address.
    const CLIENTS: usize = 40;
    const FIRST: usize = 150_000;
    let (store, _directory) = on_sqlite();
    let query = Query::start(&store, &[("QUERY_HTTP__REQUEST_TIMEOUT", "30s")]);
    let refs: Vec<_> = (0..5_000)
        .map(|n| json!({"name": format!("package-{n:05}"), "version": "1.0.0"}))
        .collect();
    let document = "query($r: [PackageRef!]!) { packages(refs: $r) { purl } }";
    let body = json!({"query": document, "variables": {"r": refs}}).to_string();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let begin = |_| {
        let mut stream = TcpStream::connect(&query.http).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body.as_bytes()[..FIRST]).unwrap();
        stream
    };
    let mut streams: Vec<_> = (0..CLIENTS).map(begin).collect();
    for stream in &mut streams {
        stream.write_all(&body.as_bytes()[FIRST..]).unwrap();
    }
    let status = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].to_owned()
    };
    let statuses: Vec<_> = streams.into_iter().map(status).collect();
    // On a machine that is busy otherwise, a body may be late and have to come again.
    let answered = statuses.iter().filter(|status| *status == "200").count();
    assert!(answered >= CLIENTS * 9 / 10, "{statuses:?}");
    query.running.stop();
}

#[tokio::test]
async fn more_connections_than_open_files_hurt_nobody() {
    let store = migrated(testkit::postgres()).await;
    let daemon = Daemon::started_by(r#"ulimit -n 256; exec "$@""#, "publication-query");
    let of_one = [("QUERY_HTTP__MAX_CONNECTIONS_PER_ADDRESS", "2048")];
    let query = Query::start_daemon(daemon, &store, &of_one);
    let silent: Vec<_> = (0..400).map(|_| TcpStream::connect(&query.http).unwrap()).collect();
    let (status, body) = query.post("{ __typename }", json!({}));
    assert_eq!((status, body.as_str()), (200, r#"{"data":{"__typename":"Query"}}"#));
    assert_eq!(query.running.readyz().unwrap().0, 200);
    drop(silent);
    // While connections are being cut off, a new one may have to wait.
    let log = query.running.stop();
    assert!(log.contains("there are 104 at most"), "{log}");
    assert!(log.matches("cannot accept").count() <= 1, "{log}");
}
