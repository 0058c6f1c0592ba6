//! Stores the jobs of replays.

use async_trait::async_trait;
use model::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

use super::PostgresWriter;
use super::values::Time;
use crate::operator::{JobText, job};
use crate::{Error, Job, JobState, JobUpdate, Jobs, NewJob};

const SELECT: &str = "SELECT id, who, reason, what::text, position::text, counts::text, state, note, started, updated \
                      FROM replay_job";

#[async_trait]
impl Jobs for PostgresWriter {
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error> {
        // A runner creates one job at a time, so an equal request is a retry after a lost answer: return the same job.
        let sql = "WITH made AS (INSERT INTO replay_job (who, reason, what, position, counts, state, runner, started, updated) \
                   SELECT $1, $2, $3::text::jsonb, '{}', '{}', 'running', $4, $5, $5 \
                   WHERE NOT EXISTS (SELECT FROM replay_job WHERE runner = $4 AND started = $5) RETURNING id) \
                   SELECT id FROM made UNION ALL SELECT id FROM replay_job WHERE runner = $4 AND started = $5";
        let create = || {
            sqlx::query(sql)
                .bind(job.who.as_str())
                .bind(job.reason.as_deref())
                .bind(job.what.to_string())
                .bind(job.runner.as_str())
                .bind(Time(at))
        };
        let rows = self.connections.fetch_without_rows(create).await?;
        Ok(rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?)
    }

    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error> {
        let sql = "UPDATE replay_job SET position = $3::text::jsonb, counts = $4::text::jsonb, updated = $5, \
                   state = CASE WHEN state = 'running' THEN coalesce($6, state) ELSE state END, \
                   note = coalesce($7, note) WHERE id = $1 AND runner = $2 RETURNING state";
        let (position, counts, state, note) = update.columns()?;
        let save = || {
            sqlx::query(sql)
                .bind(update.id)
                .bind(update.runner.as_str())
                .bind(position.as_str())
                .bind(counts.as_str())
                .bind(Time(at))
                .bind(state)
                .bind(note)
        };
        let rows = self.connections.fetch_without_rows(save).await?;
        let state = rows.first().map(|row| row.try_get::<&str, _>(0)).transpose()?;
        state.map(JobState::parse).transpose()
    }

    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET runner = $2, state = 'running', note = NULL, updated = $3 \
                   WHERE id = $1 AND state <> 'done' RETURNING id";
        let take = || sqlx::query(sql).bind(id).bind(runner).bind(Time(at));
        Ok(!self.connections.fetch_without_rows(take).await?.is_empty())
    }

    async fn cancel(&self, id: i64, at: Timestamp) -> Result<bool, Error> {
        // A job that was cancelled at exactly this time was cancelled by an earlier try of this call, whose answer was lost.
        let sql = "UPDATE replay_job SET state = 'cancelled', note = 'cancelled', updated = $2 \
                   WHERE id = $1 AND (state IN ('running', 'failed') OR state = 'cancelled' AND updated = $2) \
                   RETURNING id";
        let cancel = || sqlx::query(sql).bind(id).bind(Time(at));
        Ok(!self.connections.fetch_without_rows(cancel).await?.is_empty())
    }

    async fn job(&self, id: i64) -> Result<Option<Job>, Error> {
        let sql = format!("{SELECT} WHERE id = $1");
        let find = || sqlx::query(AssertSqlSafe(sql.as_str())).bind(id);
        self.connections.fetch_without_rows(find).await?.first().map(read).transpose()
    }

    async fn jobs(&self, first: u32) -> Result<Vec<Job>, Error> {
        let sql = format!("{SELECT} ORDER BY id DESC LIMIT $1");
        let list = || sqlx::query(AssertSqlSafe(sql.as_str())).bind(i64::from(first));
        self.connections.fetch_without_rows(list).await?.iter().map(read).collect()
    }
}

fn read(row: &PgRow) -> Result<Job, Error> {
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
    let time = |index: usize| row.try_get_unchecked::<Time, _>(index).map(|time| time.0);
    job(columns, time(8)?, time(9)?)
}
