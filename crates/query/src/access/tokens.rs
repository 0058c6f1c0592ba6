//! API tokens, kept only as SHA-256 hashes. A token is random text of at least 32 bytes, so a plain hash is enough: it
//! can be neither guessed nor reversed.

use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use parking_lot::RwLock;
use service::config::ConfigError;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Client;
use crate::config::AccessSettings;

const FILE: &str = "access.tokens_file";
const LIST: &str = "access.tokens";
/// Longer tokens are refused without hashing.
const LONGEST: usize = 1_024;

/// Why a request is not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unauthenticated {
    /// The request has no `Authorization: Bearer`.
    Missing,
    /// The token is not in the list.
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

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    name: Arc<str>,
    hash: [u8; 32],
}

/// The known tokens. When there are none, every client is allowed.
#[derive(Debug)]
pub(crate) struct Tokens {
    listed: Vec<Token>,
    all: RwLock<Arc<[Token]>>,
}

impl Tokens {
    /// Reads the tokens from the file and from the list in the settings.
    pub(super) fn read(settings: &AccessSettings) -> Result<Self, ConfigError> {
        let listed = settings.tokens.iter().enumerate();
        let listed = listed.map(|(at, item)| token(item).ok_or_else(|| wrong(LIST, "item", at)));
        let tokens = Self { listed: listed.collect::<Result<_, _>>()?, all: RwLock::default() };
        tokens.read_again(&settings.tokens_file)?;
        Ok(tokens)
    }

    /// Reads the file again. Returns whether a token changed. On an error the old tokens stay valid.
    pub(super) fn read_again(&self, file: &Path) -> Result<bool, ConfigError> {
        let mut tokens = if file.as_os_str().is_empty() { Vec::new() } else { of_file(file)? };
        tokens.extend_from_slice(&self.listed);
        let mut all = self.all.write();
        let changed = **all != *tokens;
        *all = tokens.into();
        Ok(changed)
    }

    fn all(&self) -> Arc<[Token]> {
        self.all.read().clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// The name of a token's owner.
    pub(crate) fn name(&self, client: Client) -> Option<Arc<str>> {
        let Client::Token(id) = client else { return None };
        self.all().iter().find(|token| token.id() == id).map(|token| token.name.clone())
    }

    /// The owner of the request's token.
    pub(crate) fn owner(&self, headers: &HeaderMap) -> Result<Client, Unauthenticated> {
        let given = bearer(headers).ok_or(Unauthenticated::Missing)?;
        if given.len() > LONGEST {
            return Err(Unauthenticated::Unknown);
        }
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        // Compare every token in constant time, so that the response time tells nothing about a token.
        let found = self.all().iter().fold(None, |found, token| {
            if token.hash.ct_eq(&given).into() { Some(token.id()) } else { found }
        });
        found.map(Client::Token).ok_or(Unauthenticated::Unknown)
    }
}

impl Token {
    /// The client id: the first eight bytes of the hash. Two given tokens share it with probability 2⁻⁶⁴.
    fn id(&self) -> u64 {
        self.hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
    }
}

fn of_file(path: &Path) -> Result<Vec<Token>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError::invalid(FILE, format!("{} cannot be read: {error}", path.display()))
    })?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<Token> = lines
        .map(|(at, line)| token(line).ok_or_else(|| wrong(FILE, "line", at)))
        .collect::<Result<_, _>>()?;
    if tokens.is_empty() {
        // A truncated file must not open the service to everybody.
        return Err(ConfigError::invalid(FILE, "holds no token"));
    }
    Ok(tokens)
}

fn wrong(key: &'static str, part: &str, index: usize) -> ConfigError {
    // Do not quote the text, because an operator may have written a token in place of its hash.
    let number = index + 1;
    let message = format!("{part} {number} is not a name and a SHA-256 in 64 hex digits");
    ConfigError::invalid(key, message)
}

/// Parses `name hash`, where `hash` is the output of `sha256sum`, with or without its file name `-`.
fn token(text: &str) -> Option<Token> {
    let (name, digits) = text.split_once(char::is_whitespace)?;
    let mut hash = [0; 32];
    hex::decode_to_slice(digits.trim_end_matches('-').trim(), &mut hash).ok()?;
    Some(Token { name: name.into(), hash })
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

    fn owner(tokens: &Tokens, value: &str) -> Result<String, Unauthenticated> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        tokens.owner(&headers).map(|client| tokens.name(client).unwrap().to_string())
    }

    #[test]
    fn the_owner_of_a_token_is_found_by_its_hash() {
        let other = "0".repeat(64);
        let tokens = list(&[&format!("zero {other}"), &format!("ci {HASH}")]).unwrap();
        assert_eq!(owner(&tokens, "Bearer secret").as_deref(), Ok("ci"));
        assert_eq!(owner(&tokens, "bearer  secret").as_deref(), Ok("ci"));
        for wrong in ["Bearer Secret", &format!("Bearer {HASH}"), &format!("Bearer {:2000}", "x")] {
            assert_eq!(owner(&tokens, wrong), Err(Unauthenticated::Unknown), "{wrong}");
        }
        assert_eq!(owner(&tokens, "Basic secret"), Err(Unauthenticated::Missing));
        assert_eq!(tokens.owner(&HeaderMap::new()), Err(Unauthenticated::Missing));
        let as_printed = list(&[&format!("ci {HASH}  -")]).unwrap();
        assert_eq!(owner(&as_printed, "Bearer secret").as_deref(), Ok("ci"));
        assert!(list(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_hash_is_refused_without_being_quoted() {
        let signs = format!("ci {}", "+a".repeat(32));
        for item in ["secret", "ci secret", "ci", &format!("ci {}", "é".repeat(32)), &signs, ""] {
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

    #[test]
    fn a_file_that_changed_is_read_again_and_a_bad_one_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::fs::write(&path, format!("ci {HASH}\n")).unwrap();
        let settings = AccessSettings { tokens_file: path.clone(), ..AccessSettings::default() };
        let tokens = Tokens::read(&settings).unwrap();
        assert!(!tokens.read_again(&path).unwrap());
        std::fs::write(&path, format!("other {}\n", "0".repeat(64))).unwrap();
        assert!(tokens.read_again(&path).unwrap());
        assert_eq!(owner(&tokens, "Bearer secret"), Err(Unauthenticated::Unknown));
        std::fs::write(&path, format!("renamed {HASH}\n")).unwrap();
        assert!(tokens.read_again(&path).unwrap());
        for bad in ["", "ci secret\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(tokens.read_again(&path).is_err());
            assert_eq!(owner(&tokens, "Bearer secret").as_deref(), Ok("renamed"));
        }
    }
}
