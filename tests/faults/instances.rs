//! Faults of ingesters that share a topic.

use std::time::Duration;

use testkit::eventually;

use crate::stage::{SESSION, Stage};
use crate::support::PATIENCE;

/// One of several ingesters stands still until the others have all of the partitions, then writes what it still holds.
pub(crate) async fn frozen(stage: &mut Stage<'_>) {
    let which = any(stage);
    stage.ingesters[which].daemon.pause();
    eventually("the others to have all partitions", SESSION * 10, async || {
        let others = stage.ingesters.iter().enumerate().filter(|(place, _)| *place != which);
        others.map(|(_, other)| other.metrics().family("lag_records").len()).sum::<usize>() == 8
    })
    .await;
    stage.ingesters[which].daemon.resume();
}

fn any(stage: &mut Stage<'_>) -> usize {
    let count = stage.ingesters.len();
    usize::try_from(stage.world.random.below(count as u64)).unwrap_or(0)
}

/// Another number of instances, from one to four.
pub(crate) async fn scale(stage: &mut Stage<'_>) {
    let wanted = 1 + usize::try_from(stage.world.random.below(4)).unwrap_or(0);
    while stage.ingesters.len() < wanted {
        stage.start_ingester(&[]);
    }
    while stage.ingesters.len() > wanted {
        stage.ingesters.remove(0).stop();
    }
    let time = Duration::from_secs(if stage.world.full { 8 } else { 2 });
    stage.for_a(time, async |_| true).await;
}

/// One of three is stopped, stands still or is killed; or a fourth one comes and goes.
pub(crate) async fn one_of_three(stage: &mut Stage<'_>, round: u32) {
    let which = any(stage);
    match round % 4 {
        0 => {
            stage.ingesters.remove(which).stop();
            stage.start_ingester(&[]);
        }
        1 => frozen(stage).await,
        2 => {
            stage.ingesters.remove(which).daemon.kill();
            stage.start_ingester(&[]);
        }
        _ => {
            const TIME: Duration = Duration::from_secs(3);
            for _ in 0..if stage.world.full { 10 } else { 2 } {
                stage.start_ingester(&[]);
                stage.for_a(TIME, async |_| true).await;
                stage.ingesters.remove(3).stop();
                stage.for_a(TIME, async |_| true).await;
            }
        }
    }
}

/// Three instances of an earlier build give way to this one, one after the other. One of them comes back, which the guide
/// does not promise: the earlier build says that it does not know the schema, and the others go on.
pub(crate) async fn upgraded(stage: &mut Stage<'_>) {
    for _ in 0..3 {
        stage.ingesters.remove(0).stop();
        stage.start_ingester(&[]);
        stage.recovered().await;
    }
    stage.ingesters.remove(0).stop();
    stage.starts_earlier = true;
    stage.start_ingester(&[]);
    stage.starts_earlier = false;
    if let Some(mut back) = stage.ingesters.pop() {
        let status = back.daemon.wait_exit(PATIENCE);
        let log = back.daemon.log();
        assert!(!status.success() && log.contains("migration"), "{status}\n{log}");
        stage.note = format!("the earlier build ended with {status}");
    }
    stage.recovered().await;
    stage.start_ingester(&[]);
}
