//! Automatic persisted queries, as Apollo's clients use them: the client sends the hash alone, and after a miss the
//! hash with the text.

use std::sync::Arc;

use bytesize::ByteSize;
use serde::Deserialize;
use serde_json::value::RawValue;
use service::metrics::IntGauge;
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::error::{Code, QueryError};

/// The SHA-256 of a document's text.
pub(super) type Hash = [u8; 32];

/// Memory per cached text in addition to its bytes.
const OVERHEAD: usize = 128;

/// Cached texts by hash. Only valid documents are cached, so that nobody can fill the cache with other data.
pub(crate) struct PersistedQueries(Option<Cache<Hash, Arc<str>>>);

impl PersistedQueries {
    /// A cache of this capacity; 0 turns it off.
    pub(crate) fn new(capacity: ByteSize, gauge: IntGauge) -> Self {
        Self((capacity.as_u64() > 0).then(|| Cache::new(capacity, gauge)))
    }

    /// The text with this hash.
    pub(super) fn find(&self, hash: &Hash) -> Result<Arc<str>, QueryError> {
        // Clients compare these messages.
        let Some(texts) = &self.0 else {
            let message = "PersistedQueryNotSupported";
            return Err(QueryError::new(Code::PersistedQueryNotSupported, message));
        };
        let not_found = || QueryError::new(Code::PersistedQueryNotFound, "PersistedQueryNotFound");
        texts.get(hash).ok_or_else(not_found)
    }

    /// Caches the text of a valid document.
    pub(super) fn insert(&self, hash: Hash, text: &str) {
        if let Some(texts) = &self.0
            && texts.get(&hash).is_none()
        {
            texts.insert(hash, text.into(), text.len() + OVERHEAD);
        }
    }
}

/// Checks that the text has this hash.
pub(super) fn check(hash: &Hash, text: &str) -> Result<(), QueryError> {
    if Hash::from(Sha256::digest(text)) == *hash {
        return Ok(());
    }
    let message = "the SHA-256 of `query` is not `extensions.persistedQuery.sha256Hash`";
    Err(QueryError::new(Code::PersistedQueryMismatch, message))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extensions {
    persisted_query: Option<PersistedQuery>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistedQuery {
    version: u8,
    sha256_hash: String,
}

/// The hash in `extensions.persistedQuery`, if there is one.
pub(super) fn hash(extensions: &RawValue) -> Result<Option<Hash>, QueryError> {
    let wrong = || {
        let message =
            "`extensions.persistedQuery` must have version 1 and sha256Hash, 64 hex digits";
        QueryError::new(Code::BadRequest, message)
    };
    let read: Extensions = serde_json::from_str(extensions.get()).map_err(|_| wrong())?;
    let Some(given) = read.persisted_query else { return Ok(None) };
    let mut hash = [0; 32];
    hex::decode_to_slice(&given.sha256_hash, &mut hash).map_err(|_| wrong())?;
    if given.version == 1 { Ok(Some(hash)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s '{__typename}' | sha256sum`
    const HASH: &str = "ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38";

    fn read(extensions: &str) -> Result<Option<Hash>, QueryError> {
        hash(serde_json::from_str(extensions).unwrap())
    }

    #[test]
    fn a_hash_is_read_and_held_against_its_text() {
        let hash = read(&format!(r#"{{"persistedQuery":{{"version":1,"sha256Hash":"{HASH}"}}}}"#));
        let hash = hash.unwrap().unwrap();
        assert!(check(&hash, "{__typename}").is_ok());
        let code = check(&hash, "{ __typename }").unwrap_err().code();
        assert_eq!(code, Code::PersistedQueryMismatch);
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"persistedQuery":null,"other":{}}"#).unwrap(), None);
        for wrong in [
            "1".to_owned(),
            "{}".to_owned(),
            format!(r#"{{"version":2,"sha256Hash":"{HASH}"}}"#),
            r#"{"version":1,"sha256Hash":"abc"}"#.to_owned(),
            format!(r#"{{"version":1,"sha256Hash":"{}"}}"#, "é".repeat(32)),
            format!(r#"{{"version":1,"sha256Hash":"{}"}}"#, "+a".repeat(32)),
            r#"{"version":1,"sha256Hash":1}"#.to_owned(),
        ] {
            assert!(read(&format!(r#"{{"persistedQuery":{wrong}}}"#)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_store_is_bounded_and_can_be_off() {
        let gauge = IntGauge::new("bytes", "Bytes").unwrap();
        let store = PersistedQueries::new(ByteSize::b(10_000), gauge.clone());
        for number in 0_u8..100 {
            store.insert([number; 32], &"x".repeat(400));
            assert!((1..=10_000).contains(&gauge.get()));
        }
        assert!(store.find(&[99; 32]).is_ok());
        assert_eq!(store.find(&[0; 32]).unwrap_err().code(), Code::PersistedQueryNotFound);
        let off = PersistedQueries::new(ByteSize::b(0), gauge);
        off.insert([1; 32], "{a}");
        assert_eq!(off.find(&[1; 32]).unwrap_err().code(), Code::PersistedQueryNotSupported);
    }
}
