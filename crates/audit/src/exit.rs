//! The results of a run.

/// The result of a run. CI jobs depend on the codes (crates/audit/README.md, Exit codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was answered, and no rule of level error is broken.
    Clean,
    /// A rule of level error is broken.
    Broken,
    /// Wrong usage, or a policy or file that cannot be read.
    Usage,
    /// There is nothing to audit.
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
