//! A standby that takes the place of the primary.

use std::time::Duration;

use testkit::{StopMode, eventually};

use crate::cluster;
use crate::stage::Stage;

/// For a server that is found again by an ingester whose old connections hang.
const FOUND: Duration = Duration::from_secs(120);

/// Whether the standby of a round lacks the last commits.
const fn lacks_commits(round: u32) -> bool {
    round.is_multiple_of(2)
}

/// A standby of the primary.
async fn standby(stage: &mut Stage<'_>, round: u32) -> testkit::Postgres {
    let standby = stage.world.postgres.standby();
    if lacks_commits(round) {
        standby.hold_back(&stage.world.postgres).await;
        let before = stage.rows().await;
        eventually("commits that the standby does not have", FOUND, async || {
            stage.rows().await > before + 1_000
        })
        .await;
    } else {
        standby.catch_up_with(&stage.world.postgres).await;
    }
    standby
}

fn rewound(stage: &Stage<'_>) -> f64 {
    let each = stage.ingesters.iter().map(|running| running.metrics());
    each.map(|metrics| metrics.sum("store_rewound_records_total")).sum()
}

/// What the new primary lacks is read again, and counted.
async fn is_healed(stage: &Stage<'_>, round: u32, before: f64) {
    if lacks_commits(round) {
        eventually("what the standby lacked to be counted", FOUND, async || {
            rewound(stage) > before
        })
        .await;
    }
}

/// The primary dies, and a standby is promoted and has its address.
pub(crate) async fn promoted(stage: &mut Stage<'_>, round: u32) {
    let standby = standby(stage, round).await;
    let before = rewound(stage);
    stage.world.postgres.stop(StopMode::Immediate);
    standby.promote().await;
    drop(stage.move_database_to(standby));
    is_healed(stage, round, before).await;
}

/// The primary and the group's coordinator die at once.
pub(crate) async fn promoted_without_coordinator(stage: &mut Stage<'_>, round: u32) {
    cluster::mend(stage).await;
    let standby = standby(stage, round).await;
    cluster::coordinator_killed(stage).await;
    stage.world.postgres.stop(StopMode::Immediate);
    standby.promote().await;
    drop(stage.move_database_to(standby));
}

/// A standby is promoted and has the address of a primary that runs on, but whose connections hang.
pub(crate) async fn address_moved(stage: &mut Stage<'_>, round: u32) {
    let standby = standby(stage, round).await;
    let before = rewound(stage);
    stage.world.to_postgres.silence();
    standby.promote().await;
    let _old = stage.move_database_to(standby);
    is_healed(stage, round, before).await;
    stage.recovered().await;
}
