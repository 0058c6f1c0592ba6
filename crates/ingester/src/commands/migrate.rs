//! `publication-ingester migrate`.

use std::sync::Arc;

use store::{PublicationTable as _, Retrying};

use crate::commands::waits::Waits;
use crate::settings::Settings;

/// Migrates the schema to the version of this build. Waits for the database, and for another process that writes to it.
///
/// # Errors
/// When the database cannot be used.
pub async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let table = store::open(&settings.store)?.table;
    Ok(Retrying::new(table, Arc::new(Waits::default())).migrate().await?)
}
