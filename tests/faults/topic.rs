//! Faults of the topic itself. Each round begins and ends with everything read, so that the oracle knows what is lost.

use testkit::{Record, eventually};

use crate::load::Made;
use crate::stage::{SESSION, Stage};
use crate::support::generated;

async fn caught_up(stage: &mut Stage<'_>) {
    stage.recovered().await;
    eventually("the group to catch up", SESSION * 20, async || stage.scene.lag().await == 0).await;
}

fn gap(stage: &Stage<'_>) -> f64 {
    stage.ingesters[0].metrics().sum("offset_gap_records_total")
}

/// Records are deleted before they were read: exactly those are counted, and the rest is read.
pub(crate) async fn retention(stage: &mut Stage<'_>, rounds: u32) {
    let mut counted = 0.0;
    for _ in 0..rounds {
        stage.target.send(500).await;
        caught_up(stage).await;
        stage.ingesters.remove(0).stop();
        // Not the oracle's: whichever of them are deleted are not expected.
        let (records, made) = stage.target.beside(1_000);
        let positions = stage.target.put(records, &[]).await;
        let keep = usize::try_from(stage.world.random.below(1_000)).unwrap_or(0);
        let before = positions[keep].1;
        testkit::delete_records(&stage.scene.brokers, &stage.scene.topic, 0, before).await;
        stage.target.oracle().took(&made[keep..]);
        stage.start_ingester(&[]);
        caught_up(stage).await;
        let lost = keep as f64;
        assert!((gap(stage) - lost).abs() < 0.5, "{} counted of {lost} lost", gap(stage));
        counted += lost;
    }
    stage.note = format!("{counted} records deleted unread, as many counted");
}

/// The topic is deleted and made again while the ingester runs, with fewer records or with more.
pub(crate) async fn made_again(stage: &mut Stage<'_>, rounds: u32) {
    for round in 0..rounds {
        stage.target.send(500).await;
        caught_up(stage).await;
        let stopped = round % 3 == 2;
        if stopped {
            stage.ingesters.remove(0).stop();
        }
        testkit::delete_topic(&stage.scene.brokers, &stage.scene.topic).await;
        stage.scene.make_topic(1, &[]).await;
        stage.look_at_topic_anew();
        let more = if round % 2 == 0 { 3_000 } else { 50 };
        let numbers: Vec<usize> =
            (0..more).map(|_| stage.target.oracle().number_beside()).collect();
        let made: Vec<Made> =
            numbers.iter().map(|number| Made::Event { number: *number, revision: 0 }).collect();
        let records = numbers.iter().map(|n| generated(*n, 0)).collect();
        stage.target.put(records, &made).await;
        if stopped {
            stage.start_ingester(&[]);
        }
        let last = numbers[numbers.len() - 1];
        let first = numbers[0];
        let there = format!(
            "SELECT count(*) FROM publication WHERE name IN ('package-{first}', 'package-{last}')"
        );
        eventually("the new topic's rows", SESSION * 20, async || {
            stage.number(&there).await == Some(2)
        })
        .await;
        caught_up(stage).await;
    }
}

/// Partitions are added, and have records before the ingester knows of them.
pub(crate) async fn partitions(stage: &mut Stage<'_>, rounds: u32) {
    let mut count = 1;
    for _ in 0..rounds {
        stage.target.send(500).await;
        count += 2;
        testkit::add_partitions(&stage.scene.brokers, &stage.scene.topic, count).await;
        stage.look_at_topic_anew();
        let number = stage.target.oracle().number_beside();
        let partition = i32::try_from(count - 1).ok();
        let record = Record { partition, ..generated(number, 0) };
        stage.target.put(vec![record], &[Made::Event { number, revision: 0 }]).await;
        let there = format!("SELECT count(*) FROM publication WHERE name = 'package-{number}'");
        eventually("the new partition's row", SESSION * 20, async || {
            stage.number(&there).await == Some(1)
        })
        .await;
        caught_up(stage).await;
    }
}

/// The group's offsets are deleted while nobody reads: everything is read again, and nothing changes by it.
pub(crate) async fn offsets(stage: &mut Stage<'_>, rounds: u32) {
    for _ in 0..rounds {
        stage.target.send(500).await;
        caught_up(stage).await;
        stage.ingesters.remove(0).stop();
        testkit::delete_group(&stage.scene.brokers, &stage.scene.group).await;
        stage.target.send(100).await;
        stage.start_ingester(&[]);
        caught_up(stage).await;
    }
}
