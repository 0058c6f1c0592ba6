//! Downloads Kafka. Debian has no package of it, but Maven has its jars.

use std::fs;

use anyhow::{Context, Result, ensure};
use testkit::kafka_version;

use crate::workspace::{Workspace, succeed};

/// Without an slf4j binding the broker does not log.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>testkit</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>KAFKA</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>KAFKA</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"#;

/// Copies Kafka's jars into the target directory, unless they exist.
pub(super) fn fetch(workspace: &Workspace) -> Result<()> {
    let libs = workspace.kafka_libs();
    if libs.is_dir() {
        return Ok(());
    }
    let version = kafka_version();
    eprintln!("fetching kafka {version} into {}", libs.display());
    fs::create_dir_all(workspace.target())?;
    // Download into a temporary folder and rename it, so that an existing folder is always complete.
    let aside = tempfile::Builder::new().prefix("kafka-").tempdir_in(workspace.target())?;
    let pom = aside.path().join("pom.xml");
    fs::write(&pom, POM.replace("KAFKA", &version))?;
    let mut maven = std::process::Command::new("mvn");
    maven
        .args(["-B", "-q", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg("-DoutputDirectory=libs");
    succeed("maven", maven.current_dir(aside.path()))?;
    let fetched = aside.path().join("libs");
    ensure!(fetched.join(format!("kafka_2.13-{version}.jar")).is_file(), "maven fetched no kafka");
    fs::create_dir_all(libs.parent().context("the jars lie in a folder")?)?;
    let renamed = fs::rename(&fetched, &libs);
    // Another process may have been faster. Its result is the same.
    if libs.is_dir() { Ok(()) } else { renamed.context("cannot move kafka to its place") }
}
