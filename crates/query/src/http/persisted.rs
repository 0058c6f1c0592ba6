//! Automatic persisted queries, as Apollo's clients speak them: a hash alone first, and where it is not known the hash
//! with its text.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Code, QueryError};
use crate::execute::Given;
use crate::generations::Generations;
use crate::json::{Json, field};

/// The SHA-256 of a document's text.
pub(super) type Hash = [u8; 32];

/// What a kept text takes beside its bytes.
const OVERHEAD: usize = 128;

/// Texts by their hashes. Only texts that are valid documents are kept, so that nobody fills it with anything else.
#[derive(Debug)]
pub(crate) struct PersistedQueries(Option<Generations<Hash, Arc<str>>>);

impl PersistedQueries {
    /// Keeps texts of so many bytes together; none at 0.
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self((bytes > 0).then(|| Generations::new(bytes)))
    }

    /// The text of that hash.
    pub(super) fn find(&self, hash: &Hash) -> Result<Arc<str>, QueryError> {
        // The messages are the ones that clients look for.
        let Some(texts) = &self.0 else {
            let message = "PersistedQueryNotSupported";
            return Err(QueryError::new(Code::PersistedQueryNotSupported, message));
        };
        texts
            .get(hash)
            .ok_or_else(|| QueryError::new(Code::PersistedQueryNotFound, "PersistedQueryNotFound"))
    }

    /// Keeps the text of a valid document.
    pub(super) fn keep(&self, hash: Hash, text: &str) {
        if let Some(texts) = &self.0
            && texts.get(&hash).is_none()
        {
            texts.insert(hash, text.into(), text.len() + OVERHEAD);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, Generations::bytes)
    }
}

/// Whether the text is the one of that hash.
pub(super) fn check(hash: &Hash, text: &str) -> Result<(), QueryError> {
    if Hash::from(Sha256::digest(text)) == *hash {
        return Ok(());
    }
    let message = "the SHA-256 of `query` is not `extensions.persistedQuery.sha256Hash`";
    Err(QueryError::new(Code::PersistedQueryMismatch, message))
}

/// The hash in `extensions.persistedQuery`, where there is one.
pub(super) fn hash(extensions: &Given<'_>) -> Result<Option<Hash>, QueryError> {
    let wrong = |what: &str| {
        QueryError::new(Code::BadRequest, format!("`extensions.persistedQuery` {what}"))
    };
    let persisted = match field(extensions, "persistedQuery") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Object(fields)) => fields,
        Some(_) => return Err(wrong("must be an object")),
    };
    if field(persisted, "version") != Some(&Json::Int(1)) {
        return Err(wrong("must have version 1"));
    }
    let digits = field(persisted, "sha256Hash").and_then(Json::as_str);
    match digits.and_then(decoded) {
        Some(hash) => Ok(Some(hash)),
        None => Err(wrong("must have sha256Hash, 64 hex digits")),
    }
}

fn decoded(digits: &str) -> Option<Hash> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// A text that came with the request, or that was kept.
pub(super) enum Text<'a> {
    Sent(Cow<'a, str>),
    Kept(Arc<str>),
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sent(text) => text,
            Self::Kept(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s '{__typename}' | sha256sum`
    const HASH: &str = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";

    fn read(extensions: &str) -> Result<Option<Hash>, QueryError> {
        let (value, _) = Json::read(extensions.as_bytes(), 100).unwrap();
        let Json::Object(fields) = value else { panic!("no object") };
        hash(&fields)
    }

    #[test]
    fn a_hash_is_read_and_held_against_its_text() {
        let hash = read(&format!(r#"{{"persistedQuery":{{"version":1,"sha256Hash":"{HASH}"}}}}"#));
        let hash = hash.unwrap().unwrap();
        assert!(check(&hash, "{__typename}").is_ok());
        let code = check(&hash, "{ __typename }").unwrap_err().code;
        assert_eq!(code, Code::PersistedQueryMismatch);
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"persistedQuery":null}"#).unwrap(), None);
        for wrong in [
            "1".to_owned(),
            "{}".to_owned(),
            format!(r#"{{"version":2,"sha256Hash":"{HASH}"}}"#),
            r#"{"version":1,"sha256Hash":"abc"}"#.to_owned(),
            format!(r#"{{"version":1,"sha256Hash":"{}"}}"#, "é".repeat(32)),
            r#"{"version":1,"sha256Hash":1}"#.to_owned(),
        ] {
            assert!(read(&format!(r#"{{"persistedQuery":{wrong}}}"#)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_store_is_bounded_and_can_be_off() {
        let store = PersistedQueries::new(10_000);
        for number in 0_u8..100 {
            store.keep([number; 32], &"x".repeat(400));
            assert!(store.bytes() <= 10_000);
        }
        assert!(store.find(&[99; 32]).is_ok());
        assert_eq!(store.find(&[0; 32]).unwrap_err().code, Code::PersistedQueryNotFound);
        let off = PersistedQueries::new(0);
        off.keep([1; 32], "{a}");
        assert_eq!(off.find(&[1; 32]).unwrap_err().code, Code::PersistedQueryNotSupported);
    }
}
