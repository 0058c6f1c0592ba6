//! The interface to supervisors: systemd's notifications, exit codes.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use testkit::eventually;

use crate::support::{PATIENCE, Query, STOP, Scene, example_record};

/// The socket on which systemd would listen.
struct Supervisor {
    socket: UnixDatagram,
    /// The notifications that came, line by line.
    lines: RefCell<Vec<String>>,
}

impl Supervisor {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Self { socket, lines: RefCell::default() }
    }

    fn receive(&self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            self.lines.borrow_mut().extend(text.lines().map(str::to_owned));
        }
    }

    /// Waits for this line, and takes it. Returns the lines before it; all others are kept, because several may come together.
    async fn waits_for(&self, line: &str) -> Vec<String> {
        eventually(line, PATIENCE, async || {
            self.receive();
            let mut lines = self.lines.borrow_mut();
            let at = lines.iter().position(|told| told == line)?;
            lines.remove(at);
            Some(lines[..at].to_vec())
        })
        .await
    }
}

/// A database with its tables.
async fn migrated(name: &str) -> Scene {
    let scene = Scene::without_topic(name, testkit::postgres().database().await.url);
    scene.must("migrate", &[]);
    scene
}

fn connected(address: &str, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    stream
}

#[tokio::test]
async fn systemd_is_told_that_the_ingester_is_up_lives_and_stops() {
    let scene = Scene::new("systemd", 1).await;
    let socket = scene.directory.path().join("notify");
    let supervisor = Supervisor::bind(&socket);
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut ingester = scene.start_ingester(&environment);
    let told = supervisor.waits_for("READY=1").await;
    assert!(!told.iter().any(|line| line == "STOPPING=1"), "{told:?}");
    supervisor.waits_for("STATUS=ready").await;
    supervisor.waits_for("WATCHDOG=1").await;
    scene.produce([example_record()]).await;
    scene.caught_up(&mut ingester).await;
    let _half = connected(&ingester.admin, "GET /met");
    ingester.daemon.terminate();
    supervisor.waits_for("STOPPING=1").await;
    assert_eq!(ingester.daemon.wait_exit(STOP).code(), Some(0));
}

#[tokio::test]
async fn systemd_is_told_that_the_query_daemon_is_up_and_lives() {
    let scene = migrated("systemd").await;
    let socket = scene.directory.path().join("notify");
    let supervisor = Supervisor::bind(&socket);
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let query = Query::start(&scene.store, &environment);
    supervisor.waits_for("READY=1").await;
    supervisor.waits_for("STATUS=ready").await;
    supervisor.waits_for("WATCHDOG=1").await;
    assert_eq!(query.running.metrics().get("ready"), Some(1.0));
    // With nothing in progress, it may end before it can report that it stops.
    query.running.stop();
}

#[tokio::test]
async fn clients_that_never_end_do_not_make_a_stop_a_failure() {
    let scene = migrated("never-end").await;
    // Nothing is in progress, so the grace period, which is longer than the stop's deadline, is not used up.
    let query = Query::start(&scene.store, &[("QUERY_SHUTDOWN__GRACE", "1h")]);
    let _half = connected(&query.http, "G");
    query.running.stop();
    let query = Query::start(&scene.store, &[("QUERY_SHUTDOWN__GRACE", "100ms")]);
    let mut asking = connected(
        &query.http,
        "POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n",
    );
    asking.read_exact(&mut [0; 25]).unwrap();
    let log = query.running.stop();
    assert!(log.contains("the requests in progress were cut off"), "{log}");
}
