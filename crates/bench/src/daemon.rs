//! The ingester as a process of a release build, measured from outside.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Daemon, free_address, http_get};

use crate::process::{busy, cpu, cpu_with_children, memory};

/// Short compared with the measured seconds, and rare enough to cost the ingester almost nothing.
const POLL: Duration = Duration::from_millis(20);
/// The deadline of a run.
const LONGEST: Duration = Duration::from_secs(900);

/// The addresses and the exit lists of an ingester.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    pub(crate) brokers: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) store: &'a str,
    pub(crate) lists: &'a Path,
}

/// The other processes whose processor time is measured.
#[derive(Clone, Copy)]
pub(crate) struct Servers {
    pub(crate) kafka: Option<u32>,
    pub(crate) postgres: Option<u32>,
}

/// A running ingester.
pub(crate) struct Ingester {
    daemon: Daemon,
    admin: String,
}

/// The result of ingesting all records of a topic.
pub(crate) struct Ingested {
    /// Records per second, from the first record that was finished to the last.
    pub(crate) rate: f64,
    /// The highest peak memory of an ingester, in MiB.
    pub(crate) peak: f64,
    /// Processor time of all ingesters from start to end, in seconds.
    pub(crate) ingester: f64,
    pub(crate) postgres: f64,
    pub(crate) kafka: f64,
    /// Processor use of everything else on the machine, in cores.
    pub(crate) others: f64,
}

impl Ingester {
    /// Starts an ingester. Other settings are the defaults, or from this process's environment.
    pub(crate) fn start(place: &Place<'_>, group: &str) -> Self {
        let admin = free_address();
        let daemon = Daemon::command("publication-ingester")
            .arg("run")
            .env("INGESTER_KAFKA__BROKERS", place.brokers)
            .env("INGESTER_KAFKA__TOPIC", place.topic)
            .env("INGESTER_KAFKA__GROUP", group)
            .env("INGESTER_STORE__URL", place.store)
            .env("INGESTER_TOR__SNAPSHOTS", place.lists)
            .env("INGESTER_ADMIN__LISTEN", &admin)
            .spawn();
        Self { daemon, admin }
    }

    /// Waits until it is ready. Returns its memory in MiB, and its processor time in seconds.
    pub(crate) fn ready(&mut self) -> Result<(f64, f64)> {
        self.daemon.wait_ready(&self.admin);
        Ok((memory(&self.daemon.pid().to_string(), "VmRSS")?, cpu(self.daemon.pid())?))
    }

    /// The content of `/metrics`; empty without an answer.
    pub(crate) fn metrics(&self) -> String {
        http_get(&self.admin, "/metrics").map(|(_, body)| body).unwrap_or_default()
    }

    /// The number of finished records.
    fn done(&mut self) -> Result<f64> {
        ensure!(self.daemon.is_running(), "the ingester ended:\n{}", self.daemon.log());
        Ok(sum(&self.metrics(), "publication_ingester_records_total"))
    }

    /// Stops the ingester (SIGTERM) and waits for its end.
    pub(crate) fn end(mut self) {
        self.daemon.terminate();
        self.daemon.wait_exit(Duration::from_secs(30));
    }
}

/// Ingests the whole topic with `instances` ingesters of a new group.
pub(crate) fn ingest(
    place: &Place<'_>,
    group: &str,
    instances: usize,
    records: u32,
    servers: Servers,
) -> Result<Ingested> {
    let used = || -> Result<(f64, f64, f64)> {
        let postgres = servers.postgres.map_or(Ok(0.0), cpu_with_children)?;
        Ok((postgres, servers.kafka.map_or(Ok(0.0), cpu)?, busy()?))
    };
    let own = std::process::id();
    let (before, own_before, began) = (used()?, cpu(own)?, Instant::now());
    let mut running: Vec<_> = (0..instances).map(|_| Ingester::start(place, group)).collect();
    let (first, done) = wait_records(&mut running, f64::from(records))?;
    let seconds = first.elapsed().as_secs_f64();
    let (after, elapsed) = (used()?, began.elapsed().as_secs_f64());
    let (mut ingester, mut peak) = (0.0, 0.0_f64);
    for instance in &running {
        let pid = instance.daemon.pid();
        ingester += cpu(pid)?;
        peak = peak.max(memory(&pid.to_string(), "VmHWM")?);
    }
    let (postgres, kafka) = (after.0 - before.0, after.1 - before.1);
    let known = ingester + postgres + kafka + cpu(own)? - own_before;
    let others = (after.2 - before.2 - known) / elapsed;
    running.into_iter().for_each(Ingester::end);
    let rate = (f64::from(records) - done) / seconds;
    Ok(Ingested { rate, peak, ingester, postgres, kafka, others })
}

/// Waits until this many records are finished. Returns when the first ones were, and their number.
pub(crate) fn wait_records(running: &mut [Ingester], records: f64) -> Result<(Instant, f64)> {
    let began = Instant::now();
    let mut first = None;
    loop {
        let done = running.iter_mut().map(Ingester::done).sum::<Result<f64>>()?;
        if done > 0.0 {
            first.get_or_insert((Instant::now(), done));
        }
        if done >= records {
            return first.context("nothing was to be ingested");
        }
        ensure!(began.elapsed() < LONGEST, "{done} records only:\n{}", running[0].daemon.log());
        sleep(POLL);
    }
}

/// The sum of all series of a metric.
pub(crate) fn sum(metrics: &str, name: &str) -> f64 {
    let series = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit_once(' '))?
    });
    series.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}
