//! Checks the database: rights, schema, statements, and durability of commits.

use store::{Access, Opened, PositionKey};

use super::Findings;
use crate::settings::Settings;

/// Runs the checks, and returns the resulting guarantee.
pub(super) async fn check(
    findings: &mut Findings,
    settings: &Settings,
    access: &Access,
) -> Option<String> {
    findings.ok("store", access.database.clone());
    if let Some(reason) = access.read_only {
        let message = format!("{reason}: `run` waits until rows can be written");
        findings.problem("store.read_only", message);
    }
    rights(findings, access);
    schema(findings, access);
    if access.pending.is_empty() {
        match store::open(&settings.store) {
            Ok(opened) => {
                generation(findings, settings, &opened).await;
                if access.read_only.is_none() {
                    statements(findings, settings, &opened).await;
                }
            }
            Err(error) => findings.problem("store.statements", format!("opening: {error}")),
        }
    }
    durability(findings, access)
}

/// Runs each kind of statement of the daemons once, without a lasting change.
async fn statements(findings: &mut Findings, settings: &Settings, opened: &Opened) {
    let reading = async { store::open_reader(&settings.store)?.ready().await };
    let account = async {
        // There is no account of this topic, so nothing is changed.
        let key = PositionKey { group: settings.kafka.group.clone(), topic_id: String::new() };
        opened.positions.advance(&key, &[]).await?;
        opened.positions.accounts(&settings.kafka.group).await.map(drop)
    };
    for (what, result) in [
        ("writing a row and a higher revision of it (rolled back)", opened.table.probe().await),
        ("reading rows", reading.await),
        ("the account of positions", account.await),
        ("the list of replays", opened.jobs.jobs(1).await.map(drop)),
    ] {
        match result {
            Ok(()) => findings.ok("store.statements", format!("{what} works")),
            Err(error) => findings.problem("store.statements", format!("{what}: {error}")),
        }
    }
}

/// The migration that creates the table.
const FIRST: i64 = 1;

fn rights(findings: &mut Findings, access: &Access) {
    let refused: Vec<&str> =
        access.rights.iter().filter(|(_, may)| !**may).map(|(right, _)| right.as_str()).collect();
    if !refused.is_empty() {
        findings.problem("store.rights", format!("not allowed: {}", refused.join(", ")));
    } else if !access.rights.is_empty() {
        findings.ok(
            "store.rights",
            format!("allowed: {}", access.rights.keys().cloned().collect::<Vec<_>>().join(", ")),
        );
    }
}

fn schema(findings: &mut Findings, access: &Access) {
    if !access.unknown.is_empty() {
        let message = format!("migrations {:?} are of a later build: use that", access.unknown);
        findings.problem("store.schema", message);
    } else if access.pending.is_empty() {
        findings.ok("store.schema", "the schema is this build's");
    } else if access.has_rows && access.pending.contains(&FIRST) {
        findings.problem(
            "store.schema",
            "the table publication exists, but _sqlx_migrations does not list its migrations: `run` would try to create it \
             and fail. Restore _sqlx_migrations from a backup",
        );
    } else if access.create {
        let message =
            format!("migrations {:?} are to run: `run` and `migrate` do so", access.pending);
        findings.warning("store.schema", message);
    } else {
        let message = format!(
            "migrations {:?} are to run, and this user cannot create tables: run `migrate` as a role that can",
            access.pending
        );
        findings.problem("store.schema", message);
    }
}

async fn generation(findings: &mut Findings, settings: &Settings, opened: &Opened) {
    let ours = settings.enrich.generation;
    match opened.table.generation().await {
        Ok(table) if table > ours => findings.problem(
            "store.generation",
            format!("enrich.generation is {ours} and the table has {table}: `run` refuses that"),
        ),
        Ok(table) => findings.ok("store.generation", format!("{ours}, the table has {table}")),
        Err(error) => findings.problem("store.generation", error.to_string()),
    }
}

fn durability(findings: &mut Findings, access: &Access) -> Option<String> {
    let is_off = |name: &str| access.durability.get(name).is_some_and(|value| value == "off");
    let mut lossy = false;
    for (name, what) in [
        ("fsync", "a crash of its machine may lose or break rows whose offsets are committed"),
        ("full_page_writes", "a crash of its machine may break pages"),
    ] {
        if is_off(name) {
            lossy = true;
            findings.problem("store.durability", format!("{name} is off in PostgreSQL: {what}"));
        }
    }
    (!lossy).then(|| "a row is on the database's disk before its offset is committed".to_owned())
}
