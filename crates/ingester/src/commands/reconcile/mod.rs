//! `publication-ingester reconcile …`: compares a range of the topic with the table.

mod finding;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use model::{Publication, PublicationId};
use serde::Serialize;
use store::Filter;
use tokio_util::sync::CancellationToken;

use crate::commands::bound::BoundArgument;
use crate::commands::context::Context;
use crate::commands::counts::Counts;
use crate::commands::output::{Output, ProgressBar};
use crate::commands::preview::{Difference, Preview};
use crate::commands::ranges;
use crate::commands::scratch::{PAGE, Scratch, page};
use crate::kafka::{Bound, OffsetRanges, ReadOptions};
use crate::settings::Settings;

use finding::{Finding, Kind, find};

/// A range to compare.
#[derive(Debug, Args)]
pub(crate) struct Reconcile {
    /// The first record: a time (RFC 3339, or a span back from now such as 2h), an offset, earliest or latest; inclusive
    #[arg(long, value_name = "BOUND")]
    from: BoundArgument,
    /// The last record, likewise and inclusive
    #[arg(long, value_name = "BOUND", default_value = "latest")]
    until: BoundArgument,
    /// Write what the range says of missing and different rows, by the merge rule; rows altered by hand and extra rows stay
    #[arg(long)]
    repair: bool,
    /// Records a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How to print [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

/// A difference in its printed form.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    kind: &'static str,
    name: &'a str,
    version: &'a str,
    changes: &'a [Difference],
    /// With `--repair`: whether a second read of the table shows the row to be right now.
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<bool>,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    records: u64,
    missing: u64,
    different: u64,
    extra: u64,
    unproven: u64,
    repaired: u64,
    /// The number of records of the range that were deleted before they were read, or are in a batch that cannot be read.
    gone: u64,
}

impl Reconcile {
    /// Compares, prints and repairs. `false` if a difference is left, or a part of the range was not compared.
    ///
    /// # Errors
    /// If the range cannot be read, or the database cannot be used.
    pub(crate) async fn run(
        self,
        settings: Settings,
        stop: CancellationToken,
    ) -> anyhow::Result<bool> {
        self.from.check_order(&self.until)?;
        let output = Output::chosen(self.output);
        let context = Context::load(settings).await?;
        context.table_generation().await?;
        let ranges = context.find_ranges((self.from.bound, self.until.bound)).await?;
        let preview = Preview::create(context.rows.clone()).await?;
        let (records, gone) = self.read(&context, ranges, &preview.range, &stop).await?;
        let mut summary = Summary { records, gone, ..Summary::default() };
        let reconciling = Reconciling { context: &context, output, repair: self.repair };
        preview.each_page(async |page| reconciling.compare(page, &mut summary).await).await?;
        self.extra(&context, &preview, &stop, async |id| {
            summary.extra += 1;
            reconciling.print("extra", id, &[], None)
        })
        .await?;
        let text = format!(
            "{} records: {} missing, {} different, {} extra, {} unproven, {} repaired, {} gone or damaged before they were read",
            summary.records,
            summary.missing,
            summary.different,
            summary.extra,
            summary.unproven,
            summary.repaired,
            summary.gone
        );
        output.print("reconciled", &summary, &text)?;
        let left = summary.missing + summary.different + summary.extra - summary.repaired;
        Ok(left + summary.gone == 0)
    }

    /// Merges the records of the ranges into a temporary table. Returns the number of records, and the number of
    /// offsets that are gone.
    async fn read(
        &self,
        context: &Context,
        ranges: OffsetRanges,
        into: &Arc<Scratch>,
        stop: &CancellationToken,
    ) -> anyhow::Result<(u64, u64)> {
        let counts = Counts::default();
        let limit = ReadOptions { rate: self.rate, ..ReadOptions::default() };
        let mut progress = ProgressBar::new(Output::chosen(self.output), None, Some(ranges.len()));
        let records = ranges::read(&context.settings, ranges, limit.clone(), stop.clone())?;
        let running =
            context.ingest(into.clone(), None, Box::new(counts.clone())).start(records)?;
        progress.follow(running, &context.waits, &limit, &counts).await?;
        anyhow::ensure!(!stop.is_cancelled(), "stopped before the end of the range");
        let gone = limit.take_gone().into_iter().map(|(_, gone)| gone.start.abs_diff(gone.end));
        Ok((counts.progress().counts.read(), gone.sum()))
    }

