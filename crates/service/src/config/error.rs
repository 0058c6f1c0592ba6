//! The errors of a configuration, without quoted values.

use std::fmt;
use std::path::PathBuf;

/// The source of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

/// A configuration that cannot be used; exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's message.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{} is not TOML at line {line}, column {column}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted in characters, from 1.
        column: usize,
        /// The parser's expectation.
        reason: String,
    },
    /// An unknown key.
    #[error("unknown key `{key}` in {origin}")]
    UnknownKey {
        /// The dotted path.
        key: String,
        /// The source of the key.
        origin: Origin,
    },
    /// An environment variable that is meant for this program but would be ignored.
    #[error("the environment variable {name} is not read: its name must be {meant}")]
    Misnamed {
        /// The variable's name.
        name: String,
        /// The correct name.
        meant: String,
    },
    /// An environment variable for this program whose value is not text.
    #[error("the environment variable {name} is not UTF-8")]
    NotText {
        /// The variable's name.
        name: String,
    },
    /// A value of the wrong type, or one that its type cannot represent.
    #[error("wrong value for `{key}` in {origin}: {expected}")]
    IllTyped {
        /// The dotted path.
        key: String,
        /// The source of the key.
        origin: Origin,
        /// The values that the key accepts.
        expected: String,
    },
    /// A value of the right type that cannot be used.
    #[error("wrong value for `{key}`: {reason}")]
    Invalid {
        /// The dotted path.
        key: String,
        /// The problem, without the value.
        reason: String,
    },
    /// The defaults in code cannot be written as TOML, which is a bug in this program.
    #[error("the defaults are not TOML: {0}")]
    Default(String),
}

impl ConfigError {
    /// The error for [`Settings::check`](super::Settings::check): the key's dotted path and the problem with its value.
    #[must_use]
    pub fn invalid(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), reason: reason.into() }
    }
}
