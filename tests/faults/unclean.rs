//! Elections that lose records: a broker that was not in sync leads, and what it does not have is gone.

use std::collections::BTreeSet;

use testkit::{consume_all, eventually};

use crate::cluster::{ELECTION, mend, state};
use crate::stage::{SESSION, Stage};

/// Records that are lost in each election.
const DOOMED: usize = 2_000;

/// Makes a topic on two brokers, of which one is enough to lead and to write to.
pub(crate) async fn make_topic(stage: &Stage<'_>, name: &str, partitions: usize) {
    let config = [
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),
        ("retention.ms", "-1"),
    ];
    testkit::topic_on(&stage.scene.brokers, name, &vec![&[3, 2][..]; partitions], &config).await;
}

/// The two brokers of a topic, of which the second does not have what is written now.
struct Pair {
    leads: i32,
    lacks: i32,
}

async fn leave_one(stage: &mut Stage<'_>, topic: &str) -> Pair {
    let before = state(stage, topic).await;
    let lacks = before.replicas.iter().find(|id| **id != before.leader);
    let pair = Pair { leads: before.leader, lacks: *lacks.expect("the topic is on two brokers") };
    stage.world.kafka.kill(&[pair.lacks]);
    eventually("one replica in sync", ELECTION, async || {
        state(stage, topic).await.in_sync == [pair.leads]
    })
    .await;
    pair
}

/// The leader is dead.
async fn elect(stage: &mut Stage<'_>, topic: &str, pair: &Pair) {
    stage.world.kafka.start_again(&[pair.lacks]);
    eventually("the election", ELECTION, async || state(stage, topic).await.leader == pair.lacks)
        .await;
    stage.world.down.push(pair.leads);
    // A producer goes on in the log that it knows.
    stage.look_at_topic_anew();
}

async fn caught_up(stage: &Stage<'_>) {
    eventually("the group to catch up", SESSION * 20, async || stage.scene.lag().await == 0).await;
}

fn gap(stage: &Stage<'_>) -> f64 {
    stage.ingesters[0].metrics().sum("offset_gap_records_total")
}

/// Records that were read are lost, and others take their offsets, more or fewer than were lost.
pub(crate) async fn source(stage: &mut Stage<'_>, rounds: u32) {
    let topic = stage.scene.topic.clone();
    let mut lost = 0.0;
    for round in 0..rounds {
        let (stopped, longer) = (round % 2 == 1, round % 4 < 2);
        stage.target.send(500).await;
        caught_up(stage).await;
        let pair = leave_one(stage, &topic).await;
        stage.target.send_beside(DOOMED).await;
        caught_up(stage).await;
        let before = if stopped { 0.0 } else { gap(stage) };
        if stopped {
            stage.ingesters.remove(0).stop();
            // Nobody ever reads these.
            let (records, _) = stage.target.beside(300);
            stage.target.put(records, &[]).await;
        }
        stage.world.kafka.kill(&[pair.leads]);
        elect(stage, &topic, &pair).await;
        stage.target.send_beside(if longer { 2 * DOOMED } else { DOOMED / 4 }).await;
        if stopped {
            stage.start_ingester(&[]);
        }
        caught_up(stage).await;
        let counted = gap(stage) - before;
        let log = stage.ingesters[0].daemon.log();
        assert!((counted - DOOMED as f64).abs() < 0.5, "{counted} counted of {DOOMED}:\n{log}");
        assert!(log.contains("the log was cut"), "{log}");
        lost += counted;
        mend(stage).await;
    }
    stage.note = format!("{lost} records lost after they were read, as many counted");
}

/// Records are lost, read or not, while several ingesters read and one may die: the rows are those of what the topic still
/// has, and of what was read of the rest.
pub(crate) async fn under_load(stage: &mut Stage<'_>, round: u32) {
    let topic = stage.scene.topic.clone();
    let pair = leave_one(stage, &topic).await;
    // They read what will be lost.
    stage.recovered().await;
    stage.recoveries.pop();
    stage.a_while(4_000).await;
    stage.stop_load();
    stage.world.kafka.kill(&[pair.leads]);
    if round % 2 == 1 {
        stage.ingesters.remove(0).daemon.kill();
        stage.start_ingester(&[]);
    }
    elect(stage, &topic, &pair).await;
    let kept = consume_all(&stage.scene.brokers, &topic).await;
    let lost = stage.target.oracle().kept(&kept);
    assert!(lost > 0, "the election lost nothing");
    stage.start_load();
    stage.recovered().await;
    mend(stage).await;
    eventually("an ingester to say that the log was cut", ELECTION, async || {
        stage.ingesters.iter().any(|running| running.daemon.log().contains("the log was cut"))
    })
    .await;
    stage.note = format!("{lost} publications lost in all");
}

/// Dead letters that were acknowledged are lost. Nobody can know, but the next ones must come.
pub(crate) async fn letters(stage: &mut Stage<'_>, rounds: u32) {
    let topic = stage.scene.dead_letters.clone();
    let mut lost = 0;
    for _ in 0..rounds {
        stage.target.send(500).await;
        caught_up(stage).await;
        let pair = leave_one(stage, &topic).await;
        let doomed = stage.target.oracle().poison.len();
        stage.target.send_poison(100).await;
        caught_up(stage).await;
        stage.world.kafka.kill(&[pair.leads]);
        // These wait for the election.
        let target = stage.target.clone();
        tokio::join!(elect(stage, &topic, &pair), target.send_poison(100));
        caught_up(stage).await;
        let kept = consume_all(&stage.scene.brokers, &topic).await;
        let keys = kept.iter().filter_map(|letter| letter.key.as_deref());
        let kept: BTreeSet<_> = keys.map(String::from_utf8_lossy).collect();
        let safe = doomed + 100;
        assert!(kept.len() >= safe, "{} of {safe} letters that were not lost", kept.len());
        stage.target.oracle().poison.retain(|key, _| kept.contains(key.as_str()));
        lost += doomed + 200 - kept.len();
        stage.target.send_poison(100).await;
        stage.target.send(500).await;
        caught_up(stage).await;
        mend(stage).await;
    }
    stage.note = format!("{lost} letters lost");
}
