//! Decoding and both verdicts, on one core, with a year of exit lists in memory.

use std::hint::black_box;
use std::process;
use std::sync::Arc;

use anyhow::{Result, ensure};
use ingester::{Envelope, Header, Judge, Outcome, Settings};
use model::{Position, Timestamp};

use super::broker::{CONTENT_TYPE, PARTITIONS};
use super::events::Events;
use super::exits::Lists;
use super::process::cpu;
use super::report::Report;

const LISTS: usize = 365 * 24;
const ADDRESSES: usize = 1_500;
/// More than any cache holds, judged again and again.
const ENVELOPES: u32 = 100_000;

pub(super) fn run(report: &mut Report, records: u32, now: Timestamp) -> Result<()> {
    eprintln!("xtask: writing {LISTS} exit lists");
    let lists = Lists::write(now, LISTS, ADDRESSES)?;
    let settings = Settings::default();
    let judge = Judge {
        decode: settings.decode_rules(),
        history: Arc::new(lists.load()?),
        tfa: settings.tfa_rules(),
        generation: settings.enrich.generation,
    };
    let envelopes = envelopes(&lists);
    let is_row = |envelope| matches!(judge.judge(envelope), Outcome::Record(_));
    ensure!(envelopes.iter().all(is_row), "a made-up event is no row");
    // The processor time and not the clock's: others may use the core too.
    let before = cpu(process::id())?;
    let mut judged = 0_u32;
    while judged < records {
        for envelope in &envelopes {
            black_box(judge.judge(black_box(envelope)));
        }
        judged += ENVELOPES;
    }
    let rate = f64::from(judged) / (cpu(process::id())? - before);
    report.add("decode", "decode + both verdicts, a year of exit lists", rate, "records/s");
    Ok(())
}

/// The records as the poll thread hands them over.
fn envelopes(lists: &Lists) -> Vec<Envelope> {
    let topic: Arc<str> = "events".into();
    let now = lists.last.as_micros() / 1_000;
    let envelope = |(offset, event): (i64, super::events::Event)| Envelope {
        position: Position {
            topic: topic.clone(),
            partition: i32::try_from(offset % i64::from(PARTITIONS)).unwrap_or_default(),
            offset,
        },
        timestamp: Some(now),
        key: Some(event.key.into()),
        value: Some(event.value.into()),
        headers: vec![Header { name: CONTENT_TYPE.0.into(), value: Some(CONTENT_TYPE.1.into()) }],
    };
    (0..).zip(Events::new(ENVELOPES, lists.last, lists.exits.clone(), 0)).map(envelope).collect()
}
