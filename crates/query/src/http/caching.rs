//! What others may keep of an answer, and for how long (RFC 9111), and answers that they have already (RFC 9110,
//! section 13).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};

use crate::config::CacheSettings;

/// Errors pass, and nobody is to be told them from a cache.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// `Cache-Control` of answers to GET requests, written once.
#[derive(Debug)]
pub(crate) struct Freshness {
    settled: HeaderValue,
    unsettled: HeaderValue,
}

impl Freshness {
    /// `private` where tokens are asked for: a cache that many share must not answer those without.
    pub(crate) fn new(settings: &CacheSettings, private: bool) -> Self {
        let scope = if private { "private" } else { "public" };
        let value = |age: Duration| {
            let text = format!("{scope}, max-age={}", age.as_secs());
            HeaderValue::try_from(text).unwrap_or(NO_STORE)
        };
        Self {
            settled: value(settings.settled_max_age),
            unsettled: value(settings.unsettled_max_age),
        }
    }

    pub(super) fn of(&self, settled: bool) -> HeaderValue {
        if settled { self.settled.clone() } else { self.unsettled.clone() }
    }
}

/// The tag of an answer: of its media type and its bytes.
pub(super) fn tag(content_type: &str, body: &str) -> HeaderValue {
    let digest = Sha256::new().chain_update(content_type).chain_update(body).finalize();
    let mut text = String::with_capacity(34);
    text.push('"');
    for byte in digest.iter().take(16) {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('"');
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the client has the answer of this tag already.
pub(super) fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    // Weak or strong makes no difference here.
    tags.any(|known| {
        let known = known.trim_ascii();
        known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_again_in_every_spelling() {
        let own = tag("application/json", "{}");
        let text = own.to_str().unwrap().to_owned();
        assert_eq!(text.len(), 34);
        assert_ne!(own, tag("application/graphql-response+json", "{}"));
        assert_ne!(own, tag("application/json", "{ }"));
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            has(&headers, &own)
        };
        assert!(check(&text) && check(&format!("W/{text}")) && check("*"));
        assert!(check(&format!("\"other\", {text}")));
        assert!(!check("\"other\"") && !check("") && !has(&HeaderMap::new(), &own));
    }

    #[test]
    fn settled_answers_may_be_kept_longer() {
        let settings = CacheSettings::default();
        let open = Freshness::new(&settings, false);
        assert_eq!(open.of(true), "public, max-age=3600");
        assert_eq!(open.of(false), "public, max-age=30");
        assert_eq!(Freshness::new(&settings, true).of(true), "private, max-age=3600");
    }
}
