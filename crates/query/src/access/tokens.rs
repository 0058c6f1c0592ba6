//! API tokens, of which only SHA-256 hashes are kept. A token is a random text of 32 bytes or more, so that a plain
//! hash of it can be neither guessed nor turned back.

use axum::http::{HeaderMap, header};
use service::config::ConfigError;
use sha2::{Digest, Sha256};

use crate::config::AccessSettings;

const FILE: &str = "access.tokens_file";
const LIST: &str = "access.tokens";
/// Longer ones are not hashed: a head may have 64 KiB.
const LONGEST: usize = 1_024;

/// Why a request has no owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unauthenticated {
    /// It has no `Authorization: Bearer`.
    Missing,
    /// Its token is none of ours.
    Unknown,
}

impl Unauthenticated {
    /// The value of `WWW-Authenticate` (RFC 6750, section 3).
    pub(crate) const fn challenge(self) -> &'static str {
        match self {
            Self::Missing => r#"Bearer realm="publications""#,
            Self::Unknown => r#"Bearer realm="publications", error="invalid_token""#,
        }
    }

    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Missing => "an API token is needed: Authorization: Bearer TOKEN",
            Self::Unknown => "the API token is not known",
        }
    }
}

#[derive(Debug)]
struct Token {
    name: String,
    hash: [u8; 32],
}

/// The known tokens; none where everybody may ask.
#[derive(Debug)]
pub(super) struct Tokens(Vec<Token>);

impl Tokens {
    /// From the file and the list of the settings together.
    pub(super) fn read(settings: &AccessSettings) -> Result<Self, ConfigError> {
        let mut tokens = Vec::new();
        if !settings.tokens_file.as_os_str().is_empty() {
            let text = std::fs::read_to_string(&settings.tokens_file).map_err(|error| {
                let path = settings.tokens_file.display();
                ConfigError::invalid(FILE, format!("{path} cannot be read: {error}"))
            })?;
            for (index, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                tokens.push(token(line).ok_or_else(|| wrong(FILE, "line", index))?);
            }
            if tokens.is_empty() {
                // A file cut to nothing must not open the service to everybody.
                return Err(ConfigError::invalid(FILE, "holds no token"));
            }
        }
        for (index, item) in settings.tokens.iter().enumerate() {
            tokens.push(token(item).ok_or_else(|| wrong(LIST, "item", index))?);
        }
        Ok(Self(tokens))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn name(&self, index: u32) -> Option<&str> {
        self.0.get(index as usize).map(|token| token.name.as_str())
    }

    /// The place of the token that the request carries.
    pub(super) fn owner(&self, headers: &HeaderMap) -> Result<u32, Unauthenticated> {
        let given = bearer(headers).ok_or(Unauthenticated::Missing)?;
        if given.len() > LONGEST {
            return Err(Unauthenticated::Unknown);
        }
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        let mut found = None;
        // Every token is compared to its end, so that the time tells nothing about any of them.
        for (index, token) in (0_u32..).zip(&self.0) {
            if differing_bits(&token.hash, &given) == 0 {
                found = Some(index);
            }
        }
        found.ok_or(Unauthenticated::Unknown)
    }
}

fn differing_bits(one: &[u8; 32], other: &[u8; 32]) -> u8 {
    let bits = one.iter().zip(other).fold(0, |bits, (one, other)| bits | (one ^ other));
    std::hint::black_box(bits)
}

fn wrong(key: &'static str, part: &str, index: usize) -> ConfigError {
    // The text is not quoted: somebody may have written a token where its hash belongs.
    let number = index + 1;
    ConfigError::invalid(key, format!("{part} {number} is no name and SHA-256 in 64 hex digits"))
}

/// `name hash`, the hash being what `sha256sum` prints.
fn token(text: &str) -> Option<Token> {
    let (name, digits) = text.split_once(char::is_whitespace)?;
    let digits = digits.trim();
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(Token { name: name.to_owned(), hash })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::path::PathBuf;

    /// `printf %s secret | sha256sum`
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn list(items: &[&str]) -> Result<Tokens, ConfigError> {
        let tokens = items.iter().map(|item| (*item).to_owned()).collect();
        Tokens::read(&AccessSettings { tokens, ..AccessSettings::default() })
    }

    #[test]
    fn the_owner_of_a_token_is_found_by_its_hash() {
        let other = "0".repeat(64);
        let tokens = list(&[&format!("zero {other}"), &format!("ci {HASH}")]).unwrap();
        let owner = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            tokens.owner(&headers).map(|index| tokens.name(index).unwrap().to_owned())
        };
        assert_eq!(owner("Bearer secret").as_deref(), Ok("ci"));
        assert_eq!(owner("bearer  secret").as_deref(), Ok("ci"));
        assert_eq!(owner("Bearer Secret"), Err(Unauthenticated::Unknown));
        assert_eq!(owner(&format!("Bearer {HASH}")), Err(Unauthenticated::Unknown));
        assert_eq!(owner(&format!("Bearer {}", "x".repeat(2_000))), Err(Unauthenticated::Unknown));
        assert_eq!(owner("Basic secret"), Err(Unauthenticated::Missing));
        assert_eq!(tokens.owner(&HeaderMap::new()), Err(Unauthenticated::Missing));
        assert!(list(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_hash_is_refused_without_being_quoted() {
        for item in ["secret", "ci secret", "ci", &format!("ci {}", "é".repeat(32)), ""] {
            let error = list(&[item]).unwrap_err().to_string();
            assert!(error.contains("access.tokens") && !error.contains("secret"), "{error}");
        }
        let file = |path: PathBuf| {
            let settings = AccessSettings { tokens_file: path, ..AccessSettings::default() };
            Tokens::read(&settings).unwrap_err().to_string()
        };
        assert!(file("/no/such/file".into()).contains("access.tokens_file"));
        assert!(file("/dev/null".into()).contains("holds no token"));
    }
}
