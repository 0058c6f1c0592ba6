//! What came of a fault, as a line of the table.

use std::fmt::Write;

use crate::fault::Fault;

/// What came of all rounds of a fault.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) fault: Fault,
    pub(crate) rounds: u32,
    pub(crate) rows: usize,
    /// Expected and not there.
    pub(crate) lost: usize,
    /// There and not expected.
    pub(crate) doubled: usize,
    /// There, and not as expected.
    pub(crate) wrong: usize,
    pub(crate) dead_letters: usize,
    pub(crate) missing: usize,
    /// Dead letters of records that were not poison, or with another code.
    pub(crate) foreign: usize,
    /// Dead letters of a record that has one already: a crash between the dead letter and the commit.
    pub(crate) repeated: usize,
    /// From the end of each fault to the first record that an ingester has done with, in seconds.
    pub(crate) recoveries: Vec<f64>,
    /// What else is to be said.
    pub(crate) note: String,
}

impl Outcome {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.wrong + self.missing + self.foreign == 0
    }
}

/// One line of the table.
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
