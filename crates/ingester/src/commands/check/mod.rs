//! `publication-ingester check`: checks whether the service can keep its guarantees with these settings, this broker
//! and this database, and under which conditions. Changes nothing.

mod lists;
mod members;
mod positions;
mod store;
mod topics;

use std::fmt::Write;

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use service::telemetry::without_controls;

use crate::commands::output::Output;
use crate::kafka;
use crate::pipeline::BatchLimits;
use crate::settings::{OnGap, Settings};

/// How to look.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Exit with 1 on warnings too
    #[arg(long)]
    strict: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Ok,
    /// Works, but not as well as it could.
    Warning,
    /// Does not work, or breaks a guarantee.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// A stable word, for scripts.
    pub(crate) what: &'static str,
    pub(crate) message: String,
}

/// The results of all checks.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    findings: Vec<Finding>,
    guarantee: Vec<String>,
    memory: String,
}

impl Findings {
    pub(crate) fn ok(&mut self, what: &'static str, message: impl Into<String>) {
        self.add(Level::Ok, what, message);
    }

    pub(crate) fn warning(&mut self, what: &'static str, message: impl Into<String>) {
        self.add(Level::Warning, what, message);
    }

    pub(crate) fn problem(&mut self, what: &'static str, message: impl Into<String>) {
        self.add(Level::Problem, what, message);
    }

    fn kafka_failed(&mut self, settings: &Settings, error: &anyhow::Error) {
        self.problem("kafka", format!("{}: {error:#}", settings.kafka.brokers));
    }

    fn add(&mut self, level: Level, what: &'static str, message: impl Into<String>) {
        self.findings.push(Finding { level, what, message: message.into() });
    }

    fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let level = match finding.level {
                Level::Ok => "ok     ",
                Level::Warning => "WARNING",
                Level::Problem => "PROBLEM",
            };
            // A client's name or a server's message may contain control characters.
            let message = without_controls(&finding.message);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{level} {}: {message}", finding.what);
        }
        text.push_str("\nwhat follows from these settings:\n");
        for line in &self.guarantee {
            let _ = writeln!(text, "  - {line}");
        }
        let _ = writeln!(text, "memory: {}", self.memory);
        text
    }
}

impl Check {
    /// Runs all checks and prints the findings. `false` if there is a problem.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub(crate) async fn run(self, settings: Settings) -> anyhow::Result<bool> {
        let mut findings = Findings::default();
        // The configuration is valid, else the command would have ended with exit code 78.
        findings.ok("configuration", "every key is known and of its type");
        unverified(&mut findings, &settings);
        let mut guarantee = Vec::new();
        let access = ::store::access(&settings.store).await;
        match kafka::inspect(&settings).await {
            Ok(inspected) => {
                findings.ok(
                    "kafka",
                    format!("the cluster answers, and names {} brokers", inspected.brokers),
                );
                topics::check(&mut findings, &settings, &inspected);
                members::check(&mut findings, &settings.kafka, &inspected.members);
                if let Ok(access) = &access {
                    positions::check(&mut findings, &settings, &inspected, access).await;
                }
                guarantee.extend(topics::guarantee(&inspected));
            }
            Err(error) => findings.kafka_failed(&settings, &error),
        }
        match access {
            Ok(access) => {
                guarantee.extend(store::check(&mut findings, &settings, &access).await);
            }
            Err(error) => findings.problem("store", error.to_string()),
        }
        let of = settings.clone();
        findings = tokio::task::spawn_blocking(move || {
            lists::check(&mut findings, &of);
            findings
        })
        .await?;
        findings.guarantee = promises(&settings);
        findings.guarantee.extend(guarantee);
        findings.memory = memory(&settings);
        let output = if self.json { Output::Json } else { Output::Text };
        output.print("check", &findings, &findings.describe())?;
        let allowed = if self.strict { Level::Ok } else { Level::Warning };
        Ok(findings.worst() <= allowed)
    }
}

/// Warns of settings with which any server can pass for the broker.
fn unverified(findings: &mut Findings, settings: &Settings) {
    if !settings.kafka.has_tls() {
        return;
    }
    let client = &settings.kafka.client;
    let given = |key: &str| client.get(key).map(|value| value.trim().to_ascii_lowercase());
    // The words of librdkafka for a boolean that is off.
    for (key, off) in [
        ("enable.ssl.certificate.verification", &["false", "f", "0"][..]),
        ("ssl.endpoint.identification.algorithm", &["none"]),
    ] {
        if let Some(value) = given(key).filter(|value| off.contains(&value.as_str())) {
            let what =
                format!("kafka.client.{key} is {value}: another server can pass for the broker");
            findings.warning("kafka.tls", what);
        }
    }
}

fn promises(settings: &Settings) -> Vec<String> {
    let on_gap = match settings.kafka.on_gap {
        OnGap::Continue => {
            "records that Kafka deletes before they are read are counted, named, and passed over"
        }
        OnGap::Stop => "the ingester ends when Kafka has deleted records before they were read",
    };
    let mut promises = vec![
        "an offset is committed after every record before it is a row, a duplicate, skipped, or a dead letter that the \
         broker acknowledged; records are read at least once, and the merge rule makes each count once"
            .to_owned(),
        on_gap.to_owned(),
        format!(
            "verdicts on Tor are corrected automatically for {} after the act, beyond that by a replay",
            humantime::format_duration(settings.tor.settle_horizon)
        ),
    ];
    if settings.reject.max_consecutive > 0 {
        promises.push(format!(
            "reading stops after {} rejections in a row, until a restart",
            settings.reject.max_consecutive
        ));
    }
    promises
}

fn memory(settings: &Settings) -> String {
    let own = BatchLimits::from(settings).background().max_buffered_bytes as u64;
    let settling = own + kafka::BACKGROUND_KIB * 1024;
    format!(
        "records read and not written hold at most {} (limits.max_buffered_bytes), a settling pass {} more, and each of \
         these may pass its bound by a few hand-overs of half a MiB, or of one record; the process itself, its clients and the \
         allocator hold about 15 MiB when idle and 50 MiB at full load, and the exit lists about 25 MiB a year of hourly lists; \
         a compressed batch is unpacked whole beside that, each of one answer up to receive.message.max.bytes of kafka.client",
        settings.limits.max_buffered_bytes,
        ByteSize::b(settling)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_could_not_be_made_is_reported_with_the_cause() {
        let error = anyhow::anyhow!("no such certificate").context("no client");
        let mut findings = Findings::default();
        findings.kafka_failed(&Settings::default(), &error);
        assert!(findings.findings[0].message.ends_with(": no client: no such certificate"));
    }
}
