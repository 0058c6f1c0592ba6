//! The operator's commands: replay, dead letters, reconcile, check, event check, migrate, tor.

pub(crate) mod bound;
pub(crate) mod check;
mod context;
mod counts;
mod dead_letter_source;
pub(crate) mod dead_letters;
pub(crate) mod event;
mod migrate;
pub(crate) mod output;
mod preview;
mod ranges;
pub(crate) mod reconcile;
mod record_file;
pub(crate) mod replay;
mod scratch;
pub(crate) mod tor;
mod waits;

pub use migrate::migrate;
