//! Faults of the brokers of a cluster.

use std::time::{Duration, Instant};

use testkit::{PartitionState, Transaction, eventually, partition_states};

use crate::run::{Run, SESSION};

const OFFSETS: &str = "__consumer_offsets";
/// The deadline for elections and for replicas to catch up, on a busy machine.
pub(crate) const ELECTION: Duration = Duration::from_secs(120);

/// Starts the stopped brokers, and waits until all replicas of the run's topics are in sync.
pub(crate) async fn mend(run: &mut Run<'_>) {
    let down = std::mem::take(&mut run.servers.down);
    run.servers.kafka.start_again(&down);
    let (source, letters) = (run.scene.topic.clone(), run.scene.dead_letters.clone());
    for topic in [&source, &letters, OFFSETS] {
        eventually(&format!("the replicas of {topic}"), ELECTION, async || {
            let states = partition_states(&run.scene.brokers, topic).await;
            let are_in_sync =
                states.iter().all(|state| state.leader > 0 && state.in_sync == state.replicas);
            !states.is_empty() && are_in_sync
        })
        .await;
    }
}

/// The leader and replicas of partition 0 of a topic.
pub(crate) async fn state(run: &Run<'_>, topic: &str) -> PartitionState {
    eventually(&format!("who leads {topic}"), ELECTION, async || {
        let states = partition_states(&run.scene.brokers, topic).await;
        states.into_iter().next().filter(|state| state.leader > 0)
    })
    .await
}

fn kill(run: &mut Run<'_>, ids: &[i32]) {
    run.servers.kafka.kill(ids);
    run.servers.down.extend(ids);
}

/// Kills a partition's leader, the group's coordinator or the controller. It stays stopped until the next round.
pub(crate) async fn one_killed(run: &mut Run<'_>, round: u32) {
    mend(run).await;
    let id = match round % 3 {
        0 => state(run, OFFSETS).await.leader,
        1 => testkit::active_controller(&run.scene.brokers),
        _ => state(run, &run.scene.topic).await.leader,
    };
    kill(run, &[id]);
}

pub(crate) async fn coordinator_killed(run: &mut Run<'_>) {
    let coordinator = state(run, OFFSETS).await.leader;
    kill(run, &[coordinator]);
}

/// Kills two of three brokers, with or without the coordinator: no commit is possible, which must be reported.
pub(crate) async fn two_away(run: &mut Run<'_>, round: u32) {
    mend(run).await;
    let coordinator = state(run, OFFSETS).await.leader;
    let stays = if round.is_multiple_of(2) { coordinator % 3 + 1 } else { coordinator };
    let away: Vec<i32> = run.servers.kafka.ids().into_iter().filter(|id| *id != stays).collect();
    kill(run, &away);
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
    let all = run.servers.kafka.ids();
    kill(run, &all);
    mend(run).await;
}

/// Restarts all brokers, one after the other.
pub(crate) async fn rolling(run: &mut Run<'_>) {
    for id in run.servers.kafka.ids() {
        run.servers.kafka.node(id).stop();
        run.servers.down.push(id);
        mend(run).await;
    }
}

/// Moves partition 0 away from one broker, in each round another one.
pub(crate) async fn moved(run: &mut Run<'_>, round: u32) {
    let topic = run.scene.topic.clone();
    let mut brokers = run.servers.kafka.ids();
    let gone = usize::try_from(round).unwrap_or(0) % brokers.len();
    brokers.remove(gone);
    testkit::reassign(&run.scene.brokers, &topic, &brokers);
    eventually("the replicas to have moved", ELECTION, async || {
        let now = state(run, &topic).await;
        now.replicas == brokers && now.in_sync == brokers && brokers.contains(&now.leader)
    })
    .await;
}

/// A producer fails in a transaction: later records wait until the broker aborts it.
pub(crate) async fn transaction(run: &mut Run<'_>) {
    let timeout = Duration::from_secs(if run.servers.full { 20 } else { 5 });
    let open = Transaction::begin_within(&run.scene.brokers, &run.scene.group, timeout).await;
    // Aborted records, which no consumer may see.
    let (records, _) = run.target.beside(100);
    open.produce(&run.scene.topic, records).await;
    drop(open);
    run.for_a(SESSION, async |_| true).await;
}
