//! A real Apache Kafka. Each node is broker and KRaft controller.

use std::collections::HashMap;
use std::env::{current_exe, var_os};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::net::free_port;
use crate::process::{EndSignal, Process, watched};
use crate::wait::poll_until;

/// The version of Apache Kafka for the tests, unless [`KAFKA_VERSION_VARIABLE`] names another.
const KAFKA_VERSION: &str = "4.1.1";
/// The environment variable that names another version.
const KAFKA_VERSION_VARIABLE: &str = "TESTKIT_KAFKA_VERSION";
/// The environment variable that names the folder of the jars. Without it the folder is searched for.
pub const KAFKA_LIBS_VARIABLE: &str = "TESTKIT_KAFKA_LIBS";
/// The environment variable with the bootstrap servers of the broker that the whole test run shares.
pub const KAFKA_VARIABLE: &str = "TESTKIT_KAFKA";

/// The deadline for a start. It takes seven seconds on two idle cores; the rest is for a machine that compiles.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
/// Another process can take a chosen port before Kafka listens on it.
const ATTEMPTS: usize = 3;
/// Heap of a single node, and of one of several nodes on the same machine.
const HEAPS: [&str; 2] = ["-Xmx512m", "-Xmx400m"];
/// JVM options for short runs: with less compilation the JVM starts two seconds sooner.
pub(crate) const QUICK: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// A Kafka broker on 127.0.0.1. Dropping it ends the broker and removes its data.
#[derive(Debug)]
pub struct Kafka {
    brokers: String,
    /// The ports of additional listeners, by name.
    listeners: HashMap<String, u16>,
    /// `None` when the broker was not started here.
    node: Option<Node>,
}

#[derive(Debug)]
struct Node {
    // Declared before the directory, because fields are dropped in order and the server writes until it ends.
    process: Process,
    dir: TempDir,
    port: u16,
    options: Vec<String>,
}

/// The configuration of a broker to start; made by [`Kafka::builder`].
#[derive(Debug, Clone, Default)]
pub struct KafkaBuilder {
    properties: Vec<(String, String)>,
    listeners: Vec<Listener>,
    scram_users: Vec<(String, String)>,
    optimized: bool,
}

/// A listener in addition to the plain one.
#[derive(Debug, Clone)]
struct Listener {
    name: String,
    protocol: String,
    /// The ports that clients are told, by node; the listener's own port when there is none for the node.
    advertised: Vec<u16>,
}

/// The id and the ports of a broker to start.
struct Ports {
    id: usize,
    plain: u16,
    controller: u16,
    others: Vec<u16>,
    /// The controllers of the cluster, in the format of `controller.quorum.voters`.
    voters: String,
}

