//! What an operator runs by hand: replay, dead letters, reconcile, check, tor.

pub(crate) mod check;
mod context;
mod counts;
pub(crate) mod dead_letters;
mod difference;
pub(crate) mod output;
mod preview;
pub(crate) mod reconcile;
mod record_file;
pub(crate) mod replay;
pub(crate) mod tor;
