//! What can be wrong with a configuration, said without quoting values.

use std::fmt;
use std::path::PathBuf;

/// Where a key came from.
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
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file is no TOML.
    #[error("{} is not TOML at line {line}, column {column}: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What the parser expected.
        reason: String,
    },
    /// No such key.
    #[error("unknown key `{key}` in {origin}")]
    UnknownKey {
        /// The dotted path.
        key: String,
        /// Where it stands.
        origin: Origin,
    },
    /// An environment variable that would not be read, although it is meant for this program.
    #[error("the environment variable {name} is not read: its name must be {meant}")]
    Misnamed {
        /// As it stands.
        name: String,
        /// As it should be.
        meant: String,
    },
    /// A value of the wrong type, or one that is no value of its type.
    #[error("wrong value for `{key}` in {origin}: {expected}")]
    IllTyped {
        /// The dotted path.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// What the key takes.
        expected: String,
    },
    /// A value of the right type that cannot be used.
    #[error("wrong value for `{key}`: {reason}")]
    Invalid {
        /// The dotted path.
        key: String,
        /// What is wrong, without the value.
        reason: String,
    },
    /// The defaults in code cannot be written as TOML; a mistake in this program.
    #[error("the defaults are not TOML: {0}")]
    Default(String),
}

impl ConfigError {
    /// For [`Settings::check`](super::Settings::check): the key by its dotted path and what is wrong with its value.
    #[must_use]
    pub fn invalid(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), reason: reason.into() }
    }
}
