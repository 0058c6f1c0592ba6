//! How a run ended.

/// How a run ended; the numbers are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was answered, and no rule with the level error is broken.
    Clean,
    /// A rule with the level error is broken.
    Broken,
    /// Wrong usage, a policy or a file that cannot be read.
    Usage,
    /// Nothing to audit.
    Nothing,
    /// Not everything was answered.
    Unanswered,
}

impl Exit {
    /// The exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Broken => 1,
            Self::Usage => 2,
            Self::Nothing => 3,
            Self::Unanswered => 4,
        }
    }
}
