//! The promises of README.md, tested from outside: real processes, a real broker, a real PostgreSQL.
//!
//! Each test has its own topics, group, database and ports, and waits for conditions, never for a time. It uses only
//! what an operator sees: records, rows, answers, metrics, logs and exit codes.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on ends with a panic"
)]
#![expect(
    clippy::too_many_lines,
    reason = "a test tells its steps in order, and a table has a line for each case"
)]

mod audit;
mod audit_bun;
mod audit_tls;
mod audits;
mod brokers;
mod check;
mod clients;
mod codecs;
mod config;
mod databases;
mod dead_letters;
mod deploy;
mod event;
mod gaps;
mod graphiql;
mod graphql;
mod graphql_bulk;
mod graphql_hostile;
mod hostile;
mod kafka_faults;
mod manifests;
mod metrics;
mod outage;
mod pages;
mod partitioned;
mod pipeline;
mod pooler;
mod positions;
mod programs;
mod quickstart;
mod rebalance;
mod reconcile;
mod rejection_cases;
mod rejection_fields;
mod rejections;
mod replay;
mod restart;
mod rights;
mod roles;
mod runbook;
mod sdks;
mod secrets;
mod secure;
mod settling;
mod sqlite_faults;
mod stops;
mod store_faults;
mod supervised;
mod support;
mod takeovers;
mod volume;
