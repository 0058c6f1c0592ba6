//! Hostile requests to the API are refused or answered, and other clients are not affected. `cargo xtask bench hostile`
//! runs them in full size; here some are smaller.

use std::net::TcpStream;

use serde_json::json;
use sqlx::PgPool;
use testkit::Daemon;
use testkit::hostile::{AttackResult, Target, WitnessResult, attacks, run_attack};

use crate::graphql_bulk::{add, migrated};
use crate::support::Query;

/// The default of `limits.max_memory`.
const MEMORY: u64 = 128 << 20;
/// Factor on the allowed wait of a witness, because a debug build on a shared machine is slower than the release build.
/// A starved witness waits longer than that. The bench has the exact figures.
const SLACK: u32 = 5;
/// Parts of answers that no client may get.
const WRONG: [&str; 3] = ["500", "INTERNAL_SERVER_ERROR", "no answer"];

#[tokio::test]
async fn hostile_requests_hurt_nobody() {
    let store = migrated(testkit::postgres()).await;
    let pool = PgPool::connect(&store).await.unwrap();
    add(&pool, 0, 4_999, 1_000).await;
    pool.close().await;
    let mut query = Query::start(&store, &[]);
    let target = Target {
        http: query.http.parse().unwrap(),
        admin: query.running.admin.parse().unwrap(),
        pid: query.running.daemon.pid(),
    };
    let mut harm = Vec::new();
    for attack in attacks(20_000) {
        let result = run_attack(&attack, target);
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
