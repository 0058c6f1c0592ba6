//! The head of a request: client and media type. A request with an unacceptable head is refused here.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use service::connection::Peer;
use tokio::time::Instant;

use super::App;
use super::context::{Context, Media, rate_headers};
use super::response::Refusal;
use crate::error::{Code, QueryError};

/// Placeholder for an unknown peer; behind the listener the peer is always known.
const UNKNOWN_PEER: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl FromRequestParts<Arc<App>> for Context {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let media = negotiate(&head.headers).ok_or_else(|| {
            let message = "accept application/graphql-response+json or application/json";
            Refusal::from(QueryError::new(Code::NotAcceptable, message))
        })?;
        Self::admitted(head, app, media)
    }
}

impl Context {
    /// The context of a request for publications.
    pub(super) fn admitted(head: &Parts, app: &App, media: Media) -> Result<Self, Refusal> {
        let mut context = Self::of(head, app, media)?;
        // Charge before anything is read, so that a client with an empty bucket costs almost nothing. Charge also
        // before the token is checked, so that tokens cannot be guessed quickly.
        let owner = app.access.is_closed.then(|| app.access.tokens.owner(&head.headers));
        if let Some(Ok(owner)) = owner {
            context.client = owner;
        }
        context.charge(app)?;
        if let Some(Err(why)) = owner {
            let error = QueryError::new(Code::Unauthenticated, why.message());
            let challenge = HeaderValue::from_static(why.challenge());
            return Err(Refusal::from(error)
                .written_as(media)
                .with(header::WWW_AUTHENTICATE, challenge));
        }
        Ok(context)
    }

    /// The context of a request that needs no token. It is charged to the client's address.
    pub(super) fn open(head: &Parts, app: &App, media: Media) -> Result<Self, Refusal> {
        let context = Self::of(head, app, media)?;
        context.charge(app)?;
        Ok(context)
    }

    fn of(head: &Parts, app: &App, media: Media) -> Result<Self, Refusal> {
        let headers = &head.headers;
        if media == Media::Html && media_wanted(headers, "text/html").quality == 0 {
            let message = "accept text/html; the answer in JSON is at /graphql";
            return Err(Refusal::from(QueryError::new(Code::NotAcceptable, message)));
        }
        if app.access.origins.refuses(&head.method, headers) {
            let message = "requests from pages of other sites are refused (access.cors_origins)";
            let refusal = Refusal::from(QueryError::new(Code::CrossSite, message));
            return Err(refusal.written_as(media));
        }
        let peer = head.extensions.get::<Peer>().cloned();
        let address = peer.as_ref().map_or(UNKNOWN_PEER, |peer| peer.address);
        Ok(Self {
            media,
            client: app.access.address(headers, address),
            peer,
            is_get: head.method != Method::POST,
            takes_gzip: takes_gzip(headers),
            until: Instant::now() + app.settings.http.request_timeout,
            if_none_match: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
        })
    }

    /// Charges the one publication that every request costs.
    fn charge(&self, app: &App) -> Result<(), Refusal> {
        app.access.charge(self.client, 1).map_err(|error| {
            let headers = rate_headers(app, self.client);
            Refusal::from(error).written_as(self.media).with_all(headers)
        })
    }
}

/// How strongly a header prefers a value, in thousandths, and how specific its match is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    specificity: u8,
    quality: u16,
}

/// The media type that `Accept` prefers (RFC 9110, section 12.5.1); `None` when it accepts neither. Without the header,
/// or with only a wildcard match, it is JSON, which every client reads.
fn negotiate(headers: &HeaderMap) -> Option<Media> {
    let json = media_wanted(headers, "application/json");
    let graphql = media_wanted(headers, "application/graphql-response+json");
    if json.quality == 0 && graphql.quality == 0 {
        return None;
    }
    // With equal quality, take the named type; with both named, the newer one.
    let is_named = graphql.specificity == 3;
    let is_newer = graphql.quality > json.quality || graphql.quality == json.quality && is_named;
    Some(if is_newer { Media::GraphqlResponse } else { Media::Json })
}

