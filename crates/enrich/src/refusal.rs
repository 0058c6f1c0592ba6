//! The reasons to refuse a list or database. The texts are stable, and none quotes the file's content.

use std::path::PathBuf;

use crate::Source;

/// Why a file is not evidence (crates/enrich/README.md, Valid lists).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// The file has no address.
    #[error("holds no address")]
    Empty,
    /// A text without an exit list's lines.
    #[error("has no ExitAddress line (lists of one address a line belong in tor.snapshots)")]
    NoExitAddress,
    /// Several documents of CollecTor in one file, of which each would have a time of its own.
    #[error("holds several lists, of which each must be a file or a member of an archive")]
    Several,
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
    /// An HTML page, usually an error page.
    #[error("is an HTML page")]
    Html,
    /// A line that the format does not allow.
    #[error("has a line that its format does not allow")]
    BadLine,
    /// The end of the file is missing.
    #[error("is cut off")]
    Truncated,
    /// The file is larger than any list or database.
    #[error("is too large")]
    TooLarge,
    /// Fewer distinct addresses than `tor.min_addresses`.
    #[error("holds fewer addresses than tor.min_addresses")]
    TooFew,
    /// Fewer than half of the addresses of the preceding valid list.
    #[error("holds fewer than half of the addresses of the valid list before it")]
    Shrunk,
    /// The file's time is in the future.
    #[error("is more than an hour ahead of the clock")]
    AheadOfClock,
    /// A MaxMind database whose metadata, tree or records are damaged.
    #[error("is not an intact MaxMind database")]
    BadDatabase,
    /// A MaxMind database without a Tor exit: another product.
    #[error("names no Tor exit")]
    NoTorExit,
    /// An archive that cannot be unpacked completely.
    #[error("is not an intact archive")]
    BadArchive,
    /// The operating system does not allow the file or folder to be read.
    #[error("cannot be read")]
    Unreadable,
}

/// A file, or a member of an archive, that is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// The source to which the file belongs.
    pub source: Source,
    /// The path; for a member of an archive, the archive's path followed by the member's.
    pub path: PathBuf,
    /// The reason.
    pub reason: Refusal,
}
