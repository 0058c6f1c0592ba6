//! The PostgreSQL adapter.

mod connections;
mod copy;
mod flights;
mod fresh;
mod jobs;
mod read;
mod row;
mod values;
mod write;

use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::StoreSettings;

pub use read::PostgresReader;
pub use write::PostgresWriter;

pub(crate) use crate::migrations::POSTGRES as MIGRATOR;

/// What every session is set to. Every statement here is keyed by a list of unknown length. With a generic plan and nested
/// loops it costs one index look-up a key whatever the list and the table; left to itself the planner reads the whole
/// table for a long list. A server looks for a client that is gone only where it is told to: else statements that were
/// given up go on, beside those that took their connections' places. Servers before PostgreSQL 14 do not know how, and
/// some platforms cannot; they do without.
const SESSION: &str = "SET client_min_messages = warning; SET plan_cache_mode = force_generic_plan; \
                       SET enable_hashjoin = off; SET enable_mergejoin = off; \
                       DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '1s', false); \
                       EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN END $$";

/// A pool that connects when first used.
fn pool(options: PgConnectOptions, settings: &StoreSettings) -> PgPool {
    PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.connect_timeout)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION).await.map(|_| ()) })
        })
        .connect_lazy_with(options)
}
