//! Stores the jobs of replays.

use async_trait::async_trait;
use model::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{SqliteWriter, time};
use crate::operator::{JobText, job};
use crate::{Error, Job, JobState, JobUpdate, Jobs, NewJob};

const SELECT: &str =
    "SELECT id, who, reason, what, position, counts, state, note, started, updated FROM replay_job";

#[async_trait]
impl Jobs for SqliteWriter {
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error> {
        let make = "INSERT INTO replay_job (who, reason, what, position, counts, state, runner, started, updated) \
                    SELECT ?1, ?2, ?3, '{}', '{}', 'running', ?4, ?5, ?5 \
                    WHERE NOT EXISTS (SELECT 1 FROM replay_job WHERE runner = ?4 AND started = ?5)";
        // A runner creates one job at a time, so an equal request is a retry after a lost answer: return the same job.
        let find = "SELECT id FROM replay_job WHERE runner = ?1 AND started = ?2";
        let started = at.to_rfc3339_micros();
        let values = (&job.who, &job.reason, job.what.to_string(), &job.runner, &started);
        let create = |connection: &mut Connection| {
            connection.execute(make, values)?;
            Ok(connection.query_row(find, (&job.runner, &started), |row| row.get(0))?)
        };
        self.connection.with(create).await
    }

    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error> {
        let sql = "UPDATE replay_job SET position = ?3, counts = ?4, updated = ?5, \
                   state = CASE WHEN state = 'running' THEN coalesce(?6, state) ELSE state END, \
                   note = coalesce(?7, note) WHERE id = ?1 AND runner = ?2 RETURNING state";
        let (position, counts, state, note) = update.columns()?;
        let values =
            (update.id, &update.runner, position, counts, at.to_rfc3339_micros(), state, note);
        let saved = |connection: &mut Connection| {
            Ok(connection.query_row(sql, values, |row| row.get::<_, String>(0)).optional()?)
        };
        let state = self.connection.with(saved).await?;
        state.as_deref().map(JobState::parse).transpose()
    }

    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET runner = ?2, state = 'running', note = NULL, updated = ?3 \
                   WHERE id = ?1 AND state <> 'done'";
        let values = (id, runner, at.to_rfc3339_micros());
        self.connection.with(|connection| Ok(connection.execute(sql, values)? == 1)).await
    }

    async fn cancel(&self, id: i64, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET state = 'cancelled', note = 'cancelled', updated = ?2 \
                   WHERE id = ?1 AND (state IN ('running', 'failed') OR state = 'cancelled' AND updated = ?2)";
        let values = (id, at.to_rfc3339_micros());
        self.connection.with(|connection| Ok(connection.execute(sql, values)? == 1)).await
    }

    async fn job(&self, id: i64) -> Result<Option<Job>, Error> {
        let sql = format!("{SELECT} WHERE id = ?");
        let find = |connection: &mut Connection| {
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query([id])?;
            rows.next()?.map(read).transpose()
        };
        self.connection.with(find).await
    }

    async fn jobs(&self, first: u32) -> Result<Vec<Job>, Error> {
        let sql = format!("{SELECT} ORDER BY id DESC LIMIT ?");
        let list = |connection: &mut Connection| {
            let mut statement = connection.prepare(&sql)?;
            statement.query_and_then([first], read)?.collect()
        };
        self.connection.with(list).await
    }
}

fn read(row: &Row<'_>) -> Result<Job, Error> {
    let text = |index: usize| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
    let maybe = |index: usize| row.get_ref(index)?.as_str_or_null().map_err(rusqlite::Error::from);
    let columns = JobText {
        id: row.get(0)?,
        who: text(1)?,
        reason: maybe(2)?,
        what: text(3)?,
        position: text(4)?,
        counts: text(5)?,
        state: text(6)?,
        note: maybe(7)?,
    };
    job(columns, time(text(8)?)?, time(text(9)?)?)
}
