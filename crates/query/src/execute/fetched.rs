//! The results of the store, in the order of the plan.

use std::collections::HashMap;

use model::{History, PackageName, Publication, PublicationId, PublicationInfo};

use super::cursor;

/// The results of the store.
#[derive(Default)]
pub(crate) struct Fetched {
    /// One entry for each key of the plan.
    pub(super) rows: Vec<Option<Publication>>,
    /// One entry for each page of the plan.
    pub(crate) pages: Vec<Listed>,
    /// One entry for each search of the plan.
    pub(crate) searches: Vec<Vec<PackageName>>,
    pub(crate) histories: HashMap<PublicationId, FoundHistory>,
}

/// A page of `publications`.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) rows: Vec<Publication>,
    pub(crate) has_next: bool,
    pub(crate) has_previous: bool,
}

impl Listed {
    /// The cursor of the next page, if there is one.
    pub(crate) fn next(&self) -> Option<String> {
        let last = self.rows.last().filter(|_| self.has_next)?;
        Some(cursor::encode(last.info.created, &last.id))
    }
}

/// A history, and the row of its strongest publication when the request selects that.
#[derive(Debug)]
pub(crate) struct FoundHistory {
    pub(crate) history: History,
    pub(crate) strongest: Option<PublicationInfo>,
}
