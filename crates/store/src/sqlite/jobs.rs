//! The jobs of replays, and rows put in the place of altered ones.

use async_trait::async_trait;
use model::{Publication, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};

use super::SqliteWriter;
use super::write::bind_row;
use crate::merge::replacement;
use crate::operator::{JobText, job, write};
use crate::{Error, Job, JobState, JobUpdate, Jobs, NewJob};

const SELECT: &str =
    "SELECT id, who, reason, what, position, counts, state, note, started, updated FROM replay_job";

#[async_trait]
impl Jobs for SqliteWriter {
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error> {
        let sql = "INSERT INTO replay_job (who, reason, what, position, counts, state, runner, started, updated) \
                   VALUES ($1, $2, $3, '{}', '{}', 'running', $4, $5, $5) RETURNING id";
        let id = sqlx::query_scalar(sql)
            .bind(&job.who)
            .bind(&job.reason)
            .bind(job.what.to_string())
            .bind(&job.runner)
            .bind(at.to_rfc3339_micros())
            .fetch_one(&self.pool)
            .await?;
        Ok(id)
    }

    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error> {
        let sql = "UPDATE replay_job SET position = $3, counts = $4, updated = $5, \
                   state = CASE WHEN state = 'running' THEN coalesce($6, state) ELSE state END, \
                   note = coalesce($7, note) WHERE id = $1 AND runner = $2 RETURNING state";
        let (state, note) = update
            .end
            .as_ref()
            .map_or((None, None), |(state, note)| (Some(state.as_str()), note.as_deref()));
        let state: Option<String> = sqlx::query_scalar(sql)
            .bind(update.id)
            .bind(&update.runner)
            .bind(write(&update.progress.position)?)
            .bind(write(&update.progress.counts)?)
            .bind(at.to_rfc3339_micros())
            .bind(state)
            .bind(note)
            .fetch_optional(&self.pool)
            .await?;
        state.as_deref().map(JobState::parse).transpose()
    }

    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET runner = $2, state = 'running', note = NULL, updated = $3 \
                   WHERE id = $1 AND state <> 'done'";
        let query = sqlx::query(sql).bind(id).bind(runner).bind(at.to_rfc3339_micros());
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn cancel(&self, id: i64, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET state = 'cancelled', note = 'cancelled', updated = $2 \
                   WHERE id = $1 AND state IN ('running', 'failed')";
        let query = sqlx::query(sql).bind(id).bind(at.to_rfc3339_micros());
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn job(&self, id: i64) -> Result<Option<Job>, Error> {
        let sql = format!("{SELECT} WHERE id = $1");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    async fn jobs(&self, first: u32) -> Result<Vec<Job>, Error> {
        let sql = format!("{SELECT} ORDER BY id DESC LIMIT $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(i64::from(first));
        query.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    async fn replace(&self, seen: &Publication, instead: &Publication) -> Result<bool, Error> {
        let sql = replacement("IS", |place| format!("?{place}"));
        let query = bind_row(bind_row(sqlx::query(AssertSqlSafe(sql)), instead), seen);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }
}

fn read(row: &SqliteRow) -> Result<Job, Error> {
    let text = |index: usize| row.try_get::<&str, _>(index);
    let maybe = |index: usize| row.try_get::<Option<&str>, _>(index);
    let columns = JobText {
        id: row.try_get(0)?,
        who: text(1)?,
        reason: maybe(2)?,
        what: text(3)?,
        position: text(4)?,
        counts: text(5)?,
        state: text(6)?,
        note: maybe(7)?,
    };
    let time = |text: &str| {
        Timestamp::parse(text).map_err(|error| Error::fatal(format!("a job's time: {error}")))
    };
    job(columns, time(text(8)?)?, time(text(9)?)?)
}
