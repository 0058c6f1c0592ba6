//! Helpers for the tests: events, scenes, and the daemons as an operator sees them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Column, PgPool, Row as _, SqlitePool};
use tempfile::TempDir;
pub(crate) use testkit::free_address;
use testkit::{Daemon, DaemonBuilder, Record, eventually, exit_list_of, unique};

/// The promised time from SIGTERM to the end of a daemon.
pub(crate) const STOP: Duration = Duration::from_secs(10);
/// The deadline of a wait. After it something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The example event, as in crates/model/README.md.
const EXAMPLE: &str = include_str!("../../crates/model/example.json").trim_ascii_end();

/// The seed's query.
pub(crate) const SEED: &str =
    r#"query { package(name: "pg", version: "7.12.0") { publicationInfo { username tor tfa } } }"#;

/// The example record, byte for byte.
pub(crate) fn example_record() -> Record {
    Record { value: Some(EXAMPLE.into()), ..structured(&example()) }
}

/// The example event as JSON.
pub(crate) fn example() -> Value {
    serde_json::from_str(EXAMPLE).expect("the example is JSON")
}

/// The example event for another package, with a new id and without a subject.
pub(crate) fn event(name: &str, version: &str) -> Value {
    let event = with(example(), "/data/package/name", json!(name));
    let event = with(event, "/data/package/version", json!(version));
    without(with(event, "/id", json!(unique("event"))), "/subject")
}

/// The event with the value at a JSON pointer replaced, or added to its parent object.
pub(crate) fn with(mut event: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
    event.pointer_mut(parent).expect("the parent is there")[key] = value;
    event
}

/// The event without the member at a JSON pointer.
pub(crate) fn without(mut event: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
    let parent = event.pointer_mut(parent).and_then(Value::as_object_mut);
    parent.expect("the parent is an object").remove(key);
    event
}

/// A header with a text value.
pub(crate) fn header(name: &str, value: &str) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), Some(value.into()))
}

/// The event in structured mode.
pub(crate) fn structured(event: &Value) -> Record {
    Record {
        key: Some(key(event)),
        value: Some(event.to_string().into()),
        headers: vec![header("content-type", "application/cloudevents+json; charset=UTF-8")],
        ..Record::default()
    }
}

/// The event in binary mode.
pub(crate) fn binary(event: &Value) -> Record {
    let attributes = event.as_object().expect("an event is an object").iter();
    let attributes = attributes.filter_map(|(name, value)| match name.as_str() {
        "data" => None,
        "datacontenttype" => Some(header("content-type", value.as_str()?)),
        _ => Some(header(&format!("ce_{name}"), value.as_str()?)),
    });
    Record {
        key: Some(key(event)),
        value: Some(event["data"].to_string().into()),
        headers: attributes.collect(),
        ..Record::default()
    }
}

/// The purl without version, used only as the partition key.
fn key(event: &Value) -> Vec<u8> {
    format!("pkg:npm/{}", event["data"]["package"]["name"].as_str().unwrap_or_default()).into()
}

/// The publisher of [`generated`] events: `user-{n}` in revision 0, `user-{n}-{revision}` later.
pub(crate) fn publisher(n: usize, revision: u32) -> String {
    if revision == 0 { format!("user-{n}") } else { format!("user-{n}-{revision}") }
}

/// A plain event: `package-{n}` 1.0.0 by its [`publisher`].
pub(crate) fn generated(n: usize, revision: u32) -> Record {
    let username = publisher(n, revision);
    // Written as text, because building a hundred thousand JSON trees takes longer than ingesting them.
    let value = format!(
        r#"{{"specversion":"1.0","id":"{n}-{revision}","source":"/registry/npm/publish","type":"registry.package.published.v1","data":{{"package":{{"ecosystem":"npm","name":"package-{n}","version":"1.0.0"}},"publishedAt":"2024-03-05T{:02}:{:02}:{:02}Z","revision":{revision},"actor":{{"kind":"user","username":"{username}"}},"request":{{"ip":"145.14.{}.{}"}},"auth":{{"credential":"session_token","secondFactor":{{"presented":{}}}}}}}}}"#,
        n / 3600 % 24,
        n / 60 % 60,
        n % 60,
        n / 256 % 256,
        n % 256,
        n.is_multiple_of(2),
    );
    Record {
        key: Some(format!("pkg:npm/package-{n}").into()),
        value: Some(value.into()),
        ..Record::default()
    }
}

