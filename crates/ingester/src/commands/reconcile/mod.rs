//! `publication-ingester reconcile …`: a range of the topic against the table.

mod comparison;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use model::PublicationId;
use serde::Serialize;
use store::{Cursor, Filter};
use tokio_util::sync::CancellationToken;

use crate::commands::context::{Context, each_record};
use crate::commands::counts::Tally;
use crate::commands::difference::Difference;
use crate::commands::output::{Output, ProgressBar};
use crate::commands::replay::{self, PointArgument};
use crate::kafka::{self, Bound, OffsetRanges, RangeReader, RateLimit};
use crate::pipeline::evaluate::Outcome;
use crate::settings::Settings;

use comparison::{Comparison, Finding, Kind, Mend};

/// Rows listed at once.
const PAGE: u32 = 1_000;
/// Rows written at once.
const WRITE: usize = 500;

/// A range to compare.
#[derive(Debug, Args)]
pub(crate) struct Reconcile {
    /// The first record: a time (RFC 3339, or a span back from now such as 2h), an offset, earliest or latest; inclusive
    #[arg(long, value_name = "POINT")]
    from: PointArgument,
    /// The last record, likewise and inclusive
    #[arg(long, value_name = "POINT", default_value = "latest")]
    until: PointArgument,
    /// Make missing and different rows what they should be; extra rows stay
    #[arg(long)]
    repair: bool,
    /// Records a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How to print [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    kind: &'static str,
    name: &'a str,
    version: &'a str,
    changes: &'a [Difference],
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    records: u64,
    missing: u64,
    different: u64,
    extra: u64,
    unproven: u64,
    repaired: u64,
}

impl Reconcile {
    /// Compares, prints, repairs. `false` when a difference is left.
    ///
    /// # Errors
    /// A range that cannot be read, a database that cannot be used.
    pub(crate) async fn run(
        self,
        settings: Settings,
        stop: CancellationToken,
    ) -> anyhow::Result<bool> {
        let output = Output::chosen(self.output);
        let context = Context::load(settings).await?;
        context.table_generation().await?;
        let comparison = Arc::new(Comparison::new(context.rows.clone()));
        let records = self.compare(&context, &comparison, output, &stop).await?;
        let findings = comparison.findings().await?;
        let mut summary = Summary { records, ..Summary::default() };
        for finding in &findings {
            *match finding.kind {
                Kind::Missing => &mut summary.missing,
                Kind::Different => &mut summary.different,
                Kind::Unproven => &mut summary.unproven,
            } += 1;
            print(output, finding.kind.as_str(), &finding.id, &finding.changes)?;
        }
        for id in self.extra(&context, &comparison, &stop).await? {
            summary.extra += 1;
            print(output, "extra", &id, &[])?;
        }
        if self.repair {
            summary.repaired = repair(&context, &findings).await?;
        }
        let text = format!(
            "{records} records: {} missing, {} different, {} extra, {} unproven, {} repaired",
            summary.missing, summary.different, summary.extra, summary.unproven, summary.repaired
        );
        output.print("reconciled", &summary, &text)?;
        Ok(summary.missing + summary.different + summary.extra == summary.repaired)
    }

    async fn compare(
        &self,
        context: &Context,
        comparison: &Arc<Comparison>,
        output: Output,
        stop: &CancellationToken,
    ) -> anyhow::Result<u64> {
        let spans = self.spans(context).await?;
        let mut progress = ProgressBar::new(output, None, Some(spans.len()));
        let (tally, pace) =
            (Tally::default(), RateLimit { rate: self.rate, ..RateLimit::default() });
        let records =
            reader(context)?.read(spans, pace.clone(), stop.clone()).map_err(kafka::refused)?;
        let ingest = context.to_other(comparison.clone(), Box::new(tally.clone()));
        let running = ingest.start(records)?;
        progress.follow(running, &context.health, &pace, &tally).await?;
        anyhow::ensure!(!stop.is_cancelled(), "stopped before the end of the range");
        Ok(tally.progress().counts.read())
    }

    async fn spans(&self, context: &Context) -> anyhow::Result<OffsetRanges> {
        let settings = context.settings.clone();
        let points = (self.from.point, self.until.point);
        let ask = move || {
            let reader = RangeReader::open(&settings, 1_024).map_err(kafka::refused)?;
            replay::find(&reader, &settings.kafka.topic, &[], points)
        };
        tokio::task::spawn_blocking(ask).await?
    }

