//! Pages of other origins: what their browsers are told, and which of their requests are refused.

use axum::http::{HeaderMap, HeaderValue, header};
use service::config::ConfigError;

const KEY: &str = "access.cors_origins";

/// What a page may read of an answer beside its body.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("etag, ratelimit, ratelimit-policy, retry-after, x-request-id");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
const HEADERS: HeaderValue =
    HeaderValue::from_static("accept, authorization, content-type, if-none-match, x-request-id");
/// A day; browsers keep it for two hours at most.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The origins whose pages may ask.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
}

impl Cors {
    pub(super) fn new(origins: &[String]) -> Result<Self, ConfigError> {
        let wrong = || {
            let what = "has what is neither * nor an origin such as https://example.org, in lower case and without a path";
            ConfigError::invalid(KEY, what)
        };
        let mut own = Vec::new();
        for origin in origins {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            let plain =
                !host.is_empty() && !host.contains('/') && !origin.contains(char::is_uppercase);
            if origin != "*" && !plain {
                return Err(wrong());
            }
            own.push(HeaderValue::from_str(origin).map_err(|_| wrong())?);
        }
        Ok(Self { any: own.contains(&ANY), origins: own })
    }

    /// Whether any page of another origin may ask, so that answers differ by `Origin`.
    pub(crate) const fn is_on(&self) -> bool {
        !self.origins.is_empty()
    }

    /// What `Access-Control-Allow-Origin` says to this request, where its origin may ask.
    pub(crate) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        if self.any {
            return Some(ANY);
        }
        self.origins.contains(origin).then(|| origin.clone())
    }

    /// Whether a request was sent by a page that may not: browsers say so by `Sec-Fetch-Site`, and nobody else does.
    pub(crate) fn refuses(&self, headers: &HeaderMap) -> bool {
        let cross = headers.get("sec-fetch-site").is_some_and(|value| value == "cross-site");
        cross && !self.any && self.allowed(headers).is_none()
    }

    /// Adds what lets the page read the answer.
    pub(crate) fn mark(&self, answer: &mut HeaderMap, allowed: HeaderValue) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }

    /// Adds what a browser asks for before it sends a page's request.
    pub(crate) fn mark_preflight(&self, answer: &mut HeaderMap, allowed: HeaderValue) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn pages_of_other_sites_are_refused_unless_their_origin_is_allowed() {
        let cross = |origin| headers(&[("sec-fetch-site", "cross-site"), ("origin", origin)]);
        let none = Cors::new(&[]).unwrap();
        let one = Cors::new(&["https://a.example".into()]).unwrap();
        let all = Cors::new(&["*".into()]).unwrap();
        let ours = cross("https://a.example");
        let theirs = cross("https://b.example");
        assert!(none.refuses(&ours) && !one.refuses(&ours) && !all.refuses(&ours));
        assert!(one.refuses(&theirs) && !all.refuses(&theirs));
        assert_eq!(one.allowed(&ours).unwrap(), "https://a.example");
        assert_eq!(all.allowed(&theirs).unwrap(), "*");
        assert_eq!(one.allowed(&theirs), None);
        assert!(one.refuses(&headers(&[("sec-fetch-site", "cross-site")])));
        for site in ["same-origin", "same-site", "none"] {
            assert!(!none.refuses(&headers(&[("sec-fetch-site", site)])), "{site}");
        }
        assert!(!none.refuses(&headers(&[("origin", "https://a.example")])));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for origin in
            ["example.org", "https://example.org/", "https://Example.org", "null", "", "https://"]
        {
            assert!(Cors::new(&[origin.into()]).is_err(), "{origin}");
        }
    }
}
