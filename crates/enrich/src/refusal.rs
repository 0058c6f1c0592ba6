//! Why a list or database is refused. The texts are stable, and none quotes what the file holds.

use std::path::PathBuf;

use crate::Source;

/// Why a file is no evidence (crates/enrich/README.md, Valid lists).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// No address at all.
    #[error("holds no address")]
    Empty,
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
    /// A page of the web, an error page as a rule.
    #[error("is an HTML page")]
    Html,
    /// A line that the format does not allow.
    #[error("has a line that its format does not allow")]
    BadLine,
    /// The end is missing.
    #[error("is cut off")]
    Cut,
    /// More bytes than any list or database has.
    #[error("is too large")]
    TooLarge,
    /// Fewer distinct addresses than `tor.min_addresses`.
    #[error("holds fewer addresses than tor.min_addresses")]
    TooFew,
    /// Fewer than half of the addresses of the valid list before it.
    #[error("holds fewer than half of the addresses of the valid list before it")]
    Shrunk,
    /// From the future.
    #[error("is more than an hour ahead of the clock")]
    AheadOfClock,
    /// A MaxMind database whose metadata, tree or records are damaged.
    #[error("is no intact MaxMind database")]
    BadDatabase,
    /// A MaxMind database without a Tor exit: another product.
    #[error("names no Tor exit")]
    NoTorExit,
    /// An archive that does not unpack whole.
    #[error("is no intact archive")]
    BadArchive,
    /// The operating system does not let it be read.
    #[error("cannot be read")]
    Unreadable,
}

/// A file, or a member of an archive, that is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Which source it was to be of.
    pub source: Source,
    /// Where it is; a member of an archive stands behind the archive's path.
    pub path: PathBuf,
    /// Why.
    pub reason: Refusal,
}