impl KafkaBuilder {
    /// Adds a line to the broker's `server.properties`. The last line of a key counts.
    #[must_use]
    pub fn property(mut self, key: &str, value: impl ToString) -> Self {
        self.properties.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds a listener on a free port. `protocol` is Kafka's name for it (`SASL_SSL`). [`Kafka::listener`] is its
    /// address. `advertised` has the port that clients are told, for a listener behind a proxy; with several nodes, a
    /// port for each.
    #[must_use]
    pub fn listener(
        mut self,
        name: &str,
        protocol: &str,
        advertised: impl IntoIterator<Item = u16>,
    ) -> Self {
        let (name, protocol) = (name.to_owned(), protocol.to_owned());
        self.listeners.push(Listener {
            name,
            protocol,
            advertised: advertised.into_iter().collect(),
        });
        self
    }

    /// Adds a user with a password for SCRAM-SHA-256.
    #[must_use]
    pub fn scram_user(mut self, name: &str, password: &str) -> Self {
        self.scram_users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Lets the JVM optimise as in production, for benchmarks. The start takes some seconds longer.
    #[must_use]
    pub fn optimized(mut self) -> Self {
        self.optimized = true;
        self
    }

    /// Starts the broker and waits until it answers.
    pub fn start(&self) -> Kafka {
        self.start_nodes(1).remove(0)
    }

    /// Starts `count` brokers of one cluster, with ids from 1, and waits until each knows all others.
    pub(crate) fn start_nodes(&self, count: usize) -> Vec<Kafka> {
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            match self.try_start(count) {
                Ok(nodes) => return nodes,
                Err(log) if log.contains("Address already in use") => problem = log,
                Err(log) => panic!("kafka did not start:\n{log}"),
            }
        }
        panic!("kafka found no free port in {ATTEMPTS} attempts:\n{problem}")
    }

    fn try_start(&self, count: usize) -> Result<Vec<Kafka>, String> {
        let controllers: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let voters = (1..).zip(&controllers).map(|(id, port)| format!("{id}@127.0.0.1:{port}"));
        let voters = voters.collect::<Vec<_>>().join(",");
        let places = (1..).zip(controllers).map(|(id, controller)| Ports {
            id,
            plain: free_port(),
            controller,
            others: self.listeners.iter().map(|_| free_port()).collect(),
            voters: voters.clone(),
        });
        let mut options = vec![HEAPS[usize::from(count > 1)].to_owned()];
        options.extend(QUICK.map(str::to_owned).into_iter().filter(|_| !self.optimized));
        let mut nodes: Vec<Kafka> =
            places.map(|ports| self.launch_node(count, ports, &options)).collect();
        for kafka in &mut nodes {
            let node = kafka.node();
            if !node.ready(count) {
                return Err(node.process.last_words());
            }
        }
        Ok(nodes)
    }

    fn launch_node(&self, count: usize, ports: Ports, options: &[String]) -> Kafka {
        let dir = tempfile::Builder::new()
            .prefix("kafka-")
            .tempdir()
            .expect("a temporary directory can be made");
        let properties = self.server_properties(dir.path(), count, &ports);
        fs::write(dir.path().join("server.properties"), properties)
            .expect("the properties can be written");
        format_storage(dir.path(), &self.scram_users);
        let port = ports.plain;
        let names = self.listeners.iter().map(|listener| listener.name.clone());
        let listeners = names.zip(ports.others).collect();
        let options = options.to_vec();
        let node = Node { process: launch(dir.path(), &options), dir, port, options };
        Kafka { brokers: format!("127.0.0.1:{port}"), listeners, node: Some(node) }
    }

    fn server_properties(&self, dir: &Path, count: usize, ports: &Ports) -> String {
        let Ports { id, plain, controller, others, voters } = ports;
        let mut listeners =
            format!("PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}");
        let mut advertised = format!("PLAINTEXT://127.0.0.1:{plain}");
        let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        for (listener, port) in self.listeners.iter().zip(others) {
            let Listener { name, protocol, advertised: told } = listener;
            listeners.push_str(&format!(",{name}://127.0.0.1:{port}"));
            let told = told.get(id - 1).unwrap_or(port);
            advertised.push_str(&format!(",{name}://127.0.0.1:{told}"));
            protocols.push_str(&format!(",{name}:{protocol}"));
        }
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners={listeners}\n\
             advertised.listeners={advertised}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map={protocols}\n\
             log.dirs={}\n{SINGLE_NODE}",
            dir.join("data").display()
        );
        if count > 1 {
            text.push_str(SEVERAL_NODES);
        }
        for (key, value) in &self.properties {
            text.push_str(&format!("{key}={value}\n"));
        }
        text
    }
}

/// Properties of a single node. Records with old timestamps are kept, because retention would delete their segments at
/// once. A missing topic is an error, not created. The session is short, because a killed broker must wait for its end
/// before the controller accepts it again.
const SINGLE_NODE: &str = "\
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=8388608
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
";

