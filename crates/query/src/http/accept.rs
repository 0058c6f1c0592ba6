//! Content negotiation (RFC 9110, section 12.5.1) between the two media types of GraphQL over HTTP.

use axum::http::{HeaderMap, header};

/// In which of the two the answer is written, and with which statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/json`, as clients have it since before the specification: errors of a GraphQL request are 200.
    Json,
    /// `application/graphql-response+json`: the status says whether the request was executed.
    GraphqlResponse,
}

impl Media {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        }
    }
}

/// How much a media type is wanted: by the most specific range that has it, in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    specificity: u8,
    quality: u16,
}

/// The media type that `Accept` wants most; `None` when it wants neither. Without the header, and where only a wildcard
/// fits, it is JSON, which everybody reads.
pub(super) fn negotiate(headers: &HeaderMap) -> Option<Media> {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Some(Media::Json);
    }
    let (mut json, mut graphql) = (Wanted::default(), Wanted::default());
    // What is not visible ASCII is no media range.
    for range in values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| quality(value.trim()))
        });
        let quality = quality.unwrap_or(1_000);
        match name.as_str() {
            "application/json" => json.take(3, quality),
            "application/graphql-response+json" => graphql.take(3, quality),
            "application/*" => {
                [&mut json, &mut graphql].into_iter().for_each(|own| own.take(2, quality))
            }
            "*/*" => [&mut json, &mut graphql].into_iter().for_each(|own| own.take(1, quality)),
            _ => continue,
        }
    }
    if json.quality == 0 && graphql.quality == 0 {
        return None;
    }
    // At the same quality the one that was named is meant, and the newer one where both were.
    let named = graphql.specificity == 3;
    let newer = graphql.quality > json.quality || (graphql.quality == json.quality && named);
    Some(if newer { Media::GraphqlResponse } else { Media::Json })
}

impl Wanted {
    fn take(&mut self, specificity: u8, quality: u16) {
        if specificity > self.specificity {
            *self = Self { specificity, quality };
        } else if specificity == self.specificity {
            self.quality = self.quality.max(quality);
        }
    }
}

/// `0` to `1` with up to three digits; what is none counts as not wanted.
fn quality(text: &str) -> u16 {
    match text.parse::<f32>() {
        #[expect(clippy::cast_possible_truncation, reason = "0 to 1000 by the arm's condition")]
        #[expect(clippy::cast_sign_loss, reason = "0 to 1000 by the arm's condition")]
        Ok(value) if (0.0..=1.0).contains(&value) => (value * 1_000.0).round() as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

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
}
