//! The result of a fault, as a line of the table.

use std::fmt::Write;

use crate::fault::Fault;

/// The results of all rounds of a fault.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) fault: Fault,
    pub(crate) rounds: u32,
    pub(crate) rows: usize,
    /// Rows that are expected but missing.
    pub(crate) lost: usize,
    /// Rows that exist but are not expected.
    pub(crate) doubled: usize,
    /// Rows with unexpected values.
    pub(crate) wrong: usize,
    pub(crate) dead_letters: usize,
    pub(crate) missing: usize,
    /// Dead letters of records that are not poison, or with a wrong code.
    pub(crate) foreign: usize,
    /// Second dead letters of a record, after a crash between dead letter and commit.
    pub(crate) repeated: usize,
    /// Seconds from the end of each fault to the first record that an ingester finishes.
    pub(crate) recoveries: Vec<f64>,
    /// Further remarks.
    pub(crate) note: String,
}

impl Outcome {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.wrong + self.missing + self.foreign == 0
    }
}

/// A line of the table.
pub(crate) fn line(outcome: &Outcome) -> String {
    let mut recoveries = outcome.recoveries.clone();
    recoveries.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let place = (recoveries.len() * part / 100).min(recoveries.len().saturating_sub(1));
        recoveries.get(place).map_or("–".to_owned(), |seconds| format!("{seconds:.1}"))
    };
    let Outcome { rounds, rows, lost, doubled, wrong, dead_letters, missing, .. } = outcome;
    let Outcome { foreign, repeated, note, .. } = outcome;
    let name = outcome.fault.name();
    format!(
        "| {name} | {rounds} | {rows} | {lost} | {doubled} | {wrong} | {dead_letters} | {missing} | {foreign} | \
         {repeated} | {} | {} | {note} |",
        at(50),
        at(100)
    )
}

/// The whole table, in Markdown.
pub(crate) fn table(outcomes: &[Outcome], seed: u64) -> String {
    let mut text = format!(
        "\nseed {seed}\n\n\
         | fault | rounds | rows expected | lost | doubled | wrong | dead letters expected | missing | not planted | \
         repeated | s to recover, median | longest | |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |\n"
    );
    for outcome in outcomes {
        let _ = writeln!(text, "{}", line(outcome));
    }
    text
}
