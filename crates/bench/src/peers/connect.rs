//! Kafka Connect with Debezium's JDBC sink. It upserts the same records into its own table by name and version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, PgConnection};
use testkit::{Daemon, free_port};
use tokio::runtime::Runtime;

use super::folder;
use crate::process::{cpu, memory};
use crate::workspace::succeed;

/// The first version with `schema.content`, so that its JSON converter reads records without an embedded schema.
const CONNECT: &str = "4.2.0";
const DEBEZIUM: &str = "3.3.1.Final";
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bench</groupId>
  <artifactId>connect</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId><version>CONNECT</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>connect-json</artifactId><version>CONNECT</version></dependency>
    <dependency><groupId>io.debezium</groupId><artifactId>debezium-connector-jdbc</artifactId><version>DEBEZIUM</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;
/// The fields that become columns. The converter skips the others.
const SCHEMA: &str = concat!(
    r#"{"type":"struct","fields":[{"field":"data","type":"struct","fields":["#,
    r#"{"field":"package","type":"struct","fields":[{"field":"name","type":"string"},{"field":"version","type":"string"},{"field":"integrity","type":"string"}]},"#,
    r#"{"field":"publishedAt","type":"string","name":"io.debezium.time.ZonedTimestamp"},"#,
    r#"{"field":"actor","type":"struct","fields":[{"field":"kind","type":"string"},{"field":"username","type":"string"}]},"#,
    r#"{"field":"auth","type":"struct","fields":[{"field":"credential","type":"string"}]}]}]}"#
);
/// The JVM options of Kafka's own start script.
const JVM: [&str; 4] = ["-Xms256M", "-Xmx2G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"];
/// One task per core; the cores are shared with the servers.
const TASKS: u32 = 2;
const BATCH: u32 = 5_000;
/// Short compared with the measured seconds.
const POLL: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(900);

/// The versions, for the report.
pub(super) fn version() -> String {
    format!(
        "{CONNECT}, Debezium JDBC sink {DEBEZIUM}, {TASKS} tasks, batches of {BATCH}, reWriteBatchedInserts"
    )
}

/// The addresses and the records to ingest.
pub(super) struct Place<'a> {
    pub(super) brokers: &'a str,
    pub(super) topic: &'a str,
    pub(super) database: &'a str,
    /// Name and version in the last record of each partition.
    pub(super) last: &'a [(String, String)],
    pub(super) records: u32,
}

/// The result of ingesting the topic.
pub(super) struct Ingested {
    /// Records per second, from the first row to the last.
    pub(super) rate: f64,
    /// Processor time from start to end, in seconds.
    pub(super) cpu: f64,
    /// The peak memory, in MiB.
    pub(super) peak: f64,
}

