//! A real Kafka, a real PostgreSQL and the daemons as processes, for tests and benchmarks.
//!
//! Each server and process is a guard: it ends when the guard is dropped, when the test panics, and when the test's
//! process is killed. Ports are free ones, data is in a temporary directory, and each wait is for a condition with a
//! deadline. This crate must never replace a server by a fake, and production code must never depend on it. It panics
//! and returns no errors, because a test without its server cannot continue.
#![expect(clippy::expect_used, reason = "a test that cannot go on ends with a panic")]

#[cfg(feature = "client")]
mod admin;
#[cfg(feature = "client")]
mod client;
mod cluster;
mod daemon;
pub mod hostile;
mod http;
mod kafka;
mod net;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;
mod tools;
mod wait;

use std::sync::LazyLock;

#[cfg(feature = "client")]
pub use admin::DatabaseAdmin;
#[cfg(feature = "client")]
pub use client::{
    ConsumedRecord, PartitionState, Producer, Record, Transaction, add_partitions, configure_topic,
    consume_all, delete_group, delete_records, delete_topic, group_lag, partition_states, produce,
    produce_in_transaction, topic, topic_on,
};
pub use cluster::Cluster;
pub use daemon::{Daemon, DaemonBuilder, peak_memory, program_folder};
pub use http::{Response, http_get, http_post, http_request};
pub use kafka::{
    KAFKA_LIBS_VARIABLE, KAFKA_VARIABLE, Kafka, KafkaBuilder, kafka_folder, kafka_version,
};
pub use net::{free_address, free_port, host_of, unique};
pub use pgbouncer::{Pgbouncer, pgbouncer_program};
#[cfg(feature = "client")]
pub use postgres::Database;
pub use postgres::{POSTGRES_VARIABLE, Postgres, PostgresBuilder, StopMode, postgres_program};
pub use proxy::{NetworkFault, Proxy};
pub use tools::{acls, active_controller, consumer_groups, produce_in_1970, reassign, write_tools};
#[cfg(feature = "client")]
pub use wait::eventually;
pub use wait::{Probe, wait_until};

/// The broker that the whole test run shares: the one in `TESTKIT_KAFKA`, or one that this process starts.
///
/// It is borrowed, so that no test can stop it. A test that stops its broker starts one with [`Kafka::start`].
pub fn kafka() -> &'static Kafka {
    static SHARED: LazyLock<Kafka> =
        LazyLock::new(|| variable(KAFKA_VARIABLE).map_or_else(Kafka::start, Kafka::elsewhere));
    &SHARED
}

/// The PostgreSQL that the whole test run shares: the one in `TESTKIT_POSTGRES`, or one that this process starts.
///
/// Each test creates its own database in it. A test that stops the server starts one with [`Postgres::start`].
pub fn postgres() -> &'static Postgres {
    static SHARED: LazyLock<Postgres> = LazyLock::new(|| {
        // Test data need not survive a crash of the machine, and tests are faster without fsync.
        variable(POSTGRES_VARIABLE)
            .map_or_else(|| Postgres::builder().fsync(false).start(), Postgres::elsewhere)
    });
    &SHARED
}

/// The text of a list with this many exits, one address a line. Sixty are enough for a valid list.
pub fn exit_list_of(exits: u8) -> String {
    (1..=exits).map(|last| format!("185.220.100.{last}\n")).collect()
}

fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?
        .into_string()
        .unwrap_or_else(|value| panic!("{name} is not UTF-8: {value:?}"));
    (!value.is_empty()).then_some(value)
}
