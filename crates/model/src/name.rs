//! Names, versions and user names: checked once, then kept byte for byte (crates/model/README.md, Publish event).

use std::fmt;

/// The text is not a name: empty, too long, or with characters that no registry allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text is empty.
    #[error("empty")]
    Empty,
    /// The text has more bytes than the limit.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// A Unicode control character.
    #[error("contains a control character")]
    Control,
    /// Unicode white space at the start or the end.
    #[error("begins or ends with white space")]
    OuterWhiteSpace,
}

fn check(text: &str, max_bytes: usize) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > max_bytes {
        return Err(InvalidName::TooLong(max_bytes));
    }
    // Nearly every name is visible ASCII, for which one pass over the bytes is enough.
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidName::Control);
    }
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return Err(InvalidName::OuterWhiteSpace);
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, max $max:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The maximum length, in bytes.
            pub const MAX_BYTES: usize = $max;

            /// Checks the text and keeps it byte for byte, never lower-cased.
            ///
            /// # Errors
            /// [`InvalidName`] when it is empty, too long, or has control characters or outer white space.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }

            /// Checks the text without keeping it.
            ///
            /// # Errors
            /// As [`Self::new`].
            pub fn check(text: &str) -> Result<(), InvalidName> {
                check(text, Self::MAX_BYTES)
            }

            /// The unchanged text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// A package's name with its namespace, for npm `name` or `@scope/name`; 1 to 512 bytes.
    PackageName, max 512;
    /// A package's version; 1 to 256 bytes.
    PackageVersion, max 256;
    /// The name of the account or workflow that published; 1 to 256 bytes.
    Username, max 256;
    /// The digest of the published artifact, as Subresource Integrity writes it (`sha512-…`); 1 to 1,024 bytes.
    Integrity, max 1_024;
}

impl PackageVersion {
    /// Wraps a text that was checked before.
    pub(crate) fn checked(text: &str) -> Self {
        Self(text.into())
    }
}

/// The primary key of a publication: a package's name and version, which are published only once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicationId {
    /// The package's name.
    pub name: PackageName,
    /// The version.
    pub version: PackageVersion,
}

impl PublicationId {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`InvalidName`] of the first invalid part.
    pub fn new(name: &str, version: &str) -> Result<Self, InvalidName> {
        Ok(Self { name: PackageName::new(name)?, version: PackageVersion::new(version)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_names_byte_for_byte() {
        for name in ["pg", "JSONStream", "@scope/x", "~'!()*", "a b", "пакет", "e\u{301}"] {
            assert_eq!(PackageName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn bounds_are_inclusive() {
        assert!(PackageName::new(&"a".repeat(512)).is_ok());
        assert_eq!(PackageName::new(&"a".repeat(513)), Err(InvalidName::TooLong(512)));
        assert!(PackageVersion::new(&"1".repeat(256)).is_ok());
        assert_eq!(PackageVersion::new(&"1".repeat(257)), Err(InvalidName::TooLong(256)));
        assert_eq!(Username::new(""), Err(InvalidName::Empty));
        // Each letter has two bytes, because the limit counts bytes.
        assert_eq!(Username::new(&"é".repeat(129)), Err(InvalidName::TooLong(256)));
    }

    #[test]
    fn refuses_control_characters_and_outer_white_space() {
        for text in ["a\0b", "a\nb", "a\u{7f}", "a\u{85}b"] {
            assert_eq!(PackageName::new(text), Err(InvalidName::Control), "{text:?}");
        }
        for text in [" a", "a ", "\u{a0}a", "a\u{3000}", "\u{2003}"] {
            assert_eq!(PackageName::new(text), Err(InvalidName::OuterWhiteSpace), "{text:?}");
        }
    }
}