/// Additional properties of a cluster: three replicas, two of them in sync. `__consumer_offsets` has one partition, so its
/// leader coordinates every group. Only faults change leaders. The session is longer, because the machine runs all nodes.
const SEVERAL_NODES: &str = "\
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=1
broker.session.timeout.ms=6000
replica.lag.time.max.ms=6000
auto.leader.rebalance.enable=false
";

impl Kafka {
    /// Starts a broker for one test and waits until it answers.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A builder for a broker with additional properties.
    pub fn builder() -> KafkaBuilder {
        KafkaBuilder::default()
    }

    /// A running broker that this process does not own and cannot stop.
    pub(crate) fn elsewhere(brokers: String) -> Self {
        Self { brokers, listeners: HashMap::new(), node: None }
    }

    /// The bootstrap servers, `127.0.0.1:port`. They do not change on a restart.
    pub fn brokers(&self) -> String {
        self.brokers.clone()
    }

    /// The address of an additional listener itself, not the advertised one.
    pub fn listener(&self, name: &str) -> String {
        let port = self.listeners.get(name);
        format!("127.0.0.1:{}", port.unwrap_or_else(|| panic!("no listener {name}")))
    }

    /// The broker's process id; `None` when the broker was not started here.
    pub fn pid(&self) -> Option<u32> {
        self.node.as_ref().map(|node| node.process.id())
    }

    /// The folder of a partition's log. Change it only while the broker is stopped.
    pub fn log_folder(&self, topic: &str, partition: i32) -> PathBuf {
        let node = self.node.as_ref().expect("the broker is this test's own");
        node.dir.path().join("data").join(format!("{topic}-{partition}"))
    }

    /// The output of the broker; empty when the broker was not started here.
    pub fn log(&self) -> String {
        self.node.as_ref().map(|node| node.process.log()).unwrap_or_default()
    }

    /// Stops the broker cleanly and waits for its end. [`Kafka::start_again`] uses its port and data again.
    pub fn stop(&mut self) {
        self.node().end(Signal::SIGTERM);
    }

    /// Kills the broker (SIGKILL). [`Kafka::start_again`] uses its port and data again.
    pub fn kill(&mut self) {
        self.node().end(Signal::SIGKILL);
    }

    /// Starts a stopped broker with its old port and data, and waits until it answers.
    pub fn start_again(&mut self) {
        self.launch_again();
        self.answers();
    }

    /// Starts a stopped broker with its old port and data.
    pub(crate) fn launch_again(&mut self) {
        let node = self.node();
        assert!(node.process.ended().is_some(), "kafka still runs");
        node.process = launch(node.dir.path(), &node.options);
    }

    /// Waits until a started broker answers.
    pub(crate) fn answers(&mut self) {
        let node = self.node();
        assert!(node.ready(1), "kafka did not start again:\n{}", node.process.last_words());
    }

    /// [`Kafka::stop`] and [`Kafka::start_again`].
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Freezes the broker (SIGSTOP): connections stay open without an answer.
    pub fn pause(&mut self) {
        self.node().process.signal(Signal::SIGSTOP);
    }

    /// Ends [`Kafka::pause`] (SIGCONT).
    pub fn resume(&mut self) {
        self.node().process.signal(Signal::SIGCONT);
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("the broker is this test's own")
    }
}

impl Node {
    /// Whether the broker's metadata lists `brokers` brokers before the deadline. False when the broker has ended.
    fn ready(&mut self, brokers: usize) -> bool {
        let outcome = poll_until(START, || {
            if self.process.ended().is_some() {
                Some(false)
            } else {
                (listed_brokers(self.port).ok()? as usize >= brokers).then_some(true)
            }
        });
        outcome.unwrap_or(false)
    }

    fn end(&mut self, signal: Signal) {
        self.process.signal(signal);
        assert!(
            self.process.wait(STOP).is_some(),
            "kafka does not end:\n{}",
            self.process.last_words()
        );
    }
}

