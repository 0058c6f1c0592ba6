//! Faults of the brokers of a cluster.

use std::time::{Duration, Instant};

use testkit::{PartitionState, Transaction, eventually, partition_states};

use crate::stage::{SESSION, Stage};

const OFFSETS: &str = "__consumer_offsets";
/// For elections and for replicas that follow, on a busy machine.
pub(crate) const ELECTION: Duration = Duration::from_secs(120);

/// Starts the brokers that are down, and waits until all replicas of all topics that the run needs are in sync.
pub(crate) async fn mend(stage: &mut Stage<'_>) {
    let down = std::mem::take(&mut stage.world.down);
    stage.world.kafka.start_again(&down);
    let (source, letters) = (stage.scene.topic.clone(), stage.scene.dead_letters.clone());
    for topic in [&source, &letters, OFFSETS] {
        eventually(&format!("the replicas of {topic}"), ELECTION, async || {
            let states = partition_states(&stage.scene.brokers, topic).await;
            let are_in_sync =
                states.iter().all(|state| state.leader > 0 && state.in_sync == state.replicas);
            !states.is_empty() && are_in_sync
        })
        .await;
    }
}

/// Who has partition 0 of a topic.
pub(crate) async fn state(stage: &Stage<'_>, topic: &str) -> PartitionState {
    eventually(&format!("who leads {topic}"), ELECTION, async || {
        let states = partition_states(&stage.scene.brokers, topic).await;
        states.into_iter().next().filter(|state| state.leader > 0)
    })
    .await
}

fn kill(stage: &mut Stage<'_>, ids: &[i32]) {
    stage.world.kafka.kill(ids);
    stage.world.down.extend(ids);
}

/// The leader of a partition, the group's coordinator or the controller dies, and stays away until the next round.
pub(crate) async fn one_killed(stage: &mut Stage<'_>, round: u32) {
    mend(stage).await;
    let id = match round % 3 {
        0 => state(stage, OFFSETS).await.leader,
        1 => testkit::active_controller(&stage.scene.brokers),
        _ => state(stage, &stage.scene.topic).await.leader,
    };
    kill(stage, &[id]);
}

pub(crate) async fn coordinator_killed(stage: &mut Stage<'_>) {
    let coordinator = state(stage, OFFSETS).await.leader;
    kill(stage, &[coordinator]);
}

/// Two of three brokers are away, with the coordinator or without it: nothing can be committed, and that is said.
pub(crate) async fn two_away(stage: &mut Stage<'_>, round: u32) {
    mend(stage).await;
    let coordinator = state(stage, OFFSETS).await.leader;
    let stays = if round.is_multiple_of(2) { coordinator % 3 + 1 } else { coordinator };
    let away: Vec<i32> = stage.world.kafka.ids().into_iter().filter(|id| *id != stays).collect();
    kill(stage, &away);
    let killed = Instant::now();
    let (_, answer) = stage.ingesters[0].shows("paused").await;
    let after = killed.elapsed().as_secs();
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("Connection refused"), "it says nothing of a broker: {reason}");
    let word = reason.split(':').next().unwrap_or_default();
    stage.note = format!("{}{word} after {after} s, ", stage.note);
    let time = Duration::from_secs(if stage.world.full { 60 } else { 5 });
    stage
        .for_a(time, async |stage| {
            let running = &stage.ingesters[0];
            let live = testkit::http_get(&running.admin, "/livez");
            let paused = running.readyz().is_some_and(|(_, answer)| answer["state"] == "paused");
            paused && live.is_ok_and(|(code, _)| code == 200)
        })
        .await;
    mend(stage).await;
}

pub(crate) async fn all_killed(stage: &mut Stage<'_>) {
    let all = stage.world.kafka.ids();
    kill(stage, &all);
    mend(stage).await;
}

/// One after the other stops in good order and comes back.
pub(crate) async fn rolling(stage: &mut Stage<'_>) {
    for id in stage.world.kafka.ids() {
        stage.world.kafka.node(id).stop();
        stage.world.down.push(id);
        mend(stage).await;
    }
}

/// Partition 0 leaves one of the brokers, each time another one.
pub(crate) async fn moved(stage: &mut Stage<'_>, round: u32) {
    let topic = stage.scene.topic.clone();
    let mut brokers = stage.world.kafka.ids();
    let gone = usize::try_from(round).unwrap_or(0) % brokers.len();
    brokers.remove(gone);
    testkit::reassign(&stage.scene.brokers, &topic, &brokers);
    eventually("the replicas to have moved", ELECTION, async || {
        let now = state(stage, &topic).await;
        now.replicas == brokers && now.in_sync == brokers && brokers.contains(&now.leader)
    })
    .await;
}

/// A producer dies within a transaction: what came after it waits until the broker aborts it.
pub(crate) async fn transaction(stage: &mut Stage<'_>) {
    let timeout = Duration::from_secs(if stage.world.full { 20 } else { 5 });
    let open = Transaction::begin_within(&stage.scene.brokers, &stage.scene.group, timeout).await;
    // Nobody may see these.
    let (records, _) = stage.target.beside(100);
    open.produce(&stage.scene.topic, records).await;
    drop(open);
    stage.for_a(SESSION, async |_| true).await;
}
