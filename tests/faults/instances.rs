//! Faults of ingesters that share a topic.

use std::time::Duration;

use testkit::eventually;

use crate::run::{Run, SESSION};
use crate::support::PATIENCE;

/// Freezes an ingester until the others have all partitions. Then it continues and writes what it still holds.
pub(crate) async fn frozen(run: &mut Run<'_>) {
    let which = any(run);
    run.ingesters[which].daemon.pause();
    eventually("the others to have all partitions", SESSION * 10, async || {
        let others = run.ingesters.iter().enumerate().filter(|(place, _)| *place != which);
        others.map(|(_, other)| other.metrics().family("lag_records").len()).sum::<usize>() == 8
    })
    .await;
    run.ingesters[which].daemon.resume();
}

fn any(run: &mut Run<'_>) -> usize {
    let count = run.ingesters.len();
    usize::try_from(run.servers.random.below(count as u64)).unwrap_or(0)
}

/// Changes the number of ingesters, from one to four.
pub(crate) async fn scale(run: &mut Run<'_>) {
    let wanted = 1 + usize::try_from(run.servers.random.below(4)).unwrap_or(0);
    while run.ingesters.len() < wanted {
        run.start_ingester(&[]);
    }
    while run.ingesters.len() > wanted {
        run.ingesters.remove(0).stop();
    }
    let time = Duration::from_secs(if run.servers.full { 8 } else { 2 });
    run.for_a(time, async |_| true).await;
}

/// Stops, freezes or kills one of three ingesters, or starts and stops a fourth one.
pub(crate) async fn one_of_three(run: &mut Run<'_>, round: u32) {
    let which = any(run);
    match round % 4 {
        0 => {
            run.ingesters.remove(which).stop();
            run.start_ingester(&[]);
        }
        1 => frozen(run).await,
        2 => {
            run.ingesters.remove(which).daemon.kill();
            run.start_ingester(&[]);
        }
        _ => {
            const TIME: Duration = Duration::from_secs(3);
            for _ in 0..if run.servers.full { 10 } else { 2 } {
                run.start_ingester(&[]);
                run.for_a(TIME, async |_| true).await;
                run.ingesters.remove(3).stop();
                run.for_a(TIME, async |_| true).await;
            }
        }
    }
}

/// Replaces three instances of an earlier build, one after the other. Then one of the earlier build is started again, which
/// the guide does not support: it reports an unknown schema, and the others continue.
pub(crate) async fn upgraded(run: &mut Run<'_>) {
    for _ in 0..3 {
        run.ingesters.remove(0).stop();
        run.start_ingester(&[]);
        run.recovered().await;
    }
    run.ingesters.remove(0).stop();
    run.starts_earlier = true;
    run.start_ingester(&[]);
    run.starts_earlier = false;
    if let Some(mut back) = run.ingesters.pop() {
        let status = back.daemon.wait_exit(PATIENCE);
        let log = back.daemon.log();
        assert!(!status.success() && log.contains("migration"), "{status}\n{log}");
        run.note = format!("the earlier build ended with {status}");
    }
    run.recovered().await;
    run.start_ingester(&[]);
}
