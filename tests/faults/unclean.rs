//! Unclean elections: a broker that was not in sync becomes leader, and the records that it lacks are lost.

use std::collections::BTreeSet;

use testkit::{consume_all, eventually};

use crate::cluster::mend;
use crate::nodes::{ELECTION, Pair};
use crate::run::{Run, SESSION};
use crate::topic::gap;

/// Records lost in each election.
const DOOMED: usize = 2_000;

/// Creates a topic on two brokers. One of them is enough to lead and to accept writes.
pub(crate) async fn make_topic(run: &Run<'_>, name: &str, partitions: usize) {
    let config = [
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),
        ("retention.ms", "-1"),
    ];
    testkit::topic_on(&run.scene.brokers, name, &vec![&[3, 2][..]; partitions], &config).await;
}

async fn leave_one(run: &mut Run<'_>, topic: &str) -> Pair {
    let before = run.servers.nodes.state(topic).await;
    let lacks = before.replicas.iter().find(|id| **id != before.leader);
    let pair = Pair { leads: before.leader, lacks: *lacks.expect("the topic is on two brokers") };
    run.servers.nodes.leave_one(topic, &pair).await;
    pair
}

/// Elects the broker that lacks records.
async fn elect(run: &mut Run<'_>, topic: &str, pair: &Pair) {
    run.servers.nodes.elect(topic, pair).await;
    // A producer would continue with its old metadata.
    run.look_at_topic_anew();
}

async fn caught_up(run: &Run<'_>) {
    eventually("the group to catch up", SESSION * 20, async || run.scene.lag().await == 0).await;
}

/// Records that were read are lost, and fewer or more records take their offsets.
pub(crate) async fn source(run: &mut Run<'_>, rounds: u32) {
    let topic = run.scene.topic.clone();
    let mut lost = 0.0;
    for round in 0..rounds {
        let (stopped, longer) = (round % 2 == 1, round % 4 < 2);
        run.target.send(500).await;
        caught_up(run).await;
        let pair = leave_one(run, &topic).await;
        run.target.send_extra(DOOMED).await;
        caught_up(run).await;
        let before = if stopped { 0.0 } else { gap(run) };
        if stopped {
            run.ingesters.remove(0).stop();
            // These are lost before any ingester reads them.
            let (records, _) = run.target.extra_events(300);
            run.target.put(records, &[]).await;
        }
        run.servers.nodes.kafka.kill(&[pair.leads]);
        elect(run, &topic, &pair).await;
        run.target.send_extra(if longer { 2 * DOOMED } else { DOOMED / 4 }).await;
        if stopped {
            run.start_ingester(&[]);
        }
        caught_up(run).await;
        let counted = gap(run) - before;
        let log = run.ingesters[0].daemon.log();
        assert!((counted - DOOMED as f64).abs() < 0.5, "{counted} counted of {DOOMED}:\n{log}");
        assert!(log.contains("the log was cut"), "{log}");
        lost += counted;
        mend(run).await;
    }
    run.note = format!("{lost} records lost after they were read, as many counted");
}

/// Records are lost, read or not, while several ingesters read and one may be killed: the rows must match the records
/// in the topic and the lost ones that were read.
pub(crate) async fn under_load(run: &mut Run<'_>, round: u32) {
    let topic = run.scene.topic.clone();
    let pair = leave_one(run, &topic).await;
    // The ingesters read the records that will be lost.
    run.recovered().await;
    run.recoveries.pop();
    run.a_while(4_000).await;
    run.stop_load();
    run.servers.nodes.kafka.kill(&[pair.leads]);
    if round % 2 == 1 {
        run.ingesters.remove(0).daemon.kill();
        run.start_ingester(&[]);
    }
    elect(run, &topic, &pair).await;
    let kept = consume_all(&run.scene.brokers, &topic).await;
    let lost = run.target.oracle().kept(&kept);
    assert!(lost > 0, "the election lost nothing");
    run.start_load();
    run.recovered().await;
    mend(run).await;
    eventually("an ingester to say that the log was cut", ELECTION, async || {
        run.ingesters.iter().any(|running| running.daemon.log().contains("the log was cut"))
    })
    .await;
    run.note = format!("{lost} publications lost in all");
}

/// Acknowledged dead letters are lost. This cannot be detected, but later ones must arrive.
pub(crate) async fn letters(run: &mut Run<'_>, rounds: u32) {
    let topic = run.scene.dead_letters.clone();
    let mut lost = 0;
    for _ in 0..rounds {
        run.target.send(500).await;
        caught_up(run).await;
        let pair = leave_one(run, &topic).await;
        let doomed = run.target.oracle().poison.len();
        run.target.send_poison(100).await;
        caught_up(run).await;
        run.servers.nodes.kafka.kill(&[pair.leads]);
        // These wait for the election.
        let target = run.target.clone();
        tokio::join!(elect(run, &topic, &pair), target.send_poison(100));
        caught_up(run).await;
        let kept = consume_all(&run.scene.brokers, &topic).await;
        let keys = kept.iter().filter_map(|letter| letter.key.as_deref());
        let kept: BTreeSet<_> = keys.map(String::from_utf8_lossy).collect();
        let safe = doomed + 100;
        assert!(kept.len() >= safe, "{} of {safe} letters that were not lost", kept.len());
        run.target.oracle().poison.retain(|key, _| kept.contains(key.as_str()));
        lost += doomed + 200 - kept.len();
        run.target.send_poison(100).await;
        run.target.send(500).await;
        caught_up(run).await;
        mend(run).await;
    }
    run.note = format!("{lost} letters lost");
}
