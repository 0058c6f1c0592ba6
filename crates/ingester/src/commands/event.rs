//! `publication-ingester event check …`: evaluates a producer's events as the ingester would, before there is a topic.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use enrich::ExitHistory;
use model::{Publication, Username};
use serde::Serialize;

use crate::commands::output::{Output, stdout};
use crate::commands::record_file::{RecordFile, open};
use crate::decode::EVENT_SCHEMA;
use crate::pipeline::evaluate::{Evaluator, Outcome};
use crate::record::Record;
use crate::settings::Settings;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Say of each event which row it would make, or why it would be a dead letter; exit code 1 when any is rejected
    ///
    /// Events are evaluated without a Kafka timestamp and without exit lists, so rows are shown without their Tor flag.
    Check(Check),
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Files with an event in structured mode a line; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// Print the JSON Schema of an event instead
    #[arg(long)]
    schema: bool,
    /// How to print [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

/// A file that cannot be read: probably a wrong path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub(crate) struct UnreadableFile {
    path: PathBuf,
    reason: String,
}

/// The output cannot be written, which must not look like events that are rejected.
#[derive(Debug, thiserror::Error)]
#[error("standard output")]
pub(crate) struct UnwritableOutput(#[from] std::io::Error);

/// The result of a line.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    file: &'a Path,
    line: i64,
    #[serde(flatten)]
    result: CheckedEvent,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckedEvent {
    Row(Row),
    /// Another event type.
    Skipped(bool),
    Rejected {
        code: &'static str,
        stage: &'static str,
        /// The JSON pointer of the wrong field, if a single field is wrong.
        pointer: Option<String>,
        message: String,
    },
}

/// The row, without the results that depend on the address.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    version: String,
    username: Option<String>,
    created: String,
    tfa: Option<bool>,
    tfa_reason: &'static str,
    credential: &'static str,
    actor: &'static str,
    revision: u32,
    integrity: Option<String>,
}

impl EventCommand {
    /// Prints a line for each event. `false` if an event was rejected.
    ///
    /// # Errors
    /// [`UnreadableFile`] or [`UnwritableOutput`].
    pub(crate) fn run(self, settings: &Settings) -> anyhow::Result<bool> {
        let Self::Check(check) = self;
        if check.schema {
            let mut out = stdout();
            let written = write!(out, "{EVENT_SCHEMA}").and_then(|()| out.flush());
            written.map_err(UnwritableOutput)?;
            return Ok(true);
        }
        let history = ExitHistory::new(settings.tor_rules()?);
        let evaluator = Evaluator::new(settings, Arc::new(history));
        let output = Output::chosen(check.output);
        let mut are_good = true;
        for path in &check.files {
            let unreadable = |reason: String| UnreadableFile { path: path.clone(), reason };
            let lines = open(path).map_err(|error| unreadable(error.to_string()))?;
            let mut records = RecordFile::new(lines);
            while let Some(mut record) =
                records.next().map_err(|error| unreadable(error.to_string()))?
            {
                // An exported record has the timestamp of another topic.
                record.timestamp = None;
                are_good &= print(&evaluator, &record, path, output)?;
            }
        }
        Ok(are_good)
    }
}

/// Evaluates an event and prints the result. `false` if the event is rejected.
fn print(
    evaluator: &Evaluator,
    record: &Record,
    file: &Path,
    output: Output,
) -> anyhow::Result<bool> {
    let result = CheckedEvent::from(evaluator.evaluate(record));
    let is_good = !matches!(result, CheckedEvent::Rejected { .. });
    let line = record.position.offset + 1;
    let text = format!("{}:{line}: {}", file.display(), result.describe());
    let checked = Checked { file, line, result };
    output.print("event", &checked, &text).map_err(UnwritableOutput)?;
    Ok(is_good)
}

impl From<Outcome> for CheckedEvent {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Row(publication) => Self::Row(publication.into()),
            Outcome::Skip => Self::Skipped(true),
            Outcome::Reject(rejection) => Self::Rejected {
                code: rejection.code.as_str(),
                stage: rejection.code.stage(),
                pointer: rejection.path.map(|path| path.pointer()),
                message: rejection.message.into_owned(),
            },
        }
    }
}

impl From<Publication> for Row {
    fn from(publication: Publication) -> Self {
        let Publication { id, info, revision, .. } = publication;
        Self {
            name: id.name.to_string(),
            version: id.version.to_string(),
            username: info.username.as_ref().map(Username::to_string),
            created: info.created.to_rfc3339_micros(),
            tfa: info.tfa,
            tfa_reason: info.tfa_reason.as_str(),
            credential: info.credential.as_str(),
            actor: info.actor.as_str(),
            revision,
            integrity: info.integrity.as_ref().map(|integrity| integrity.as_str().to_owned()),
        }
    }
}

impl CheckedEvent {
    /// The result in words. Names are quoted, because a producer may write any text into them.
    fn describe(&self) -> String {
        match self {
            Self::Row(row) => {
                let tfa = row.tfa.map_or("null".to_owned(), |tfa| tfa.to_string());
                format!(
                    "row: name {:?}, version {:?}, username {}, created {}, tfa {tfa} ({}), credential {}, actor {}, revision {}",
                    row.name,
                    row.version,
                    row.username.as_ref().map_or("null".to_owned(), |name| format!("{name:?}")),
                    row.created,
                    row.tfa_reason,
                    row.credential,
                    row.actor,
                    row.revision
                )
            }
            Self::Skipped(_) => "skipped: another event type, or a tombstone".to_owned(),
            Self::Rejected { code, stage, pointer, message } => {
                let place = pointer.as_deref().unwrap_or("the whole event");
                format!("{code} ({stage}) at {place}: {message}")
            }
        }
    }
}
