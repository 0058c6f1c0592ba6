//! What an operator's commands keep: the jobs of replays.

use std::collections::BTreeMap;

use async_trait::async_trait;
use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, Recorded};

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Somebody runs it, or was killed while doing so.
    Running,
    /// All of its range is written.
    Done,
    /// It ended with an error.
    Failed,
    /// It was told to stop.
    Cancelled,
}

impl JobState {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// The word in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == word);
        known.ok_or_else(|| Error::fatal("a replay job has a state that this build does not know"))
    }
}

/// What became of records; together they are the records read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobCounts {
    /// Rows that were not there before.
    pub inserted: u64,
    /// Rows that were there and changed.
    pub updated: u64,
    /// Records that changed nothing.
    pub unchanged: u64,
    /// Other event types and tombstones.
    pub skipped: u64,
    /// By code, records that are no publish events.
    pub rejected: BTreeMap<String, u64>,
}

impl JobCounts {
    /// Adds what a write did.
    pub fn add(&mut self, recorded: &Recorded) {
        self.inserted += recorded.inserted;
        self.updated += recorded.updated;
        self.unchanged += recorded.unchanged;
    }

    /// All that is no publish event.
    #[must_use]
    pub fn all_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// The records read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.inserted + self.updated + self.unchanged + self.skipped + self.all_rejected()
    }
}

/// How far a job is: everything before the position is written, and the counts are of exactly that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// By partition, the next offset.
    pub position: BTreeMap<i32, i64>,
    /// What became of the records before.
    pub counts: JobCounts,
}

/// A job to be.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// `user@host`.
    pub who: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// What is read, as the ingester wrote it down.
    pub what: serde_json::Value,
    /// The process that runs it.
    pub runner: String,
}

/// A job as it stands in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: i64,
    /// `user@host`.
    pub who: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// What is read, as the ingester wrote it down.
    pub what: serde_json::Value,
    /// How far it is.
    pub progress: JobProgress,
    /// How it stands.
    pub state: JobState,
    /// Why it ended, where it did not end with its range.
    pub note: Option<String>,
    /// When it was begun.
    pub started: Timestamp,
    /// When it was last heard of.
    pub updated: Timestamp,
}

/// What a runner says about its job.
#[derive(Debug, Clone)]
pub struct JobUpdate {
    /// The job.
    pub id: i64,
    /// Who says it.
    pub runner: String,
    /// How far it is.
    pub progress: JobProgress,
    /// How it ended and why; `None` while it runs.
    pub end: Option<(JobState, Option<String>)>,
}

/// Keeping jobs. Times are the caller's.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Writes a new job down as running and returns its number.
    ///
    /// # Errors
    /// As [`crate::PublicationWriter::record`], here and below.
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error>;

    /// Writes the progress down and returns how the job stands then: cancelled, when somebody cancelled it meanwhile.
    /// `None` when another runner has it, or nobody any more; nothing is written then.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error>;

    /// Gives a job that is not done to another runner; `false` when there is none.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error>;

    /// Cancels a job that is running or has failed; `false` when there is none. Its runner sees it when it saves.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn cancel(&self, id: i64, at: Timestamp) -> Result<bool, Error>;

    /// A job by its number.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn job(&self, id: i64) -> Result<Option<Job>, Error>;

    /// The newest jobs, newest first.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn jobs(&self, first: u32) -> Result<Vec<Job>, Error>;
}

/// The columns of a job as text in both databases, in the order in which [`job`] takes them; times stand behind.
pub(crate) struct JobText<'a> {
    pub(crate) id: i64,
    pub(crate) who: &'a str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) what: &'a str,
    pub(crate) position: &'a str,
    pub(crate) counts: &'a str,
    pub(crate) state: &'a str,
    pub(crate) note: Option<&'a str>,
}

pub(crate) fn job(text: JobText<'_>, started: Timestamp, updated: Timestamp) -> Result<Job, Error> {
    Ok(Job {
        id: text.id,
        who: text.who.to_owned(),
        reason: text.reason.map(str::to_owned),
        what: read(text.what)?,
        progress: JobProgress { position: read(text.position)?, counts: read(text.counts)? },
        state: JobState::parse(text.state)?,
        note: text.note.map(str::to_owned),
        started,
        updated,
    })
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Error> {
    serde_json::from_str(text)
        .map_err(|error| Error::fatal(format!("a replay job cannot be read: {error}")))
}

pub(crate) fn write(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::fatal(format!("a replay job cannot be written: {error}")))
}
