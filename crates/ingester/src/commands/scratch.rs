//! A command's temporary table in a file, for data that is too large for memory. It is deleted when the command ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use model::{Publication, PublicationId};
use store::{Cursor, Error, Filter, PublicationReader, PublicationTable, StoreSettings, Written};
use tempfile::TempDir;

use crate::pipeline::ports::RowStore;

/// The number of rows to read at once.
pub(crate) const PAGE: u32 = 1_000;

/// A temporary table with the same merge rule as every other. About 400 bytes of disk per publication, in the folder
/// given by `TMPDIR`.
pub(crate) struct Scratch {
    table: Arc<dyn PublicationTable>,
    rows: Arc<dyn PublicationReader>,
    folder: TempDir,
}

impl Scratch {
    /// Creates an empty table, which only this user can read.
    ///
    /// # Errors
    /// If the folder for temporary files is not writable.
    pub(crate) async fn create() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("publication-ingester.")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .with_context(|| {
                format!(
                    "making a temporary file in {}; set TMPDIR to a folder with room",
                    std::env::temp_dir().display()
                )
            })?;
        let url = format!("sqlite://{}", folder.path().join("rows.db").display());
        let settings = StoreSettings { url, ..StoreSettings::default() };
        let table = store::open(&settings)?.table;
        table.migrate().await.context("making a temporary table")?;
        Ok(Self { table, rows: store::open_reader(&settings)?, folder })
    }

    /// Merges rows into the table.
    ///
    /// # Errors
    /// [`Error::Fatal`] if the table cannot be written, for example because the disk is full.
    pub(crate) async fn record(&self, rows: &[Publication]) -> Result<(), Error> {
        let failed = |error: Error| {
            let folder = self.folder.path().display();
            Error::Fatal(format!("the temporary table in {folder}: {error}").into())
        };
        self.table.record(rows).await.map(drop).map_err(failed)
    }

    /// The next rows after the cursor `after`, newest first; sets `after` to the last of them. `None` if there are no
    /// more rows.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(crate) async fn page(
        &self,
        after: &mut Option<Cursor>,
    ) -> Result<Option<Vec<Publication>>, Error> {
        let rows = self.rows.list(&Filter::default(), after.as_ref(), PAGE).await?;
        Ok(page(rows, after))
    }

    /// Whether the table has each of these publications, in their order.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(crate) async fn has(&self, ids: &[PublicationId]) -> Result<Vec<bool>, Error> {
        Ok(self.rows.find(ids).await?.iter().map(Option::is_some).collect())
    }
}

/// Returns a page of a listing, and sets `after` to its last row. `None` if the page is empty: there are no more rows.
pub(crate) fn page(rows: Vec<Publication>, after: &mut Option<Cursor>) -> Option<Vec<Publication>> {
    let last = rows.last()?;
    *after = Some(Cursor { created: last.info.created, id: last.id.clone() });
    Some(rows)
}

/// Replaces the table at the end of the loop. Its results do not concern the real table, so they count as unchanged.
#[async_trait]
impl RowStore for Scratch {
    async fn write(&self, rows: &[Publication]) -> Result<Written, Error> {
        self.record(rows).await?;
        let recorded = store::Recorded { unchanged: rows.len() as u64, ..Default::default() };
        Ok(Written { recorded, refused: Vec::new() })
    }

    fn is_serial(&self) -> bool {
        true
    }
}
