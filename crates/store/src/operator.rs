//! The stored state of an operator's commands: the jobs of replays.

use std::collections::BTreeMap;

use async_trait::async_trait;
use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, Recorded};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// A process runs the job, or was killed while it did.
    Running,
    /// All records of the job's range are written.
    Done,
    /// The job ended with an error.
    Failed,
    /// An operator cancelled the job.
    Cancelled,
}

impl JobState {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// The state's name in the table.
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

/// The results of the records read, by kind; their sum is the number of records read. A kind that an earlier build did not
/// store is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobCounts {
    /// Rows whose key was not in the table.
    pub inserted: u64,
    /// Rows that were in the table and changed.
    pub updated: u64,
    /// Records that changed nothing.
    pub unchanged: u64,
    /// Other event types and tombstones.
    pub skipped: u64,
    /// The number of rejected records, by rejection code.
    pub rejected: BTreeMap<String, u64>,
    /// The number of records of the range that were not read into the table, by reason. They are not among the records read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
}

impl JobCounts {
    /// Adds the result of a write.
    pub fn add(&mut self, recorded: &Recorded) {
        self.inserted += recorded.inserted;
        self.updated += recorded.updated;
        self.unchanged += recorded.unchanged;
    }

    /// The sum of the rejected records of all codes.
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

/// The progress of a job: every record before the position is written, and the counts cover exactly those records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobProgress {
    /// The next offset of each partition.
    pub position: BTreeMap<i32, i64>,
    /// The results of the records before the position.
    pub counts: JobCounts,
}

/// A job to be created.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// `user@host`.
    pub who: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The range to replay, as the ingester serialised it.
    pub what: serde_json::Value,
    /// The process that runs the job.
    pub runner: String,
}

/// A job as stored in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The job's number.
    pub id: i64,
    /// `user@host`.
    pub who: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The range to replay, as the ingester serialised it.
    pub what: serde_json::Value,
    /// The job's progress.
    pub progress: JobProgress,
    /// The job's state.
    pub state: JobState,
    /// The reason why the job ended before the end of its range.
    pub note: Option<String>,
    /// When the job was started.
    pub started: Timestamp,
    /// When the job was last updated.
    pub updated: Timestamp,
}

/// A runner's report about its job.
#[derive(Debug, Clone)]
pub struct JobUpdate {
    /// The job.
    pub id: i64,
    /// The process that reports.
    pub runner: String,
    /// The job's progress.
    pub progress: JobProgress,
    /// The final state and its reason; `None` while the job runs.
    pub end: Option<(JobState, Option<String>)>,
}

impl JobUpdate {
    /// The columns: position, counts, and at the end the state and its reason.
    pub(crate) fn columns(&self) -> Result<JobColumns<'_>, Error> {
        let JobProgress { position, counts } = &self.progress;
        let end = self.end.as_ref().map(|(state, note)| (state.as_str(), note.as_deref()));
        let (state, note) = end.unzip();
        Ok((write(position)?, write(counts)?, state, note.flatten()))
    }
}

type JobColumns<'u> = (String, String, Option<&'static str>, Option<&'u str>);

/// Stores the jobs of replays. The caller supplies the times.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Stores a new job as running and returns its number.
    ///
    /// # Errors
    /// As [`crate::PublicationWriter::record`], here and below.
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error>;

    /// Stores the progress and returns the job's state after that: cancelled if an operator cancelled the job meanwhile.
    /// Returns `None` and stores nothing if another runner has taken the job over, or if the job does not exist.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error>;

    /// Gives a job that is not done to another runner; `false` if there is no such job.
    ///
    /// # Errors
    /// As [`Jobs::create`].
    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error>;

    /// Cancels a job that is running or has failed; `false` if there is no such job. Its runner learns of it when it saves.
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

/// The text columns of a job in both databases, in the order of [`job`]'s fields; the two times come after them.
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

fn write(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::fatal(format!("a replay job cannot be written: {error}")))
}
