//! Links within the service, and the package name in a link's path.

use model::PackageName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::value::RawValue;

/// The characters that need no encoding in any part of a URL (RFC 3986, unreserved).
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const NAME: &AsciiSet = &VALUE.remove(b'@');
const PACKAGE: &str = "/package/";

/// Encodes a value for the query part of a URL.
pub(super) fn value(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

/// The link to a package's page, from a cursor on.
pub(super) fn package(name: &PackageName, after: Option<&str>) -> String {
    let path = scoped(name.as_str()).unwrap_or_else(|| encoded(name.as_str()));
    match after {
        Some(after) => format!("{PACKAGE}{path}?after={}", value(after)),
        None => format!("{PACKAGE}{path}"),
    }
}

/// `@scope/name` as people write it. `None` when browsers or proxies would change the path.
fn scoped(name: &str) -> Option<String> {
    let (scope, rest) = name.strip_prefix('@')?.split_once('/')?;
    let is_plain = !scope.is_empty() && !["", ".", ".."].contains(&rest) && !rest.contains('/');
    is_plain.then(|| format!("@{}/{}", encoded(scope), encoded(rest)))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NAME).to_string()
}

/// The package name in the path of a package's page, decoded once. `None` when it is not UTF-8.
pub(crate) fn package_of_path(path: &str) -> Option<String> {
    let name = path.strip_prefix(PACKAGE)?;
    percent_decode_str(name).decode_utf8().ok().map(Into::into)
}

/// The link to the JSON answer of a query.
pub(super) fn as_json(query: &str, variables: &RawValue) -> String {
    format!("/graphql?query={}&variables={}", value(query), value(variables.get()))
}

/// The link to GraphiQL with a query filled in.
pub(super) fn in_graphiql(query: &str, variables: Option<&RawValue>) -> String {
    let query = value(query);
    match variables {
        Some(variables) => format!("/graphiql?query={query}&variables={}", value(variables.get())),
        None => format!("/graphiql?query={query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_back_to_its_name() {
        for (name, link) in [
            ("pg", "/package/pg"),
            ("@scope/x.y", "/package/@scope/x.y"),
            ("<script>", "/package/%3Cscript%3E"),
            ("a/../b", "/package/a%2F..%2Fb"),
            ("@a/..", "/package/@a%2F.."),
            ("@a//b", "/package/@a%2F%2Fb"),
            ("100%25", "/package/100%2525"),
            ("é ?#", "/package/%C3%A9%20%3F%23"),
        ] {
            let own = PackageName::new(name).unwrap();
            assert_eq!(package(&own, None), link);
            assert_eq!(package_of_path(link).as_deref(), Some(name));
        }
        let name = PackageName::new("pg").unwrap();
        assert_eq!(package(&name, Some("MQ=")), "/package/pg?after=MQ%3D");
        assert_eq!(package_of_path("/package/%ff"), None);
        assert_eq!(package_of_path("/other"), None);
    }
}
