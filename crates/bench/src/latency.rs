//! The latency from publishing to the row, at a constant rate of events.

use std::slice::from_mut;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::broker;
use crate::daemon::{Ingester, Place, wait_records};
use crate::events::Events;
use crate::report::Report;

const RATE: u32 = 1_000;
/// The first events are not counted, because connections are opened and pages are read.
const WARM_UP: u32 = 3 * RATE;
const COUNTED: u32 = 10 * RATE;
/// The number of events in total.
pub(crate) const EVENTS: u32 = WARM_UP + COUNTED;
const HISTOGRAM: &str = "publication_ingester_publish_to_row_seconds_bucket";

pub(crate) fn run(report: &mut Report, place: &Place<'_>, mut events: Events) -> Result<()> {
    let mut ingester = Ingester::start(place, "latency");
    ingester.ready()?;
    publish(place, events.by_ref().take(WARM_UP as usize))?;
    wait_records(from_mut(&mut ingester), f64::from(WARM_UP))?;
    let before = buckets(&ingester.metrics());
    publish(place, events.by_ref().take(COUNTED as usize))?;
    wait_records(from_mut(&mut ingester), f64::from(EVENTS))?;
    let after = buckets(&ingester.metrics());
    ingester.end();
    let spans: Vec<(f64, f64)> = after
        .iter()
        .zip(&before)
        .map(|(&(bound, after), &(_, before))| (bound, after - before))
        .collect();
    let milliseconds =
        |share| quantile(&spans, share).map(|seconds| seconds * 1e3).context("no latencies");
    let p50 = milliseconds(0.5)?;
    report.add("latency_p50", "1,000 events/s: publish to row, p50", p50, "ms");
    let p99 = milliseconds(0.99)?;
    report.add("latency_p99", "1,000 events/s: publish to row, p99", p99, "ms");
    Ok(())
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

/// The buckets of the histogram: upper bounds in seconds, and cumulative counts.
fn buckets(metrics: &str) -> Vec<(f64, f64)> {
    let bucket = |line: &str| {
        let (bound, count) =
            line.strip_prefix(HISTOGRAM)?.strip_prefix("{le=\"")?.split_once("\"} ")?;
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
