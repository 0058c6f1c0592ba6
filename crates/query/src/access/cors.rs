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

    /// Whether a request was sent by a page that may not. Browsers say by `Sec-Fetch-Site` whose page it is; those that
    /// do not, for their age or because the daemon is reached without TLS, say by `Origin` where it came from.
    pub(crate) fn refuses(&self, headers: &HeaderMap) -> bool {
        let cross = match headers.get("sec-fetch-site") {
            Some(site) => site == "cross-site",
            None => is_of_another_host(headers),
        };
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

/// Whether there is an `Origin`, and of another host than the request was sent to. The schemes are not compared: behind
/// a proxy that speaks TLS the daemon does not know its own.
fn is_of_another_host(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    let Some(origin) = text(header::ORIGIN) else { return false };
    let own = text(header::HOST).unwrap_or("");
    !origin.split_once("://").is_some_and(|(_, host)| host.eq_ignore_ascii_case(own))
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
    }

    #[test]
    fn without_word_of_the_site_the_origin_must_be_this_host() {
        let none = Cors::new(&[]).unwrap();
        let from = |origin| headers(&[("origin", origin), ("host", "a.example:8080")]);
        assert!(!none.refuses(&headers(&[("host", "a.example")])), "no page");
        assert!(!none.refuses(&from("http://a.example:8080")));
        assert!(!none.refuses(&from("https://A.example:8080")));
        for origin in ["https://b.example", "http://a.example", "http://a.example:8081", "null", ""]
        {
            assert!(none.refuses(&from(origin)), "{origin}");
        }
        assert!(none.refuses(&headers(&[("origin", "http://a.example")])), "no host");
        assert!(
            !Cors::new(&["https://b.example".into()]).unwrap().refuses(&from("https://b.example"))
        );
        assert!(!Cors::new(&["*".into()]).unwrap().refuses(&from("null")));
        let mut renamed = from("https://b.example");
        renamed.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert!(!none.refuses(&renamed), "a proxy put its own name for the host");
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
