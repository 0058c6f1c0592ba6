//! Cross-origin requests: CORS headers for browsers, and the requests that are refused.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use service::config::ConfigError;
use tower_http::cors::{AllowOrigin, CorsLayer};

const ANY: &str = "*";

/// The origins whose pages may send requests.
#[derive(Debug)]
pub(crate) struct Origins {
    allowed: Vec<HeaderValue>,
    any: bool,
}

impl Origins {
    pub(super) fn new(origins: &[String]) -> Result<Self, ConfigError> {
        let mut allowed = Vec::new();
        for (index, origin) in origins.iter().enumerate() {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            let is_plain = !host.is_empty()
                && !host.contains(['/', '@', '*'])
                && !origin.contains(char::is_uppercase);
            let value = HeaderValue::from_str(origin).ok().filter(|_| is_plain || origin == ANY);
            allowed.push(value.ok_or_else(|| {
                let message = "is neither * nor an origin such as https://example.org, in lower case and without a path";
                ConfigError::invalid(format!("access.cors_origins[{index}]"), message)
            })?);
        }
        let any = origins.iter().any(|origin| origin == ANY);
        Ok(Self { allowed, any })
    }

    /// The CORS layer for the allowed origins. `None` when no other origin is allowed.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        if self.allowed.is_empty() {
            return None;
        }
        let origins = if self.any {
            AllowOrigin::any()
        } else {
            AllowOrigin::list(self.allowed.iter().cloned())
        };
        let exposed = ["etag", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id"];
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([
                header::ACCEPT,
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header::IF_NONE_MATCH,
                HeaderName::from_static("x-request-id"),
            ])
            .expose_headers(exposed.map(HeaderName::from_static))
            // A day; browsers cap it at two hours.
            .max_age(Duration::from_secs(86_400));
        Some(layer)
    }

    /// Whether the request was sent by a page that is not allowed. Browsers say so in `Sec-Fetch-Site`. Old browsers,
    /// and browsers that reach the daemon without TLS, leave it out; then `Origin` is compared. Navigation by a link to
    /// a GET request is allowed, because the linking page cannot read the answer.
    pub(crate) fn refuses(&self, method: &Method, headers: &HeaderMap) -> bool {
        let says = |name: &str, word: &str| headers.get(name).is_some_and(|value| value == word);
        let is_navigation = *method != Method::POST
            && says("sec-fetch-mode", "navigate")
            && says("sec-fetch-dest", "document");
        let is_cross_site = match headers.get("sec-fetch-site") {
            Some(site) => site == "cross-site" && !is_navigation,
            None => is_of_another_host(headers),
        };
        let origin = headers.get(header::ORIGIN);
        let is_allowed = self.any || origin.is_some_and(|origin| self.allowed.contains(origin));
        is_cross_site && !is_allowed
    }
}

/// Whether `Origin` names another host than `Host` does. Schemes are not compared, because behind a TLS proxy the
/// daemon does not know its own.
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

    fn refuses(origins: &Origins, headers: &HeaderMap) -> bool {
        let get = origins.refuses(&Method::GET, headers);
        assert_eq!(get, origins.refuses(&Method::POST, headers));
        get
    }

    #[test]
    fn who_follows_a_link_is_let_in() {
        let none = Origins::new(&[]).unwrap();
        let link = headers(&[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ]);
        assert!(!none.refuses(&Method::GET, &link));
        assert!(none.refuses(&Method::POST, &link), "a form");
        let mut frame = link.clone();
        frame.insert("sec-fetch-dest", HeaderValue::from_static("iframe"));
        assert!(none.refuses(&Method::GET, &frame));
    }

    #[test]
    fn pages_of_other_sites_are_refused_unless_their_origin_is_allowed() {
        let cross = |origin| headers(&[("sec-fetch-site", "cross-site"), ("origin", origin)]);
        let none = Origins::new(&[]).unwrap();
        let one = Origins::new(&["https://a.example".into()]).unwrap();
        let all = Origins::new(&["*".into()]).unwrap();
        let ours = cross("https://a.example");
        let theirs = cross("https://b.example");
        assert!(refuses(&none, &ours) && !refuses(&one, &ours) && !refuses(&all, &ours));
        assert!(refuses(&one, &theirs) && !refuses(&all, &theirs));
        assert!(refuses(&one, &headers(&[("sec-fetch-site", "cross-site")])));
        for site in ["same-origin", "same-site", "none"] {
            assert!(!refuses(&none, &headers(&[("sec-fetch-site", site)])), "{site}");
        }
    }

    #[test]
    fn without_word_of_the_site_the_origin_must_be_this_host() {
        let none = Origins::new(&[]).unwrap();
        let from = |origin| headers(&[("origin", origin), ("host", "a.example:8080")]);
        assert!(!refuses(&none, &headers(&[("host", "a.example")])), "no page");
        assert!(!refuses(&none, &from("http://a.example:8080")));
        assert!(!refuses(&none, &from("https://A.example:8080")));
        for origin in ["https://b.example", "http://a.example", "http://a.example:8081", "null", ""]
        {
            assert!(refuses(&none, &from(origin)), "{origin}");
        }
        assert!(refuses(&none, &headers(&[("origin", "http://a.example")])), "no host");
        assert!(!refuses(
            &Origins::new(&["https://b.example".into()]).unwrap(),
            &from("https://b.example")
        ));
        assert!(!refuses(&Origins::new(&["*".into()]).unwrap(), &from("null")));
        let mut renamed = from("https://b.example");
        renamed.insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
        assert!(!refuses(&none, &renamed), "a proxy put its own name for the host");
    }

    #[test]
    fn what_is_not_an_origin_is_refused() {
        for origin in [
            "example.org",
            "https://example.org/",
            "https://Example.org",
            "null",
            "",
            "https://",
            "https://u:p@h",
            "https://*.example.org",
        ] {
            assert!(Origins::new(&[origin.into()]).is_err(), "{origin}");
        }
    }
}
