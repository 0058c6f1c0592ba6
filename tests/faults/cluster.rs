//! Faults of the brokers of a cluster.

use std::time::{Duration, Instant};

use testkit::Transaction;

use crate::run::{Run, SESSION};

/// Starts the stopped brokers, and waits until all replicas of the run's topics are in sync.
pub(crate) async fn mend(run: &mut Run<'_>) {
    let topics = [run.scene.topic.as_str(), run.scene.dead_letters.as_str()];
    run.servers.nodes.mend(&topics).await;
}

/// Kills a partition's leader, the group's coordinator or the controller. It stays stopped until the next round.
pub(crate) async fn one_killed(run: &mut Run<'_>, round: u32) {
    mend(run).await;
    let nodes = &run.servers.nodes;
    let id = match round % 3 {
        0 => nodes.coordinator().await,
        1 => nodes.controller(),
        _ => nodes.state(&run.scene.topic).await.leader,
    };
    run.servers.nodes.kill(&[id]);
}

pub(crate) async fn coordinator_killed(run: &mut Run<'_>) {
    let coordinator = run.servers.nodes.coordinator().await;
    run.servers.nodes.kill(&[coordinator]);
}

/// Kills two of three brokers, with or without the coordinator: no commit is possible, which must be reported.
pub(crate) async fn two_away(run: &mut Run<'_>, round: u32) {
    mend(run).await;
    let coordinator = run.servers.nodes.coordinator().await;
    let stays = if round.is_multiple_of(2) { coordinator % 3 + 1 } else { coordinator };
    let away = run.servers.nodes.others(stays);
    run.servers.nodes.kill(&away);
    let killed = Instant::now();
    let (_, answer) = run.ingesters[0].shows("paused").await;
    let after = killed.elapsed().as_secs();
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("Connection refused"), "it says nothing of a broker: {reason}");
    let word = reason.split(':').next().unwrap_or_default();
    run.note = format!("{}{word} after {after} s, ", run.note);
    let time = Duration::from_secs(if run.servers.full { 60 } else { 5 });
    run.for_a(time, async |run| {
        let running = &run.ingesters[0];
        let live = testkit::http_get(&running.admin, "/livez");
        let paused = running.readyz().is_some_and(|(_, answer)| answer["state"] == "paused");
        paused && live.is_ok_and(|(code, _)| code == 200)
    })
    .await;
    mend(run).await;
}

pub(crate) async fn all_killed(run: &mut Run<'_>) {
    let all = run.servers.nodes.kafka.ids();
    run.servers.nodes.kill(&all);
    mend(run).await;
}

/// Restarts all brokers, one after the other.
pub(crate) async fn rolling(run: &mut Run<'_>) {
    let topics = [run.scene.topic.as_str(), run.scene.dead_letters.as_str()];
    run.servers.nodes.roll(&topics).await;
}

/// Moves partition 0 away from one broker, in each round another one.
pub(crate) async fn moved(run: &mut Run<'_>, round: u32) {
    let brokers = run.servers.nodes.others(i32::try_from(round % 3).unwrap_or(0) + 1);
    run.servers.nodes.move_to(&run.scene.topic, 1, &brokers).await;
}

/// A producer fails in a transaction: later records wait until the broker aborts it.
pub(crate) async fn transaction(run: &mut Run<'_>) {
    let timeout = Duration::from_secs(if run.servers.full { 20 } else { 5 });
    let open = Transaction::begin_within(&run.scene.brokers, &run.scene.group, timeout).await;
    // Aborted records, which no consumer may see.
    let (records, _) = run.target.extra_events(100);
    open.produce(&run.scene.topic, records).await;
    drop(open);
    run.for_a(SESSION, async |_| true).await;
}
