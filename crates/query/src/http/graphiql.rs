//! GraphiQL from files of this crate, so that its page needs no other host. The files are stored compressed and sent as
//! they are to clients that accept gzip, as every browser does.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::read::GzDecoder;
use maud::{DOCTYPE, Markup, html};

use super::App;
use super::head::takes_gzip;
use super::response::Refusal;
use crate::error::{Code, QueryError};
use crate::pages;

/// Only this host, no frames, no inline scripts. Inline styles are allowed because the editor sets them, `data:`
/// because its icons and fonts use it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
                      img-src 'self' data:; font-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

struct Asset {
    name: &'static str,
    content_type: &'static str,
    compressed: &'static [u8],
    /// Unpacked for the first client that does not accept gzip. All such answers share it, because nothing counts their
    /// memory.
    plain: OnceLock<Bytes>,
}

macro_rules! asset {
    ($name:literal, $content_type:expr) => {
        Asset {
            name: $name,
            content_type: $content_type,
            compressed: include_bytes!(concat!("../graphiql/", $name, ".gz")),
            plain: OnceLock::new(),
        }
    };
}

static ASSETS: [Asset; 4] = [
    asset!("react.production.min.js", JAVASCRIPT),
    asset!("react-dom.production.min.js", JAVASCRIPT),
    asset!("graphiql.min.js", JAVASCRIPT),
    asset!("graphiql.min.css", CSS),
];

impl Asset {
    fn plain(&self) -> Bytes {
        let unpack = || {
            let mut plain = Vec::new();
            // A test unpacks every file of this build.
            let _ = GzDecoder::new(self.compressed).read_to_end(&mut plain);
            plain.into()
        };
        self.plain.get_or_init(unpack).clone()
    }
}

const START: &str = include_str!("../graphiql/start.js");
const STYLE: &str = include_str!("../graphiql/page.css");

/// `GET /graphiql`. The parameters `query` and `variables` fill the editor.
pub(super) async fn page(State(app): State<Arc<App>>) -> Response {
    text("text/html; charset=utf-8", markup(&app.settings.http.notice).into_string())
}

fn markup(notice: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (pages::head("GraphiQL · Publication insights", STYLE, &["/graphiql/graphiql.min.css"]))
            body {
                (pages::notice(notice))
                div #graphiql { "Loading…" }
                script src="/graphiql/react.production.min.js" {}
                script src="/graphiql/react-dom.production.min.js" {}
                script src="/graphiql/graphiql.min.js" {}
                script src="/graphiql/start.js" {}
            }
        }
    }
}

/// `GET /graphiql/{file}`
pub(super) async fn file(uri: Uri, headers: HeaderMap) -> Response {
    let name = uri.path().trim_start_matches("/graphiql/");
    if name == "start.js" {
        return text(JAVASCRIPT, START.to_owned());
    }
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        let error = QueryError::new(Code::NotFound, "GraphiQL has no such file");
        return Refusal::from(error).into_response();
    };
    let common = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    if takes_gzip(&headers) {
        return (common, [(header::CONTENT_ENCODING, "gzip")], asset.compressed).into_response();
    }
    (common, asset.plain()).into_response()
}

fn text(content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_no_other_host_and_only_files_that_are_there() {
        let page = markup("made-up data").into_string();
        for text in [&page, START] {
            assert!(!text.contains("://"), "{text}");
        }
        assert!(page.contains(">made-up data</p>"), "{page}");
        assert!(!markup("").into_string().contains("class=\"notice\""), "nothing to be told");
        for name in ASSETS.iter().map(|asset| asset.name).chain(["start.js"]) {
            assert!(page.contains(&format!("\"/graphiql/{name}\"")), "{name}");
        }
        assert_eq!(page.matches("/graphiql/").count(), ASSETS.len() + 1);
    }

    #[test]
    fn the_query_of_the_page_is_the_seed_s() {
        assert!(START.contains(r#"package(name: "pg", version: "7.12.0")"#));
    }

    #[tokio::test]
    async fn a_file_is_unpacked_once_for_all() {
        let read = || async {
            let answer =
                file(Uri::from_static("/graphiql/graphiql.min.css"), HeaderMap::new()).await;
            axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap()
        };
        let (one, other) = (read().await, read().await);
        assert!(one.len() > 100_000 && one.as_ptr() == other.as_ptr(), "two copies");
    }

    #[test]
    fn every_file_unpacks() {
        for asset in &ASSETS {
            let mut plain = String::new();
            GzDecoder::new(asset.compressed).read_to_string(&mut plain).unwrap();
            assert!(plain.len() > 5_000 && asset.plain() == plain, "{}", asset.name);
        }
    }
}
