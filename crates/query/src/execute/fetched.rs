//! What the store has answered, by the places of the plan.

use std::collections::HashMap;

use model::{History, PackageName, Publication, PublicationId, PublicationInfo};

use super::cursor;

/// What the store has answered.
#[derive(Default)]
pub(crate) struct Fetched {
    /// As long as the plan's keys.
    pub(super) rows: Vec<Option<Publication>>,
    /// As long as the plan's pages.
    pub(crate) pages: Vec<Listed>,
    /// As long as the plan's searches.
    pub(crate) searches: Vec<Vec<PackageName>>,
    pub(crate) histories: HashMap<PublicationId, Told>,
    /// Rows that were read for the histories.
    pub(crate) history_rows: u64,
}

/// A page of `publications`.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) rows: Vec<Publication>,
    pub(crate) has_next: bool,
    pub(crate) has_previous: bool,
}

impl Listed {
    /// Where the page behind this one begins.
    pub(crate) fn next(&self) -> Option<String> {
        let last = self.rows.last().filter(|_| self.has_next)?;
        Some(cursor::encode(last.info.created, &last.id))
    }
}

/// A history, with the row of the strongest publication where that was asked for.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) history: History,
    pub(crate) strongest: Option<PublicationInfo>,
}
