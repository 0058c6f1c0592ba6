//! Several ingesters share a topic, join and leave while records flow, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use testkit::eventually;

use crate::support::{PATIENCE, Running, Scene, generated};

const PARTITIONS: usize = 8;

/// The number of an ingester's partitions, from the lag metric.
fn partitions(running: &Running) -> usize {
    running.metrics().family("lag_records").len()
}

async fn share(group: &mut [&mut Running]) {
    let mut last = Vec::new();
    eventually("every ingester to have a share", PATIENCE, async || {
        for running in &mut *group {
            assert!(running.daemon.is_running(), "an ingester ended:\n{}", running.daemon.log());
        }
        let shares: Vec<usize> = group.iter().map(|running| partitions(running)).collect();
        if shares != last {
            eprintln!("shares {shares:?}");
            last.clone_from(&shares);
        }
        let fair = PARTITIONS / shares.len();
        shares.iter().sum::<usize>() == PARTITIONS && shares.iter().all(|share| *share >= fair)
    })
    .await;
}

/// Maximum lag of the ingesters: they should be busy, but a slow machine must not fall hours behind.
const AHEAD: i64 = 20_000;

/// Produces records until `enough` is set. The thread returns their number.
fn flow(scene: &Arc<Scene>, enough: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (scene, enough) = (scene.clone(), enough.clone());
    // A thread with its own runtime, so that it continues while the test waits for a daemon.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut produced = 0;
        while !enough.load(Ordering::Relaxed) {
            if runtime.block_on(scene.lag()) > AHEAD {
                continue;
            }
            let records = (produced..produced + 2_000).map(|n| generated(n, 0));
            produced += runtime.block_on(scene.produce(records)).len();
        }
        produced
    })
}

#[tokio::test]
async fn ingesters_that_come_and_go_lose_nothing() {
    come_and_go("rebalance", &[]).await;
}

/// The broker assigns the partitions, not the members (KIP-848).
#[tokio::test]
async fn ingesters_that_come_and_go_lose_nothing_when_the_broker_assigns() {
    come_and_go("broker-assigns", &[("INGESTER_KAFKA__CLIENT__GROUP_PROTOCOL", "consumer")]).await;
}

async fn come_and_go(name: &str, environment: &[(&str, &str)]) {
    let scene = Arc::new(Scene::new(name, i32::try_from(PARTITIONS).unwrap()).await);
    let enough = Arc::new(AtomicBool::new(false));
    let producing = flow(&scene, &enough);

    let mut first = scene.ingester(environment);
    share(&mut [&mut first]).await;
    let mut second = scene.ingester(environment);
    share(&mut [&mut first, &mut second]).await;
    let mut third = scene.ingester(environment);
    share(&mut [&mut first, &mut second, &mut third]).await;
    assert!(first.metrics().sum("rebalances_total") >= 2.0);
    let log = first.stop();
    assert!(!log.contains("ERROR"), "{log}");
    share(&mut [&mut second, &mut third]).await;
    third.stop();
    share(&mut [&mut second]).await;

    enough.store(true, Ordering::Relaxed);
    let events = i64::try_from(producing.join().unwrap()).unwrap();
    scene.caught_up(&mut second).await;
    second.stop();
    assert_eq!(scene.count().await, events);
    let right = "SELECT count(*) FROM publication WHERE username = replace(name, 'package', 'user') AND NOT disputed";
    assert_eq!(scene.number(right).await, events);
    assert_eq!(scene.lag().await, 0);
}
