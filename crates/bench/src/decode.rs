//! Decoding and both verdicts on one core, with a year of exit lists in memory.

use std::hint::black_box;
use std::process;
use std::sync::Arc;

use anyhow::{Result, ensure};
use ingester::{Evaluator, Header, Outcome, Record, Settings};
use model::{Position, Timestamp};
use serde::Deserialize;

use crate::broker::{CONTENT_TYPE, PARTITIONS};
use crate::events::Events;
use crate::exits::Lists;
use crate::process::cpu;
use crate::report::Report;

const LISTS: usize = 365 * 24;
const ADDRESSES: usize = 1_500;
/// More records than a processor cache holds. They are evaluated repeatedly.
const ENVELOPES: u32 = 100_000;

pub(crate) fn run(report: &mut Report, records: u32, now: Timestamp) -> Result<()> {
    eprintln!("bench: writing {LISTS} exit lists");
    let lists = Lists::write(now, LISTS, ADDRESSES)?;
    let settings = Settings::default();
    let evaluator = Evaluator {
        decode: settings.decode_rules(),
        history: Arc::new(lists.load()?),
        tfa: settings.tfa_rules(),
        generation: settings.enrich.generation,
    };
    let envelopes = envelopes(&lists);
    let is_row = |envelope| matches!(evaluator.evaluate(envelope), Outcome::Row(_));
    ensure!(envelopes.iter().all(is_row), "a made-up event is no row");
    let is_read = |envelope: &Record| envelope.value.as_deref().is_some_and(read_bare);
    ensure!(envelopes.iter().all(is_read), "a made-up event is not what the bare struct reads");
    let rate = each(&envelopes, records, |envelope| {
        black_box(evaluator.evaluate(envelope));
    })?;
    report.add("decode", "decode + both verdicts, a year of exit lists", rate, "records/s");
    let rate = each(&envelopes, records, |envelope| {
        black_box(read_bare(envelope.value.as_deref().unwrap_or_default()));
    })?;
    report.add("serde_json", "serde_json alone: the same fields into a struct", rate, "records/s");
    let text = "decode + both verdicts / serde_json alone";
    report.ratio("decode_per_serde_json", text, "decode", "serde_json");
    Ok(())
}

/// Calls `act` on so many records. Returns records per second of processor time, because other processes may use the core.
fn each(envelopes: &[Record], records: u32, mut act: impl FnMut(&Record)) -> Result<f64> {
    let before = cpu(process::id())?;
    let mut done = 0_u32;
    while done < records {
        envelopes.iter().for_each(|envelope| act(black_box(envelope)));
        done += ENVELOPES;
    }
    Ok(f64::from(done) / (cpu(process::id())? - before))
}

/// Reads a value with serde_json's derive alone. Returns whether that succeeded.
pub(crate) fn read_bare(value: &[u8]) -> bool {
    black_box(serde_json::from_slice::<Bare<'_>>(value)).is_ok()
}

/// The fields that the decoder reads, without checks and with borrowed strings, to measure serde_json's derive.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "they are only read in")]
struct Bare<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    time: Option<&'a str>,
    #[serde(borrow)]
    data: BareData<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "they are only read in")]
struct BareData<'a> {
    #[serde(borrow)]
    package: BarePackage<'a>,
    published_at: &'a str,
    actor: BareActor<'a>,
    request: BareRequest<'a>,
    auth: BareAuth<'a>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "they are only read in")]
struct BarePackage<'a> {
    ecosystem: &'a str,
    name: &'a str,
    version: &'a str,
    integrity: Option<&'a str>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "they are only read in")]
struct BareActor<'a> {
    kind: &'a str,
    username: Option<&'a str>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "they are only read in")]
struct BareRequest<'a> {
    ip: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "they are only read in")]
struct BareAuth<'a> {
    credential: Option<&'a str>,
    bypass2fa: Option<bool>,
    #[serde(borrow, default)]
    amr: Vec<&'a str>,
    second_factor: Option<BareFactor<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "they are only read in")]
struct BareFactor<'a> {
    presented: Option<bool>,
    verified: Option<bool>,
    method: Option<&'a str>,
    verified_at: Option<&'a str>,
}

/// Records as the poll thread passes them to the loop.
fn envelopes(lists: &Lists) -> Vec<Record> {
    let topic: Arc<str> = "events".into();
    let now = lists.last.as_micros() / 1_000;
    let envelope = |(offset, event): (i64, crate::events::Event)| Record {
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
