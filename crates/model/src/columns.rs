//! The columns of a row, listed once for the databases, the commands that print rows, and their tests.

use std::fmt;

use crate::{Integrity, Publication, Timestamp, Username};

/// The number of columns of a row.
pub const COLUMN_COUNT: usize = 17;

/// The columns' names, the primary key first, in the order of [`Publication::columns`].
pub const COLUMNS: [&str; COLUMN_COUNT] = [
    "name",
    "version",
    "username",
    "created",
    "tor",
    "tfa",
    "tor_reason",
    "tfa_reason",
    "tor_evidence_until",
    "tor_settled",
    "credential",
    "actor",
    "revision",
    "generation",
    "event_identity",
    "disputed",
    "integrity",
];

/// The value of a column. `None` is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnValue<'r> {
    /// A text.
    Text(Option<&'r str>),
    /// A time.
    Time(Option<Timestamp>),
    /// A flag.
    Flag(Option<bool>),
    /// A word, and its index in its enumeration.
    Word(&'static str, u8),
    /// A number, 0 to 2³¹−1.
    Number(u32),
    /// Bytes.
    Bytes(&'r [u8]),
}

impl Publication {
    /// The values of the row, in the order of [`COLUMNS`].
    #[must_use]
    pub fn columns(&self) -> [ColumnValue<'_>; COLUMN_COUNT] {
        use ColumnValue::{Bytes, Flag, Number, Text, Time, Word};
        let info = &self.info;
        [
            Text(Some(self.id.name.as_str())),
            Text(Some(self.id.version.as_str())),
            Text(info.username.as_ref().map(Username::as_str)),
            Time(Some(info.created)),
            Flag(info.tor),
            Flag(info.tfa),
            Word(info.tor_reason.as_str(), info.tor_reason as u8),
            Word(info.tfa_reason.as_str(), info.tfa_reason as u8),
            Time(self.tor_evidence_until),
            Flag(Some(info.tor_settled)),
            Word(info.credential.as_str(), info.credential as u8),
            Word(info.actor.as_str(), info.actor as u8),
            Number(self.revision),
            Number(self.generation),
            Bytes(&self.identity.0),
            Flag(Some(info.disputed)),
            Text(info.integrity.as_ref().map(Integrity::as_str)),
        ]
    }
}

/// The value for people: `null`, times with microseconds, bytes in hexadecimal digits.
impl fmt::Display for ColumnValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(Some(text)) => f.write_str(text),
            Self::Time(Some(time)) => time.fmt(f),
            Self::Flag(Some(flag)) => flag.fmt(f),
            Self::Word(word, _) => f.write_str(word),
            Self::Number(number) => number.fmt(f),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Text(None) | Self::Time(None) | Self::Flag(None) => f.write_str("null"),
        }
    }
}