/// Downloads the jars with Maven, unless they exist. Returns their folder.
pub(super) fn fetch() -> Result<PathBuf> {
    let folder = folder(&format!("connect-{CONNECT}-{DEBEZIUM}"))?;
    let (libs, fetched) = (folder.join("libs"), folder.join("fetched"));
    if fetched.is_file() {
        return Ok(libs);
    }
    let pom = folder.join("pom.xml");
    fs::write(&pom, POM.replace("CONNECT", CONNECT).replace("DEBEZIUM", DEBEZIUM))?;
    let mut maven = Command::new("mvn");
    maven.args(["-B", "-q", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
    succeed("maven", maven.arg("-DoutputDirectory=libs").current_dir(&folder))?;
    fs::write(fetched, "")?;
    Ok(libs)
}

/// Ingests the whole topic into a table that Kafka Connect creates.
pub(super) fn ingest(
    libs: &Path,
    runtime: &Runtime,
    place: &Place<'_>,
    group: &str,
) -> Result<Ingested> {
    let directory = tempfile::Builder::new().prefix("connect-").tempdir()?;
    let (worker, sink) = (directory.path().join("worker"), directory.path().join("sink"));
    let offsets = directory.path().join("offsets");
    fs::write(&worker, worker_properties(place.brokers, &offsets))?;
    fs::write(&sink, sink_properties(place, group)?)?;
    let mut daemon = Daemon::program("java")
        .args(JVM)
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        // Java itself expands the star.
        .args(["-cp", &format!("{}/*", libs.display())])
        .arg("org.apache.kafka.connect.cli.ConnectStandalone")
        .args([&worker, &sink])
        .spawn();
    let rate = runtime.block_on(watch(&mut daemon, place))?;
    let peak = memory(&daemon.pid().to_string(), "VmHWM")?;
    let cpu = cpu(daemon.pid())?;
    daemon.terminate();
    daemon.wait_exit(Duration::from_secs(60));
    Ok(Ingested { rate, cpu, peak })
}

/// Waits for the last row of each partition. Returns the records per second since the first rows were seen.
async fn watch(daemon: &mut Daemon, place: &Place<'_>) -> Result<f64> {
    const THERE: &str = "SELECT to_regclass('published') IS NOT NULL";
    const COUNT: &str = "SELECT count(*) FROM published";
    const LAST: &str = "SELECT count(*) FROM published p JOIN unnest($1::text[], $2::text[]) AS k(name, version) \
                        ON p.data_package_name = k.name AND p.data_package_version = k.version";
    let mut connection = PgConnection::connect(place.database).await?;
    let (names, versions): (Vec<_>, Vec<_>) = place.last.iter().cloned().unzip();
    let began = Instant::now();
    let (mut there, mut first) = (false, None);
    loop {
        if !daemon.is_running() || began.elapsed() > LONGEST {
            bail!("Kafka Connect ended or stands still:\n{}", end_of(&daemon.log()));
        }
        tokio::time::sleep(POLL).await;
        if !there {
            there = sqlx::query_scalar(THERE).fetch_one(&mut connection).await?;
        } else if first.is_none() {
            let rows: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?;
            first = (rows > 0).then(|| (Instant::now(), rows));
        } else {
            let last = sqlx::query_scalar(LAST).bind(&names).bind(&versions);
            let last: i64 = last.fetch_one(&mut connection).await?;
            if usize::try_from(last)? == place.last.len() {
                break;
            }
        }
    }
    let (first, before) = first.context("no row was seen")?;
    let seconds = first.elapsed().as_secs_f64();
    let rows: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?;
    ensure!(rows == i64::from(place.records), "{rows} rows of {} records", place.records);
    Ok((rows - before) as f64 / seconds)
}

fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn worker_properties(brokers: &str, offsets: &Path) -> String {
    format!(
        "bootstrap.servers={brokers}\n\
         listeners=http://127.0.0.1:{}\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.json.JsonConverter\n\
         value.converter.schemas.enable=true\n\
         value.converter.schema.content={SCHEMA}\n\
         offset.storage.file.filename={}\n",
        free_port(),
        offsets.display()
    )
}

fn sink_properties(place: &Place<'_>, group: &str) -> Result<String> {
    let url = place.database.strip_prefix("postgres://").context("not a URL of PostgreSQL")?;
    let (user, server) = url.split_once('@').context("the URL has no user")?;
    Ok(format!(
        "name={group}\n\
         connector.class=io.debezium.connector.jdbc.JdbcSinkConnector\n\
         tasks.max={TASKS}\n\
         topics={topic}\n\
         connection.url=jdbc:postgresql://{server}?reWriteBatchedInserts=true\n\
         connection.username={user}\n\
         connection.password=\n\
         insert.mode=upsert\n\
         primary.key.mode=record_value\n\
         primary.key.fields=data_package_name,data_package_version\n\
         schema.evolution=basic\n\
         collection.name.format=published\n\
         batch.size={BATCH}\n\
         consumer.override.max.poll.records={BATCH}\n\
         transforms=flat\n\
         transforms.flat.type=org.apache.kafka.connect.transforms.Flatten$Value\n\
         transforms.flat.delimiter=_\n",
        topic = place.topic,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_names_fields_of_the_event() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        assert_eq!(schema["fields"][0]["fields"][0]["fields"][1]["field"], "version");
        assert!(!SCHEMA.contains('\n'), "a property is one line");
    }

    #[test]
    fn the_sink_is_told_the_database() {
        let place = Place {
            brokers: "127.0.0.1:1",
            topic: "events",
            database: "postgres://me@127.0.0.1:5/db",
            last: &[],
            records: 0,
        };
        let text = sink_properties(&place, "g").unwrap();
        assert!(text.contains("\nconnection.url=jdbc:postgresql://127.0.0.1:5/db?"), "{text}");
        assert!(text.contains("\nconnection.username=me\n"), "{text}");
    }
}
