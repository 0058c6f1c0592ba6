//! Counts the dead letters by the action that they need.

use std::collections::BTreeMap;

use model::{Publication, Timestamp};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::each;
use crate::commands::context::Context;
use crate::commands::dead_letter_source::{DeadLetter, Originals, Selection};
use crate::commands::output::Output;
use crate::commands::preview::adds_nothing;
use crate::pipeline::evaluate::Outcome;

/// The number of rows to look up at once.
const LOOKUP: usize = 1_000;

/// The number of dead letters of one code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Group {
    letters: u64,
    /// Still rejected today.
    still_bad: u64,
    /// Would become a row now.
    to_redrive: u64,
    /// The table has the facts already, or there is nothing to write.
    done: u64,
    /// The time of the first rejection.
    first: Option<String>,
    /// The time of the last rejection.
    last: Option<String>,
}

#[derive(Default)]
struct Groups {
    by_code: BTreeMap<String, Group>,
    /// Letters that are valid events now, with their code, to be compared with the table.
    events: Vec<(String, Publication)>,
}

pub(super) async fn run(
    context: &Context,
    selection: Selection,
    output: Output,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let mut groups = Groups::default();
    let originals = Originals::new(&context.settings);
    let is_whole = each(&context.settings, selection, stop.clone(), async |record| {
        let letter = DeadLetter(&record);
        let code = letter.code().unwrap_or_else(|| "none".to_owned());
        let whole = originals.whole(&record).await?;
        let outcome = whole.map(|record| context.evaluator.evaluate(&record));
        let at = letter.at().map(Timestamp::to_rfc3339_millis);
        let group = groups.by_code.entry(code.clone()).or_default();
        group.letters += 1;
        group.first = group.first.take().into_iter().chain(at.clone()).min();
        group.last = group.last.take().into_iter().chain(at).max();
        match outcome {
            // A letter whose original record no longer exists cannot be evaluated.
            None | Some(Outcome::Reject(_)) => group.still_bad += 1,
            Some(Outcome::Skip) => group.done += 1,
            Some(Outcome::Row(publication)) => groups.events.push((code, publication)),
        }
        if groups.events.len() >= LOOKUP { groups.compare(context).await } else { Ok(()) }
    })
    .await?;
    groups.compare(context).await?;
    for (code, group) in &groups.by_code {
        let mut line = serde_json::to_value(group)?;
        line["code"] = code.as_str().into();
        output.print("dead_letters", &line, &group.describe(code))?;
    }
    if groups.by_code.is_empty() && output == Output::Text {
        output.print("", &(), "no dead letters")?;
    }
    Ok(is_whole && !stop.is_cancelled())
}

impl Groups {
    async fn compare(&mut self, context: &Context) -> anyhow::Result<()> {
        let ids: Vec<_> = self.events.iter().map(|(_, event)| event.id.clone()).collect();
        let rows = context.rows.find(&ids).await?;
        for ((code, event), row) in self.events.drain(..).zip(rows) {
            let group = self.by_code.entry(code).or_default();
            match row {
                Some(row) if adds_nothing(&row, event) => group.done += 1,
                _ => group.to_redrive += 1,
            }
        }
        Ok(())
    }
}

impl Group {
    fn describe(&self, code: &str) -> String {
        let time = |at: &Option<String>| at.clone().unwrap_or_else(|| "an unknown time".to_owned());
        format!(
            "{code}: {} dead letters from {} to {}: {} still bad, {} to redrive, {} done",
            self.letters,
            time(&self.first),
            time(&self.last),
            self.still_bad,
            self.to_redrive,
            self.done
        )
    }
}