    /// Rows whose `created` lies in the range and of which the whole topic has no record. Only for a range that begins
    /// with a time: of offsets nobody knows which rows they should have made. A record's time is not its publication's,
    /// so the rest of the topic is asked before a row is called extra; what retention has removed is extra too.
    async fn extra(
        &self,
        context: &Context,
        comparison: &Comparison,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<PublicationId>> {
        let Some(from) = self.from.time() else { return Ok(Vec::new()) };
        let before = match self.until.point {
            Bound::Time(_) => self.until.time(),
            Bound::Latest => None,
            Bound::Earliest | Bound::Offset(_) => return Ok(Vec::new()),
        };
        // The listing's bounds are exclusive, a range's times inclusive and of milliseconds.
        let filter = Filter {
            created_after: Some(from.before(Duration::from_micros(1))),
            created_before: before.map(|last| last.after(Duration::from_millis(1))),
            ..Filter::default()
        };
        let (mut unknown, mut after) = (HashSet::new(), None);
        loop {
            let page = context.rows.list(&filter, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(Cursor { created: last.info.created, id: last.id.clone() });
            unknown.extend(page.into_iter().map(|row| row.id).filter(|id| !comparison.knows(id)));
        }
        if !unknown.is_empty() {
            without_records(context, &mut unknown, stop).await?;
        }
        let mut extra: Vec<_> = unknown.into_iter().collect();
        extra.sort_unstable();
        Ok(extra)
    }
}

fn reader(context: &Context) -> anyhow::Result<RangeReader> {
    let kib = context.settings.limits.max_buffered_bytes.as_u64() / 3 / 1_024;
    RangeReader::open(&context.settings, kib.max(1_024)).map_err(kafka::refused)
}

/// Takes out what any record of the topic speaks of.
async fn without_records(
    context: &Context,
    unknown: &mut HashSet<PublicationId>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let settings = context.settings.clone();
    let ask = move || -> anyhow::Result<OffsetRanges> {
        let reader = RangeReader::open(&settings, 1_024).map_err(kafka::refused)?;
        replay::find(&reader, &settings.kafka.topic, &[], (Bound::Earliest, Bound::Latest))
    };
    let spans = tokio::task::spawn_blocking(ask).await??;
    let events =
        reader(context)?.read(spans, RateLimit::default(), stop.clone()).map_err(kafka::refused)?;
    each_record(events, async |record| {
        if let Outcome::Row(publication) = context.evaluator.evaluate(&record) {
            unknown.remove(&publication.id);
        }
        Ok(())
    })
    .await?;
    anyhow::ensure!(
        !stop.is_cancelled(),
        "stopped before all of the topic was asked for extra rows"
    );
    Ok(())
}

/// Writes what the range says of the rows found, and of no other: merged where the merge rule ends in the right row,
/// else in the place of the very row that was seen. Returns how many are right now.
async fn repair(context: &Context, findings: &[Finding]) -> anyhow::Result<u64> {
    let (mut merged, mut replaced) = (Vec::new(), Vec::new());
    for finding in findings {
        match &finding.mend {
            Mend::Merge(publication) => merged.push(publication.clone()),
            Mend::Replace { seen, instead } => replaced.push((seen, instead)),
            Mend::Leave => {}
        }
    }
    let mut repaired = 0;
    for some in merged.chunks(WRITE) {
        context.store.record(some).await?;
        repaired += some.len() as u64;
    }
    for (seen, instead) in replaced {
        if context.jobs.replace(seen, instead).await? {
            repaired += 1;
        } else {
            tracing::warn!(id = ?instead.id, "the row changed meanwhile and was left as it is");
        }
    }
    Ok(repaired)
}

fn print(
    output: Output,
    kind: &'static str,
    id: &PublicationId,
    changes: &[Difference],
) -> anyhow::Result<()> {
    let (name, version) = (id.name.as_str(), id.version.as_str());
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let text = format!("{kind} {name} {version} {}", shown.join(", "));
    output.print("difference", &Shown { kind, name, version, changes }, &text)?;
    Ok(())
}