fn launch(dir: &Path, options: &[String]) -> Process {
    let mut command = watched("java", EndSignal::Kill, dir);
    command
        .args(options)
        .arg("-cp")
        .arg(class_path())
        .arg("kafka.Kafka")
        .arg(dir.join("server.properties"));
    Process::spawn(command, EndSignal::Kill, &dir.join("log"))
}

fn format_storage(dir: &Path, scram_users: &[(String, String)]) {
    let mut command = Command::new("java");
    command
        .args(QUICK)
        .arg("-cp")
        .arg(class_path())
        // The cluster id can be any 16 bytes in base64, because clusters never meet.
        .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
        .arg(dir.join("server.properties"));
    for (name, password) in scram_users {
        command.arg("--add-scram").arg(format!("SCRAM-SHA-256=[name={name},password={password}]"));
    }
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run java: {error}; `cargo xtask setup` installs it")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kafka's storage cannot be formatted:\n{errors}");
}

/// The class path with Java's own wildcard, which must not be expanded by a shell.
pub(crate) fn class_path() -> PathBuf {
    libs().join("*")
}

/// The version of Apache Kafka for the tests.
pub fn kafka_version() -> String {
    let named = var_os(KAFKA_VERSION_VARIABLE).and_then(|version| version.into_string().ok());
    named.unwrap_or_else(|| KAFKA_VERSION.to_owned())
}

/// The folder below the workspace's target directory with the jars in `libs`; `cargo xtask setup` fills it.
pub fn kafka_folder() -> String {
    format!("kafka-{}", kafka_version())
}

/// The folder of the jars: from the environment, or searched for in the parents of the test's executable and crate.
fn libs() -> PathBuf {
    if let Some(named) = var_os(KAFKA_LIBS_VARIABLE) {
        return named.into();
    }
    let name = kafka_folder();
    let starts = [current_exe().ok(), var_os("CARGO_MANIFEST_DIR").map(PathBuf::from)];
    let ancestors = starts.iter().flatten().flat_map(|start| start.ancestors());
    let candidates =
        ancestors.flat_map(|folder| [folder.join(&name), folder.join("target").join(&name)]);
    candidates.map(|folder| folder.join("libs")).find(|libs| libs.is_dir()).unwrap_or_else(|| {
        panic!("no {name}/libs in the target directory: run `cargo xtask setup`")
    })
}

/// Requests metadata (version 1, no topics) and returns the number of brokers in it. A broker that has not joined its
/// cluster yet listens already, but lists none.
fn listed_brokers(port: u16) -> io::Result<u32> {
    const METADATA: [u8; 2] = [0, 3];
    const VERSION: [u8; 2] = [0, 1];
    const CORRELATION: [u8; 4] = [0, 0, 0, 1];
    const NO_CLIENT_ID: [u8; 2] = [0xff, 0xff];
    const NO_TOPICS: [u8; 4] = [0; 4];
    let body = [&METADATA[..], &VERSION, &CORRELATION, &NO_CLIENT_ID, &NO_TOPICS].concat();
    let patience = Duration::from_secs(5);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes())?;
    stream.write_all(&body)?;
    // The size and the correlation id, then the length of the broker list.
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let [.., a, b, c, d] = head;
    Ok(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_properties_come_last() {
        let text = Kafka::builder()
            .property("num.partitions", 3)
            .property("log.retention.ms", 1)
            .listener("BESIDE", "SSL", Some(4))
            .server_properties(
                Path::new("/tmp/k"),
                1,
                &Ports {
                    id: 1,
                    plain: 1,
                    controller: 2,
                    others: vec![3],
                    voters: "1@127.0.0.1:2".to_owned(),
                },
            );
        let last = text.lines().rev().find(|line| line.starts_with("log.retention.ms"));
        assert_eq!(last, Some("log.retention.ms=1"));
        assert!(text.contains("log.dirs=/tmp/k/data\n"));
        assert!(
            text.contains("advertised.listeners=PLAINTEXT://127.0.0.1:1,BESIDE://127.0.0.1:4\n")
        );
    }
}
