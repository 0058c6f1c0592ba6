//! Kafka's command-line tools: classes in its jars. Each call starts a JVM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::kafka::{QUICK, class_path};
use crate::wait::wait_until;

/// The deadline for the session of a group's last member to end.
const INACTIVE: Duration = Duration::from_secs(60);

/// Runs `kafka-consumer-groups` and returns its output. Panics when it fails. When the group must be inactive, it
/// retries until the session of its last member has ended.
pub fn consumer_groups(brokers: &str, arguments: &[&str]) -> String {
    const CLASS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    wait_until("the group to be inactive", INACTIVE, || {
        let (succeeded, printed) = run(CLASS, brokers, arguments);
        let is_active = printed.contains("can only be reset if the group");
        assert!(is_active || succeeded, "{CLASS} {arguments:?}:\n{printed}");
        (!is_active).then_some(printed)
    })
}

/// Runs `kafka-acls` and returns its output. Panics when it fails.
pub fn acls(brokers: &str, arguments: &[&str]) -> String {
    tool("org.apache.kafka.tools.AclCommand", brokers, arguments)
}

/// Sends one record with value `0` and timestamp 0. Clients on librdkafka cannot, because it replaces 0 by the current time.
pub fn produce_in_1970(brokers: &str, topic: &str) {
    let arguments = ["--topic", topic, "--max-messages", "1", "--message-create-time", "0"];
    tool("org.apache.kafka.tools.VerifiableProducer", brokers, &arguments);
}

/// Kafka's command-line tools: script name and class. The tests have only the jars.
const TOOLS: [(&str, &str); 4] = [
    ("kafka-consumer-groups.sh", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ("kafka-get-offsets.sh", "org.apache.kafka.tools.GetOffsetShell"),
    ("kafka-topics.sh", "org.apache.kafka.tools.TopicCommand"),
    ("kafka-transactions.sh", "org.apache.kafka.tools.TransactionsCommand"),
];

/// Writes scripts for the tools into a folder, which a test adds to its `PATH`.
pub fn write_tools(folder: &Path) {
    for (name, class) in TOOLS {
        let jars = class_path();
        let script = format!(
            "#!/bin/sh\nexec java {} -cp '{}' {class} \"$@\"\n",
            QUICK.join(" "),
            jars.display()
        );
        let path = folder.join(name);
        fs::write(&path, script).expect("a script can be written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("and be run");
    }
}

/// The id of the active controller, by `kafka-metadata-quorum`.
pub fn active_controller(brokers: &str) -> i32 {
    const CLASS: &str = "org.apache.kafka.tools.MetadataQuorumCommand";
    let status = tool(CLASS, brokers, &["describe", "--status"]);
    let leader = status.lines().find_map(|line| line.strip_prefix("LeaderId:"));
    let leader = leader.and_then(|text| text.trim().parse().ok());
    leader.unwrap_or_else(|| panic!("kafka names no controller:\n{status}"))
}

/// Moves a topic's first partitions to these brokers, by `kafka-reassign-partitions`. The data is copied in the background.
pub fn reassign(brokers: &str, topic: &str, partitions: usize, replicas: &[i32]) {
    const CLASS: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
    let plan = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let moves = (0..partitions).map(|partition| {
        format!(r#"{{"topic":"{topic}","partition":{partition},"replicas":{replicas:?}}}"#)
    });
    let text = format!(r#"{{"version":1,"partitions":[{}]}}"#, moves.collect::<Vec<_>>().join(","));
    fs::write(plan.path(), text).expect("the file is ours");
    let file = plan.path().to_str().expect("its path is text");
    tool(CLASS, brokers, &["--execute", "--reassignment-json-file", file]);
}

fn tool(class: &str, brokers: &str, arguments: &[&str]) -> String {
    let (succeeded, printed) = run(class, brokers, arguments);
    assert!(succeeded, "{class} {arguments:?}:\n{printed}");
    printed
}

/// Whether the tool succeeded, and its output.
fn run(class: &str, brokers: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("java")
        .args(QUICK)
        .arg("-cp")
        .arg(class_path())
        .args([class, "--bootstrap-server", brokers])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run java: {error}; `cargo xtask setup` installs it")
        });
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let printed = printed.concat();
    (output.status.success() && !printed.contains("Error"), printed)
}
