//! Faults of a cluster's database: a standby replaces the primary, a copy replaces the database, no connection is left.

use std::time::Duration;

use testkit::{DatabaseAdmin, StopMode, eventually};

use crate::run::Run;
use crate::server::{standby_of, take_connections};
use crate::{cluster, fault};

/// The deadline for an ingester with hanging connections to find the new server.
const FOUND: Duration = Duration::from_secs(120);

/// Whether the round's standby lacks the last commits.
const fn lacks_commits(round: u32) -> bool {
    round.is_multiple_of(2)
}

/// Creates a standby of the primary.
async fn standby(run: &mut Run<'_>, round: u32) -> testkit::Postgres {
    let standby = standby_of(&run.servers.postgres, lacks_commits(round)).await;
    if lacks_commits(round) {
        let before = run.rows().await;
        eventually("commits that the standby does not have", FOUND, async || {
            run.rows().await > before + 1_000
        })
        .await;
    }
    standby
}

fn rewound(run: &Run<'_>) -> f64 {
    let each = run.ingesters.iter().map(|running| running.metrics());
    each.map(|metrics| metrics.sum("store_rewound_records_total")).sum()
}

/// Waits until the records that the new primary lacks were read again and counted.
async fn is_healed(run: &Run<'_>, round: u32, before: f64) {
    if lacks_commits(round) {
        eventually("what the standby lacked to be counted", FOUND, async || rewound(run) > before)
            .await;
    }
}

/// Stops the primary, promotes a standby, and moves the address to it.
pub(crate) async fn promoted(run: &mut Run<'_>, round: u32) {
    let standby = standby(run, round).await;
    let before = rewound(run);
    run.servers.postgres.stop(StopMode::Immediate);
    standby.promote().await;
    drop(run.move_database_to(standby));
    is_healed(run, round, before).await;
}

/// Stops the primary and the group's coordinator at the same time.
pub(crate) async fn promoted_without_coordinator(run: &mut Run<'_>, round: u32) {
    cluster::mend(run).await;
    let standby = standby(run, round).await;
    cluster::coordinator_killed(run).await;
    run.servers.postgres.stop(StopMode::Immediate);
    standby.promote().await;
    drop(run.move_database_to(standby));
}

/// Promotes a standby and moves the address to it, while the old primary runs on and its connections hang.
pub(crate) async fn address_moved(run: &mut Run<'_>, round: u32) {
    let standby = standby(run, round).await;
    let before = rewound(run);
    run.servers.to_postgres.silence();
    standby.promote().await;
    let _old = run.move_database_to(standby);
    // Also for connections that were made to the old server meanwhile: nothing else keeps it from taking rows.
    run.servers.to_postgres.silence();
    is_healed(run, round, before).await;
    run.recovered().await;
}

/// Restores a copy that lacks two thousand rows, on the same server.
pub(crate) async fn put_back(run: &mut Run<'_>) {
    let admin = DatabaseAdmin::of(&run.scene.store);
    admin.copy().await;
    let (before, copied) = (rewound(run), run.rows().await);
    eventually("rows that the copy does not have", FOUND, async || {
        run.rows().await > copied + 2_000
    })
    .await;
    admin.put_back().await;
    eventually("what the copy lacked to be counted", FOUND, async || rewound(run) > before).await;
}

/// Other clients use up the server's connections for a while.
pub(crate) async fn connections_used_up(run: &mut Run<'_>) {
    let mut taken = Vec::new();
    eventually("no connection to be left for the ingester", FOUND, async || {
        if !take_connections(&run.scene.store, &mut taken).await {
            return None;
        }
        let (_, answer) = run.ingesters[0].readyz()?;
        answer["reason"].as_str()?.contains("too many clients").then_some(())
    })
    .await;
    let time = Duration::from_secs(if run.servers.full { 60 } else { 3 });
    fault::stays_paused(run, time).await;
}