    /// Finds rows whose `created` is in the range and that have no record in the whole topic. Only for a range that begins with
    /// a time, because it is not known which rows belong to offsets. A record's time is not its publication's time, so the rest
    /// of the topic is read before a row is called extra; a row whose record was removed by retention is extra too.
    async fn extra(
        &self,
        context: &Context,
        preview: &Preview,
        stop: &CancellationToken,
        mut act: impl AsyncFnMut(&PublicationId) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(filter) = self.created_within() else { return Ok(()) };
        let candidates = Scratch::create().await?;
        let mut after = None;
        let mut are_any = false;
        loop {
            let rows = context.rows.list(&filter, after.as_ref(), PAGE).await?;
            let Some(rows) = page(rows, &mut after) else { break };
            let unknown = without(&preview.range, rows).await?;
            are_any |= !unknown.is_empty();
            candidates.record(&unknown).await?;
        }
        if !are_any {
            return Ok(());
        }
        // The topic's end is queried after the rows were listed, so that a row of a record that arrived meanwhile is not extra.
        let everything = context.find_ranges((Bound::Earliest, Bound::Latest)).await?;
        let topic = Arc::new(Scratch::create().await?);
        self.read(context, everything, &topic, stop).await?;
        let mut after = None;
        while let Some(rows) = candidates.page(&mut after).await? {
            for row in without(&topic, rows).await? {
                act(&row.id).await?;
            }
        }
        Ok(())
    }

    /// The filter for the rows of a range by time; `None` for a range by offset.
    fn created_within(&self) -> Option<Filter> {
        let from = self.from.time()?;
        let until = match self.until.bound {
            Bound::Time(_) => self.until.time(),
            Bound::Latest => None,
            Bound::Earliest | Bound::Offset(_) => return None,
        };
        // The listing's bounds are exclusive; a range's times are inclusive and in milliseconds.
        Some(Filter {
            created_after: Some(from.before(Duration::from_micros(1))),
            created_before: until.map(|last| last.after(Duration::from_millis(1))),
            ..Filter::default()
        })
    }
}

/// The rows that are not in the temporary table.
async fn without(scratch: &Scratch, rows: Vec<Publication>) -> anyhow::Result<Vec<Publication>> {
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    let has = scratch.has(&ids).await?;
    Ok(rows.into_iter().zip(has).filter(|(_, has)| !has).map(|(row, _)| row).collect())
}

/// The state of a reconciliation.
struct Reconciling<'a> {
    context: &'a Context,
    output: Output,
    repair: bool,
}

impl Reconciling<'_> {
    /// Compares a page of rows, repairs and prints.
    async fn compare(
        &self,
        page: Vec<(Publication, Option<Publication>)>,
        summary: &mut Summary,
    ) -> anyhow::Result<()> {
        let found: Vec<(Publication, Finding)> = page
            .into_iter()
            .filter_map(|(from_range, row)| {
                find(&from_range, row.as_ref()).map(|finding| (from_range, finding))
            })
            .collect();
        let mut repaired = self.repaired(&found).await?.into_iter();
        for (_, finding) in &found {
            *match finding.kind {
                Kind::Missing => &mut summary.missing,
                Kind::Different => &mut summary.different,
                Kind::Unproven => &mut summary.unproven,
            } += 1;
            let is_repaired = (self.repair && finding.kind != Kind::Unproven)
                .then(|| finding.is_mended_by_merge && repaired.next().unwrap_or(false));
            summary.repaired += u64::from(is_repaired == Some(true));
            self.print(finding.kind.as_str(), &finding.id, &finding.changes, is_repaired)?;
        }
        Ok(())
    }

    /// Writes the range's result for the rows that the merge rule repairs, and reads the rows again, because a successful write
    /// does not prove what the database stores. Returns for each of these rows, in order, whether it is right now.
    async fn repaired(&self, found: &[(Publication, Finding)]) -> anyhow::Result<Vec<bool>> {
        let mendable = found.iter().filter(|(_, finding)| finding.is_mended_by_merge);
        let results: Vec<Publication> =
            mendable.map(|(from_range, _)| from_range.clone()).collect();
        if !self.repair || results.is_empty() {
            return Ok(Vec::new());
        }
        for refused in self.context.store.write(&results).await?.refused {
            let (id, reason) = (&results[refused.place].id, refused.reason);
            tracing::warn!(?id, reason, "the database refused the row");
        }
        let ids: Vec<_> = results.iter().map(|result| result.id.clone()).collect();
        let rows = self.context.rows.find(&ids).await?;
        Ok(results
            .iter()
            .zip(rows)
            .map(|(from_range, row)| find(from_range, row.as_ref()).is_none())
            .collect())
    }

    fn print(
        &self,
        kind: &'static str,
        id: &PublicationId,
        changes: &[Difference],
        repaired: Option<bool>,
    ) -> anyhow::Result<()> {
        let (name, version) = (id.name.as_str(), id.version.as_str());
        let columns: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let end = match repaired {
            Some(true) => " (repaired)",
            Some(false) => " (NOT repaired)",
            None => "",
        };
        let text = format!("{kind} {name} {version} {}{end}", columns.join(", "));
        self.output.print(
            "difference",
            &Shown { kind, name, version, changes, repaired },
            &text,
        )?;
        Ok(())
    }
}
