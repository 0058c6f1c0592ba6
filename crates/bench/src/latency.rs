//! The latency from publishing to the row, at a constant rate of events.

use std::slice::from_mut;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::daemon::{Ingester, Place, wait_records};
use crate::events::Events;
use crate::report::Report;
use crate::{broker, postgres};

const RATE: u32 = 1_000;
/// The first events are not counted, because connections are opened and pages are read.
const WARM_UP: u32 = 3 * RATE;
const COUNTED: u32 = 10 * RATE;
/// The number of events in total.
pub(crate) const EVENTS: u32 = WARM_UP + COUNTED;
/// The interval between two commits of one row, many times longer than a commit.
const INTERVAL: Duration = Duration::from_millis(10);
const TO_ROW: &str = "publication_ingester_publish_to_row_seconds";
const WRITE: &str = "publication_ingester_store_write_seconds";

/// Measures the latency, and meanwhile its parts: the broker's delay by a bare consumer, the database's by commits of
/// one row.
pub(crate) fn run(
    report: &mut Report,
    runtime: &Runtime,
    place: &Place<'_>,
    mut events: Events,
) -> Result<()> {
    let mut ingester = Ingester::start(place, "latency");
    ingester.ready()?;
    let delays = broker::delays(place.brokers, place.topic, WARM_UP, COUNTED)?;
    publish(place, events.by_ref().take(WARM_UP as usize))?;
    wait_records(from_mut(&mut ingester), f64::from(WARM_UP))?;
    let before = ingester.metrics();
    let (store, during) = (place.store.to_owned(), Duration::from_secs((COUNTED / RATE).into()));
    let commits = runtime.spawn(async move { postgres::commits(&store, during, INTERVAL).await });
    publish(place, events.by_ref().take(COUNTED as usize))?;
    wait_records(from_mut(&mut ingester), f64::from(EVENTS))?;
    let after = ingester.metrics();
    ingester.end();
    let delays = delays.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let measured =
        |name, share| quantile(&difference(&after, &before, name), share).context("no latencies");
    let commits = runtime.block_on(commits)??;
    let lines = [
        ("latency_p50", "1,000 events/s: publish to row, p50", measured(TO_ROW, 0.5)?),
        ("latency_p99", "1,000 events/s: publish to row, p99", measured(TO_ROW, 0.99)?),
        ("latency_write_p50", "  the write of a batch among it, p50", measured(WRITE, 0.5)?),
        ("latency_write_p99", "  the write of a batch among it, p99", measured(WRITE, 0.99)?),
    ];
    for (key, text, seconds) in lines {
        report.add(key, text, seconds * 1e3, "ms");
    }
    let limits = [
        ("latency_bare_p50", "  limit: publish to a bare consumer meanwhile, p50", &delays, 50),
        ("latency_bare_p99", "  limit: publish to a bare consumer meanwhile, p99", &delays, 99),
        ("latency_commit_p50", "  limit: a commit of one row meanwhile, p50", &commits, 50),
        ("latency_commit_p99", "  limit: a commit of one row meanwhile, p99", &commits, 99),
    ];
    for (key, text, seconds, percent) in limits {
        report.add(key, text, percentile(seconds, percent)? * 1e3, "ms");
    }
    Ok(())
}

/// The percentile, 0 to 99, of sorted values.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> Result<f64> {
    sorted.get(sorted.len() * percent / 100).copied().context("nothing was measured")
}

/// Sends an event each millisecond, as far as the clock allows.
fn publish(place: &Place<'_>, events: impl Iterator<Item = crate::events::Event>) -> Result<()> {
    let producer = broker::producer(place.brokers, 0)?;
    let began = Instant::now();
    for (index, event) in (0..).zip(events) {
        let due = began + Duration::from_secs(1) * index / RATE;
        sleep(due.saturating_duration_since(Instant::now()));
        broker::send(&producer, place.topic, &event)?;
        producer.poll(Duration::ZERO);
    }
    broker::flush(&producer)
}

/// The buckets of a histogram between two readings of the metrics: upper bounds in seconds, and cumulative counts.
fn difference(after: &str, before: &str, name: &str) -> Vec<(f64, f64)> {
    let earlier = buckets(before, name);
    let pairs = buckets(after, name).into_iter().zip(earlier);
    pairs.map(|((bound, after), (_, before))| (bound, after - before)).collect()
}

/// The buckets of a histogram: upper bounds in seconds, and cumulative counts.
fn buckets(metrics: &str, name: &str) -> Vec<(f64, f64)> {
    let bucket = |line: &str| {
        let rest = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?;
        let (bound, count) = rest.split_once("\"} ")?;
        Some((bound.replace("+Inf", "inf").parse().ok()?, count.parse().ok()?))
    };
    metrics.lines().filter_map(bucket).collect()
}

/// The quantile, interpolated linearly within its bucket as Prometheus does.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let wanted = buckets.last()?.1 * share;
    let mut below = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= wanted && count > below.1 {
            return Some(below.0 + (bound - below.0) * (wanted - below.1) / (count - below.1));
        }
        below = (bound, count);
    }
    None
}
