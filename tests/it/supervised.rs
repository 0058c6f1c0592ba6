//! What a supervisor is told: systemd's notifications, exit codes.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use testkit::eventually;

use crate::support::{PATIENCE, Query, STOP, Scene, example_record};

/// Where systemd would listen.
struct Supervisor(UnixDatagram);

impl Supervisor {
    /// What was told since the last time, line by line.
    fn told(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.0.recv(&mut buffer) {
            lines.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
        }
        lines
    }

    async fn waits_for(&self, line: &str) -> Vec<String> {
        let mut all = Vec::new();
        eventually(line, PATIENCE, async || {
            all.extend(self.told());
            all.iter().any(|told| told == line)
        })
        .await;
        all
    }
}

#[tokio::test]
async fn systemd_is_told_that_the_ingester_is_up_lives_and_stops() {
    let scene = Scene::new("systemd", 1).await;
    let socket = scene.directory.path().join("notify");
    let supervisor = Supervisor(UnixDatagram::bind(&socket).unwrap());
    supervisor.0.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut ingester = scene.start_ingester(&environment);
    let told = supervisor.waits_for("READY=1").await;
    assert!(!told.iter().any(|line| line == "STOPPING=1"), "{told:?}");
    supervisor.waits_for("STATUS=ready").await;
    supervisor.waits_for("WATCHDOG=1").await;
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    ingester.daemon.terminate();
    supervisor.waits_for("STOPPING=1").await;
    assert_eq!(ingester.daemon.wait_exit(STOP).code(), Some(0));
}

#[tokio::test]
async fn systemd_is_told_that_the_query_daemon_is_up_and_lives() {
    let scene = Scene::without_topic("systemd", testkit::postgres().database().await.url);
    let migrated = scene.ingester_command("migrate", "127.0.0.1:0").spawn().wait_exit(STOP);
    assert_eq!(migrated.code(), Some(0));
    let socket = scene.directory.path().join("notify");
    let supervisor = Supervisor(UnixDatagram::bind(&socket).unwrap());
    supervisor.0.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let query = Query::start(&scene.store, &environment);
    supervisor.waits_for("READY=1").await;
    supervisor.waits_for("STATUS=ready").await;
    supervisor.waits_for("WATCHDOG=1").await;
    assert_eq!(query.running.metrics().get("ready"), Some(1.0));
    // With nothing in progress it may end before there is time to say that it stops.
    query.running.stop();
}
