//! The jobs of replays, and rows put in the place of altered ones.

use async_trait::async_trait;
use model::{Publication, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

use super::PostgresWriter;
use super::values::Time;
use crate::merge::{COLUMNS, replacement};
use crate::operator::{JobText, job, write};
use crate::{Error, Job, JobState, JobUpdate, Jobs, NewJob};

const SELECT: &str = "SELECT id, who, reason, what::text, position::text, counts::text, state, note, started, updated \
                      FROM replay_job";

#[async_trait]
impl Jobs for PostgresWriter {
    async fn create(&self, job: &NewJob, at: Timestamp) -> Result<i64, Error> {
        let sql = "INSERT INTO replay_job (who, reason, what, position, counts, state, runner, started, updated) \
                   VALUES ($1, $2, $3::text::jsonb, '{}', '{}', 'running', $4, $5, $5) RETURNING id";
        let id = sqlx::query_scalar(sql)
            .bind(&job.who)
            .bind(&job.reason)
            .bind(job.what.to_string())
            .bind(&job.runner)
            .bind(Time(at))
            .fetch_one(&self.pool)
            .await?;
        Ok(id)
    }

    async fn save(&self, update: &JobUpdate, at: Timestamp) -> Result<Option<JobState>, Error> {
        let sql = "UPDATE replay_job SET position = $3::text::jsonb, counts = $4::text::jsonb, updated = $5, \
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
            .bind(Time(at))
            .bind(state)
            .bind(note)
            .fetch_optional(&self.pool)
            .await?;
        state.as_deref().map(JobState::parse).transpose()
    }

    async fn take_over(&self, id: i64, runner: &str, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET runner = $2, state = 'running', note = NULL, updated = $3 \
                   WHERE id = $1 AND state <> 'done'";
        let query = sqlx::query(sql).bind(id).bind(runner).bind(Time(at));
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn cancel(&self, id: i64, at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE replay_job SET state = 'cancelled', note = 'cancelled', updated = $2 \
                   WHERE id = $1 AND state IN ('running', 'failed')";
        let query = sqlx::query(sql).bind(id).bind(Time(at));
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
        let cast = |column: &str| match column {
            "tor_reason" | "tfa_reason" => format!("::{column}"),
            "credential" | "actor" => format!("::publication_{column}"),
            _ => String::new(),
        };
        let sql = replacement("IS NOT DISTINCT FROM", |place| {
            // The words come as text: an enumeration's own type would have to be looked up on each new connection.
            let column = COLUMNS[(place - 1) % COLUMNS.len()];
            let text = if cast(column).is_empty() { "" } else { "::text" };
            format!("${place}{text}{}", cast(column))
        });
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for row in [instead, seen] {
            let info = &row.info;
            query = query
                .bind(row.id.name.as_str())
                .bind(row.id.version.as_str())
                .bind(info.username.as_ref().map(model::Username::as_str))
                .bind(Time(info.created))
                .bind(info.tor)
                .bind(info.tfa)
                .bind(info.tor_reason.as_str())
                .bind(info.tfa_reason.as_str())
                .bind(row.tor_evidence_until.map(Time))
                .bind(info.tor_settled)
                .bind(info.credential.as_str())
                .bind(info.actor.as_str())
                .bind(row.revision.cast_signed())
                .bind(row.generation.cast_signed())
                .bind(&row.identity.0[..])
                .bind(info.disputed);
        }
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
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