/// The media type of a refusal outside of the routes: HTML for clients that name it, which are browsers.
pub(super) fn media_of_refusal(headers: &HeaderMap) -> Media {
    match media_wanted(headers, "text/html") {
        Wanted { specificity: 3, quality: 1.. } => Media::Html,
        _ => Media::Json,
    }
}

/// Whether the client accepts gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let gzip = wanted(headers, header::ACCEPT_ENCODING, |coding| match coding {
        "*" => 1,
        _ if ["gzip", "x-gzip"].iter().any(|own| coding.eq_ignore_ascii_case(own)) => 2,
        _ => 0,
    });
    gzip.quality > 0
}

/// How strongly `Accept` prefers a media type. Without the header everything is accepted.
fn media_wanted(headers: &HeaderMap, media: &str) -> Wanted {
    if !headers.contains_key(header::ACCEPT) {
        return Wanted { specificity: 1, quality: 1_000 };
    }
    let group = media.split('/').next();
    wanted(headers, header::ACCEPT, |range| match range.split_once('/') {
        Some(("*", "*")) => 1,
        Some((own, "*")) if group.is_some_and(|group| own.eq_ignore_ascii_case(group)) => 2,
        _ if range.eq_ignore_ascii_case(media) => 3,
        _ => 0,
    })
}

/// The preference of a header's most specific element. `specificity` returns 0 for an element that does not match.
fn wanted(headers: &HeaderMap, name: HeaderName, specificity: impl Fn(&str) -> u8) -> Wanted {
    // Text that is not visible ASCII matches nothing.
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let elements = lines.flat_map(|line| line.split(',')).map(|element| {
        let (name, quality) = weighted(element);
        Wanted { specificity: specificity(name), quality }
    });
    elements.filter(|element| element.specificity > 0).max().unwrap_or_default()
}

/// The name and the quality, in thousandths, of an element of `Accept` or `Accept-Encoding`. An invalid quality counts
/// as 0.
fn weighted(element: &str) -> (&str, u16) {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>())
    });
    match quality {
        None => (name, 1_000),
        #[expect(clippy::cast_possible_truncation, reason = "0 to 1000 by the arm's condition")]
        #[expect(clippy::cast_sign_loss, reason = "0 to 1000 by the arm's condition")]
        Some(Ok(value)) if (0.0..=1.0).contains(&value) => (name, (value * 1_000.0).round() as u16),
        Some(_) => (name, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str) -> Option<Media> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        negotiate(&headers)
    }

    #[test]
    fn takes_what_is_wanted_most() {
        use Media::{GraphqlResponse, Json};
        assert_eq!(negotiate(&HeaderMap::new()), Some(Json));
        for (accept, media) in [
            ("*/*", Some(Json)),
            ("application/*", Some(Json)),
            ("application/json", Some(Json)),
            ("application/json; charset=utf-8", Some(Json)),
            ("APPLICATION/GraphQL-Response+JSON", Some(GraphqlResponse)),
            ("application/graphql-response+json, application/json", Some(GraphqlResponse)),
            ("application/graphql-response+json, application/json;q=0.9", Some(GraphqlResponse)),
            ("application/graphql-response+json;q=0.5, application/json;q=0.9", Some(Json)),
            ("application/graphql-response+json; q=0.5, */*;q=0.1", Some(GraphqlResponse)),
            ("application/graphql-response+json;q=0, */*", Some(Json)),
            ("application/json;q=0, */*", Some(GraphqlResponse)),
            ("text/html, */*;q=0.8", Some(Json)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("application/json;q=x", None),
            ("", None),
        ] {
            assert_eq!(negotiated(accept), media, "{accept}");
        }
    }

    #[test]
    fn several_headers_count_as_one() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(header::ACCEPT, HeaderValue::from_static("application/json"));
        assert_eq!(negotiate(&headers), Some(Media::Json));
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let check = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap());
            takes_gzip(&headers)
        };
        assert!(check("gzip, deflate, br") && check("br;q=1.0, gzip;q=0.8") && check("*"));
        assert!(!check("identity") && !check("gzip;q=0") && !check("*, gzip;q=0.0"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
