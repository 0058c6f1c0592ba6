//! What the store has answered, by the places of the plan.

use std::collections::HashMap;

use model::{History, PackageName, Publication, PublicationId, PublicationInfo};

/// What the store has answered.
#[derive(Default)]
pub(crate) struct Fetched {
    /// As long as the plan's keys.
    pub(super) rows: Vec<Option<Publication>>,
    /// As long as the plan's pages.
    pub(super) pages: Vec<Listed>,
    /// As long as the plan's searches.
    pub(super) searches: Vec<Vec<PackageName>>,
    pub(super) histories: HashMap<PublicationId, Told>,
    /// Rows that were read for the histories.
    pub(crate) history_rows: u64,
}

/// A page of `publications`.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) rows: Vec<Publication>,
    pub(super) has_next: bool,
    pub(super) has_previous: bool,
}

/// A history, with the row of the strongest publication where that was asked for.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) history: History,
    pub(super) strongest: Option<PublicationInfo>,
}
