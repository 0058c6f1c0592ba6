//! Faults of the topic. Each round begins and ends with everything read, so that the oracle knows the loss.

use testkit::{Record, eventually};

use crate::load::Made;
use crate::run::{Run, SESSION};
use crate::support::generated;

async fn caught_up(run: &mut Run<'_>) {
    run.recovered().await;
    eventually("the group to catch up", SESSION * 20, async || run.scene.lag().await == 0).await;
}

pub(crate) fn gap(run: &Run<'_>) -> f64 {
    run.ingesters[0].metrics().sum("offset_gap_records_total")
}

/// Deletes records before they are read: exactly these are counted, and the others are read.
pub(crate) async fn retention(run: &mut Run<'_>, rounds: u32) {
    let mut counted = 0.0;
    for _ in 0..rounds {
        run.target.send(500).await;
        caught_up(run).await;
        run.ingesters.remove(0).stop();
        // Not registered with the oracle yet, because deleted records are not expected.
        let (records, made) = run.target.extra_events(1_000);
        let positions = run.target.put(records, &[]).await;
        let keep = usize::try_from(run.servers.random.below(1_000)).unwrap_or(0);
        let before = positions[keep].1;
        testkit::delete_records(&run.scene.brokers, &run.scene.topic, 0, before).await;
        run.target.oracle().took(&made[keep..]);
        run.start_ingester(&[]);
        caught_up(run).await;
        let lost = keep as f64;
        assert!((gap(run) - lost).abs() < 0.5, "{} counted of {lost} lost", gap(run));
        counted += lost;
    }
    run.note = format!("{counted} records deleted unread, as many counted");
}

/// Deletes and creates the topic while the ingester runs, with fewer or more records.
pub(crate) async fn recreated(run: &mut Run<'_>, rounds: u32) {
    for round in 0..rounds {
        run.target.send(500).await;
        caught_up(run).await;
        let stopped = round % 3 == 2;
        if stopped {
            run.ingesters.remove(0).stop();
        }
        testkit::delete_topic(&run.scene.brokers, &run.scene.topic).await;
        run.scene.make_topic(1, &[]).await;
        run.look_at_topic_anew();
        let more = if round % 2 == 0 { 3_000 } else { 50 };
        let numbers: Vec<usize> = (0..more).map(|_| run.target.oracle().extra_number()).collect();
        let made: Vec<Made> =
            numbers.iter().map(|number| Made::Event { number: *number, revision: 0 }).collect();
        let records = numbers.iter().map(|n| generated(*n, 0)).collect();
        run.target.put(records, &made).await;
        if stopped {
            run.start_ingester(&[]);
        }
        let last = numbers[numbers.len() - 1];
        let first = numbers[0];
        let there = format!(
            "SELECT count(*) FROM publication WHERE name IN ('package-{first}', 'package-{last}')"
        );
        eventually("the new topic's rows", SESSION * 20, async || {
            run.number(&there).await == Some(2)
        })
        .await;
        caught_up(run).await;
    }
}

/// Adds partitions with records before the ingester knows of them.
pub(crate) async fn partitions(run: &mut Run<'_>, rounds: u32) {
    let mut count = 1;
    for _ in 0..rounds {
        run.target.send(500).await;
        count += 2;
        testkit::add_partitions(&run.scene.brokers, &run.scene.topic, count).await;
        run.look_at_topic_anew();
        let number = run.target.oracle().extra_number();
        let partition = i32::try_from(count - 1).ok();
        let record = Record { partition, ..generated(number, 0) };
        run.target.put(vec![record], &[Made::Event { number, revision: 0 }]).await;
        let there = format!("SELECT count(*) FROM publication WHERE name = 'package-{number}'");
        eventually("the new partition's row", SESSION * 20, async || {
            run.number(&there).await == Some(1)
        })
        .await;
        caught_up(run).await;
    }
}

/// Deletes the group's offsets while no ingester runs: everything is read again without a change.
pub(crate) async fn offsets(run: &mut Run<'_>, rounds: u32) {
    for _ in 0..rounds {
        run.target.send(500).await;
        caught_up(run).await;
        run.ingesters.remove(0).stop();
        testkit::delete_group(&run.scene.brokers, &run.scene.group).await;
        run.target.send(100).await;
        run.start_ingester(&[]);
        caught_up(run).await;
    }
}