/// The first 16 bytes of the SHA-256 of source, line feed and id, in hexadecimal.
pub(crate) fn identity(source: &str, id: &str) -> String {
    let digest = Sha256::digest(format!("{source}\n{id}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a valid exit list (sixty addresses) that also has the addresses in `also`.
pub(crate) fn write_snapshot(directory: &Path, name: &str, also: &[&str]) {
    let mut text = format!("# exits\n{}", exit_list_of(60));
    for address in also {
        text.push_str(&format!("{address}\r\n"));
    }
    // Renamed, as writers of lists should do, so that no daemon reads a partial file.
    let partial = directory.join(format!(".{name}.partial"));
    fs::write(&partial, text).expect("a list can be written");
    fs::rename(partial, directory.join(name)).expect("a list can be put in place");
}

/// Puts a file in the place of an SQLite database, whose log goes with it.
pub(crate) fn replace_file(file: &Path, by: &Path) {
    for suffix in ["-wal", "-shm"] {
        let beside = PathBuf::from(format!("{}{suffix}", file.display()));
        assert!(!beside.exists() || fs::remove_file(&beside).is_ok());
    }
    fs::rename(by, file).expect("the copy is there");
}

/// The topics, group and database of one test.
pub(crate) struct Scene {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) dead_letters: String,
    pub(crate) store: String,
    pub(crate) directory: TempDir,
}

impl Scene {
    /// A scene with a new topic on the shared broker, and a new database on the shared server.
    pub(crate) async fn new(name: &str, partitions: i32) -> Self {
        let scene = Self::without_topic(name, testkit::postgres().database().await.url);
        scene.make_topic(partitions, &[]).await;
        scene
    }

    /// A scene with names only; no topic is created.
    pub(crate) fn without_topic(name: &str, store: String) -> Self {
        Self::on(testkit::kafka().brokers(), name, store)
    }

    /// A scene with names only, on other brokers.
    pub(crate) fn on(brokers: String, name: &str, store: String) -> Self {
        let topic = unique(name);
        Self {
            brokers,
            group: format!("{topic}.group"),
            dead_letters: format!("{topic}.dead-letters"),
            topic,
            store,
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    pub(crate) async fn make_topic(&self, partitions: i32, config: &[(&str, &str)]) {
        testkit::topic(&self.brokers, &self.topic, partitions, config).await;
    }

    pub(crate) async fn produce(
        &self,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<(i32, i64)> {
        testkit::produce(&self.brokers, &self.topic, records).await
    }

    /// A command of the ingester on this scene, not started yet.
    pub(crate) fn ingester_command(&self, command: &str, admin: &str) -> DaemonBuilder {
        self.configured(Daemon::command("publication-ingester").arg(command), admin)
    }

    pub(crate) fn configured(&self, ingester: DaemonBuilder, admin: &str) -> DaemonBuilder {
        ingester
            .env("INGESTER_KAFKA__BROKERS", &self.brokers)
            .env("INGESTER_KAFKA__TOPIC", &self.topic)
            .env("INGESTER_KAFKA__GROUP", &self.group)
            .env("INGESTER_KAFKA__DEAD_LETTER_TOPIC", &self.dead_letters)
            .env("INGESTER_STORE__URL", &self.store)
            .env("INGESTER_ADMIN__LISTEN", admin)
    }

    /// Starts an ingester. It may not be ready yet.
    pub(crate) fn start_ingester(&self, environment: &[(&str, &str)]) -> Running {
        self.start_daemon(Daemon::command("publication-ingester"), environment)
    }

    /// Starts this ingester program. It may not be ready yet.
    pub(crate) fn start_daemon(
        &self,
        ingester: DaemonBuilder,
        environment: &[(&str, &str)],
    ) -> Running {
        let admin = free_address();
        let command = self.configured(ingester.arg("run"), &admin);
        let command =
            environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        Running { daemon: command.spawn(), admin, prefix: "publication_ingester_" }
    }

    /// Starts an ingester and waits until it is ready.
    pub(crate) fn ingester(&self, environment: &[(&str, &str)]) -> Running {
        self.start_ingester(environment).ready()
    }

    /// Starts a query daemon on the scene's database and waits until it is ready.
    pub(crate) fn query(&self) -> Query {
        Query::start(&self.store, &[])
    }

    pub(crate) async fn lag(&self) -> i64 {
        testkit::group_lag(&self.brokers, &self.group, &self.topic).await
    }

    /// Waits until the group has committed all records. Panics with the daemon's log if that never happens.
    pub(crate) async fn caught_up(&self, running: &mut Running) {
        eventually("the group to catch up", PATIENCE, async || {
            assert!(running.daemon.is_running(), "the ingester ended:\n{}", running.daemon.log());
            self.lag().await == 0
        })
        .await;
    }

    /// The number that a query returns.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let pool = PgPool::connect(&self.store).await.expect("the database accepts connections");
        let number = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&pool).await;
        pool.close().await;
        number.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Executes statements without a result.
    pub(crate) async fn execute(&self, sql: &str) {
        let pool = PgPool::connect(&self.store).await.expect("the database accepts connections");
        let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await;
        pool.close().await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The number of rows; 0 without a table.
    pub(crate) async fn count(&self) -> i64 {
        let there = "SELECT count(*) FROM pg_class WHERE relname = 'publication'";
        if self.number(there).await == 0 {
            return 0;
        }
        self.number("SELECT count(*) FROM publication").await
    }

    pub(crate) async fn rows(&self) -> Vec<Row> {
        rows(&self.store).await
    }
}

/// A row as text by column. Flags are `true` and `false`, times are RFC 3339 in UTC with microseconds.
pub(crate) type Row = BTreeMap<String, Option<String>>;

/// All rows of a PostgreSQL or SQLite database, in bytewise order of name and version.
pub(crate) async fn rows(url: &str) -> Vec<Row> {
    const POSTGRES: &str = r#"SELECT name, version, username,
        to_char(created AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created, tor::text, tfa::text,
        tor_reason::text, tfa_reason::text,
        to_char(tor_evidence_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS tor_evidence_until,
        tor_settled::text, credential::text, actor::text, revision::text, generation::text,
        encode(event_identity, 'hex') AS event_identity, disputed::text, integrity
        FROM publication ORDER BY name COLLATE "C", version COLLATE "C""#;
    const SQLITE: &str = "SELECT name, version, username, created,
        CASE tor WHEN 1 THEN 'true' WHEN 0 THEN 'false' END AS tor,
        CASE tfa WHEN 1 THEN 'true' WHEN 0 THEN 'false' END AS tfa, tor_reason, tfa_reason, tor_evidence_until,
        CASE tor_settled WHEN 1 THEN 'true' ELSE 'false' END AS tor_settled, credential, actor,
        CAST(revision AS TEXT) AS revision, CAST(generation AS TEXT) AS generation,
        lower(hex(event_identity)) AS event_identity,
        CASE disputed WHEN 1 THEN 'true' ELSE 'false' END AS disputed, integrity
        FROM publication ORDER BY name, version";
    macro_rules! fetch {
        ($pool:ident, $sql:expr) => {{
            let pool = $pool::connect(url).await.expect("the database accepts connections");
            let rows = sqlx::query($sql).fetch_all(&pool).await.expect("the rows can be read");
            let text = rows.iter().map(|row| {
                let columns = row.columns().iter();
                columns
                    .map(|column| (column.name().to_owned(), row.get(column.ordinal())))
                    .collect()
            });
            let text = text.collect();
            pool.close().await;
            text
        }};
    }
    if url.starts_with("sqlite:") { fetch!(SqlitePool, SQLITE) } else { fetch!(PgPool, POSTGRES) }
}

/// A daemon and its admin listener.
pub(crate) struct Running {
    pub(crate) daemon: Daemon,
    pub(crate) admin: String,
    prefix: &'static str,
}

impl Running {
    /// Waits until the daemon is ready.
    pub(crate) fn ready(mut self) -> Self {
        self.daemon.wait_ready(&self.admin);
        self
    }

    /// Status and body of `/readyz`; `None` without an answer.
    pub(crate) fn readyz(&self) -> Option<(u16, Value)> {
        let (status, body) = testkit::http_get(&self.admin, "/readyz").ok()?;
        Some((status, serde_json::from_str(&body).expect("/readyz answers JSON")))
    }

    /// Waits until `/readyz` shows this state. Returns status and body.
    pub(crate) async fn shows(&mut self, state: &str) -> (u16, Value) {
        eventually(&format!("state {state}"), PATIENCE, async || {
            assert!(self.daemon.is_running(), "the daemon ended:\n{}", self.daemon.log());
            self.readyz().filter(|(_, answer)| answer["state"] == state)
        })
        .await
    }

    /// The current metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, text) = testkit::http_get(&self.admin, "/metrics").expect("/metrics answers");
        assert_eq!(status, 200);
        Metrics::parse(&text, self.prefix)
    }

    /// Sends SIGTERM and checks that the exit code is 0 within the promised time. Returns the log.
    pub(crate) fn stop(self) -> String {
        self.stop_by("TERM")
    }

    /// The same with another signal.
    pub(crate) fn stop_by(mut self, signal: &str) -> String {
        let pid = self.daemon.pid().to_string();
        let sent = std::process::Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal} cannot be sent");
        let status = self.daemon.wait_exit(STOP);
        assert_eq!(status.code(), Some(0), "exit code after {signal}:\n{}", self.daemon.log());
        self.daemon.log()
    }
}

/// Prometheus metrics: series by name and labels, without the daemon's prefix.
pub(crate) struct Metrics(pub(crate) BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str, prefix: &str) -> Self {
        let mut series = BTreeMap::new();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        // Skip the standard metrics of the process.
        for line in lines.filter(|line| !line.starts_with("process_")) {
            let (name, value) = line.rsplit_once(' ').expect("a series has a value");
            let name =
                name.strip_prefix(prefix).unwrap_or_else(|| panic!("a foreign name: {name}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(series.insert(name.to_owned(), value).is_none(), "twice: {name}");
        }
        Self(series)
    }

    /// A series by its name and labels, exactly as exposed.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// All series of a metric, by their labels as exposed.
    pub(crate) fn family(&self, name: &str) -> BTreeMap<&str, f64> {
        let of = |series: &'_ String| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let series = self.0.iter().filter(|(series, _)| of(series));
        series.map(|(series, value)| (&series[name.len()..], *value)).collect()
    }

    /// The sum of a metric's series.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.family(name).values().sum()
    }
}

/// A query daemon.
pub(crate) struct Query {
    pub(crate) running: Running,
    pub(crate) http: String,
}

impl Query {
    pub(crate) fn start(store: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_daemon(Daemon::command("publication-query"), store, environment)
    }

    pub(crate) fn start_daemon(
        daemon: DaemonBuilder,
        store: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let started = Self::start_unready(daemon, store, environment);
        Self { running: started.running.ready(), ..started }
    }

    /// Starts a query daemon. It may not be ready yet.
    pub(crate) fn start_unready(
        daemon: DaemonBuilder,
        store: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let (http, admin) = (free_address(), free_address());
        let command = daemon
            .arg("serve")
            .env("QUERY_STORE__URL", store)
            .env("QUERY_HTTP__LISTEN", &http)
            .env("QUERY_ADMIN__LISTEN", &admin);
        let command =
            environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let running = Running { daemon: command.spawn(), admin, prefix: "publication_query_" };
        Self { running, http }
    }

    /// Posts a query. Returns status and body.
    pub(crate) fn post(&self, query: &str, variables: Value) -> (u16, String) {
        let body = json!({ "query": query, "variables": variables }).to_string();
        testkit::http_post(&self.http, "/graphql", "application/json", &body)
            .expect("the query daemon answers")
    }

    /// Posts a query. Returns the data of an answer without errors.
    pub(crate) fn ask(&self, query: &str, variables: Value) -> Value {
        let (status, body) = self.post(query, variables);
        let answer: Value = serde_json::from_str(&body).expect("the answer is JSON");
        assert!(status == 200 && answer.get("errors").is_none(), "{status} {body}");
        answer["data"].clone()
    }
}
