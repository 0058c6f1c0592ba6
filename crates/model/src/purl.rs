//! Package URLs (purl-spec), as far as publications need them: type, name with its namespace, version.

use std::borrow::Cow;
use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{PackageName, PublicationId};

/// purl-spec leaves letters, digits, `.`, `-`, `_`, `~` and the colon unencoded.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~').remove(b':');

/// The text is not a purl, or has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a purl")]
pub struct InvalidPurl;

/// The parts of a package URL, decoded. The subpath is dropped, because it does not identify a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purl<'a> {
    /// The type, lower-cased: types are case-insensitive.
    pub ecosystem: Cow<'a, str>,
    /// The namespace, a slash, and the name; for npm `@scope/name`. Byte for byte after decoding.
    pub name: Cow<'a, str>,
    /// The version, byte for byte after decoding.
    pub version: Option<Cow<'a, str>>,
    /// The qualifiers as written, `key=value` joined by `&`; see [`Purl::qualifier`].
    pub qualifiers: &'a str,
}

impl<'a> Purl<'a> {
    /// Parses a purl by the rules of purl-spec. Accepts an unencoded `@` at the start of an npm scope as well as `%40`.
    ///
    /// # Errors
    /// [`InvalidPurl`] if the scheme, the type or the name is missing, a qualifier is repeated, or the percent-decoded
    /// bytes are not UTF-8.
    pub fn parse(text: &'a str) -> Result<Self, InvalidPurl> {
        let without_subpath = text.split_once('#').map_or(text, |(head, _)| head);
        let (without_qualifiers, qualifiers) =
            without_subpath.split_once('?').unwrap_or((without_subpath, ""));
        let mut keys = BTreeSet::new();
        if !pairs(qualifiers).all(|(key, _)| keys.insert(key.to_ascii_lowercase())) {
            return Err(InvalidPurl);
        }
        let (scheme, rest) = without_qualifiers.split_once(':').ok_or(InvalidPurl)?;
        if !scheme.eq_ignore_ascii_case("pkg") {
            return Err(InvalidPurl);
        }
        let (ecosystem, path) = rest.trim_start_matches('/').split_once('/').ok_or(InvalidPurl)?;
        if !is_type(ecosystem) {
            return Err(InvalidPurl);
        }
        let path = path.trim_matches('/');
        // The version begins at the last `@`. One at the start begins an npm scope instead.
        let (path, version) = match path.rfind('@') {
            Some(at) if at > 0 && !path[at..].contains('/') => (&path[..at], Some(&path[at + 1..])),
            _ => (path, None),
        };
        let version = version.filter(|version| !version.is_empty()).map(decode).transpose()?;
        let name = name(path.trim_end_matches('/'))?;
        Ok(Self { ecosystem: lower(ecosystem), name, version, qualifiers })
    }

    /// The value of a qualifier, decoded; `key` is in lower case. `None` if the qualifier is missing or empty, which
    /// purl-spec treats alike.
    #[must_use]
    pub fn qualifier(&self, key: &str) -> Option<Cow<'a, str>> {
        let (_, value) = pairs(self.qualifiers).find(|(name, _)| name.eq_ignore_ascii_case(key))?;
        (!value.is_empty()).then(|| percent_decode_str(value).decode_utf8_lossy())
    }

    /// Whether the text is a purl type in its canonical form, which is lower case.
    #[must_use]
    pub fn is_canonical_type(text: &str) -> bool {
        is_type(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// The canonical purl of a publication, for example `pkg:npm/%40scope/x@1.0.0`.
    #[must_use]
    pub fn canonical(ecosystem: &str, id: &PublicationId) -> String {
        let mut text = format!("pkg:{ecosystem}");
        for segment in segments(&id.name) {
            text.push('/');
            text.extend(utf8_percent_encode(segment, ENCODED));
        }
        text.push('@');
        text.extend(utf8_percent_encode(id.version.as_str(), ENCODED));
        text
    }

    /// Whether the text is the canonical purl of the publication. This check takes a fifth of the time of parsing; a
    /// purl that is not canonical may still name the publication.
    #[must_use]
    pub fn is_canonical<'t>(text: &'t str, ecosystem: &str, id: &PublicationId) -> bool {
        let behind_segment = |rest: &'t str, segment| behind(rest.strip_prefix('/')?, segment);
        let behind_name = |rest| segments(&id.name).try_fold(rest, behind_segment);
        text.strip_prefix("pkg:")
            .and_then(|rest| rest.strip_prefix(ecosystem))
            .and_then(behind_name)
            .and_then(|rest| rest.strip_prefix('@'))
            .and_then(|rest| behind(rest, id.version.as_str()))
            .is_some_and(str::is_empty)
    }

    /// Whether this purl names the publication `id` of the ecosystem, by the rules of its type.
    #[must_use]
    pub fn names(&self, ecosystem: &str, id: &PublicationId) -> bool {
        self.ecosystem.eq_ignore_ascii_case(ecosystem)
            && self.names_package(id.name.as_str())
            && self
                .version
                .as_deref()
                .is_some_and(|own| self.names_version(own, id.version.as_str()))
    }

    fn names_package(&self, name: &str) -> bool {
        // A purl of PyPI has the normalised name, which for PyPI is the same project.
        self.name == name || self.ecosystem == "pypi" && pypi(&self.name).eq(pypi(name))
    }

    fn names_version(&self, own: &str, version: &str) -> bool {
        // A gem for a platform is a version of its own, and its purl has the platform in the qualifiers, too or alone.
        let platform = (self.ecosystem == "gem").then(|| self.qualifier("platform")).flatten();
        let Some(platform) = platform.filter(|platform| platform != "ruby") else {
            return version == own;
        };
        version
            .strip_suffix(&*platform)
            .and_then(|head| head.strip_suffix('-'))
            .is_some_and(|without| own == version || own == without)
    }
}

/// The letters of a PyPI name in its normalised form (PEP 503), except that it may begin or end with `-`.
fn pypi(name: &str) -> impl Iterator<Item = char> {
    let mut before = None;
    let letters = name.chars().map(|letter| match letter {
        '_' | '.' => '-',
        letter => letter.to_ascii_lowercase(),
    });
    letters.filter(move |&letter| before.replace(letter) != Some('-') || letter != '-')
}

/// The segments of a name in its canonical purl. Parsing drops empty segments, as purl-spec says, so a name with an
/// empty segment becomes a single segment with its slashes encoded.
fn segments(name: &PackageName) -> impl Iterator<Item = &str> {
    let has_empty = name.as_str().split('/').any(str::is_empty);
    name.as_str().split(move |letter| letter == '/' && !has_empty)
}

/// The rest of the text after the encoded form of `part`; `None` if the text does not begin with that.
fn behind<'t>(text: &'t str, part: &str) -> Option<&'t str> {
    utf8_percent_encode(part, ENCODED).try_fold(text, |rest, piece| rest.strip_prefix(piece))
}

/// A type has letters, digits, `.`, `+` and `-`, and does not begin with a digit.
fn is_type(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-'))
}

fn lower(ecosystem: &str) -> Cow<'_, str> {
    if ecosystem.bytes().any(|byte| byte.is_ascii_uppercase()) {
        ecosystem.to_ascii_lowercase().into()
    } else {
        ecosystem.into()
    }
}

/// Decodes namespace and name: each segment separately, without empty segments, as purl-spec says.
fn name(path: &str) -> Result<Cow<'_, str>, InvalidPurl> {
    if path.is_empty() {
        return Err(InvalidPurl);
    }
    if !path.contains("//") && !path.contains('%') {
        return Ok(path.into());
    }
    let segments: Result<Vec<_>, _> =
        path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
    Ok(segments?.join("/").into())
}

fn decode(text: &str) -> Result<Cow<'_, str>, InvalidPurl> {
    percent_decode_str(text).decode_utf8().map_err(|_| InvalidPurl)
}

/// The qualifiers: key and value as written.
fn pairs(qualifiers: &str) -> impl Iterator<Item = (&str, &str)> {
    qualifiers.split('&').filter_map(|pair| pair.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Option<(String, String, Option<String>)> {
        let purl = Purl::parse(text).ok()?;
        Some((
            purl.ecosystem.into_owned(),
            purl.name.into_owned(),
            purl.version.map(Cow::into_owned),
        ))
    }

    fn npm(name: &str, version: Option<&str>) -> Option<(String, String, Option<String>)> {
        Some(("npm".into(), name.into(), version.map(Into::into)))
    }

    #[test]
    fn reads_scopes_encoded_and_not() {
        assert_eq!(parsed("pkg:npm/pg@7.12.0"), npm("pg", Some("7.12.0")));
        assert_eq!(
            parsed("pkg:npm/%40angular/animation@12.3.1"),
            npm("@angular/animation", Some("12.3.1"))
        );
        assert_eq!(
            parsed("pkg:npm/@angular/animation@12.3.1"),
            npm("@angular/animation", Some("12.3.1"))
        );
        assert_eq!(parsed("pkg:npm/%40angular/animation"), npm("@angular/animation", None));
        assert_eq!(parsed("pkg:npm/@angular/animation"), npm("@angular/animation", None));
        assert_eq!(parsed("PKG://NPM//x//y@1.0?a=b#c/d"), npm("x/y", Some("1.0")));
        assert_eq!(
            parsed("pkg:npm/x@1.0.0%2Bbuild?vcs=git@host#a@b"),
            npm("x", Some("1.0.0+build"))
        );
        assert_eq!(parsed("pkg:npm/JSONStream@"), npm("JSONStream", None));
        assert_eq!(parsed("pkg:npm/x@1.0.0//?a=b"), npm("x", Some("1.0.0")));
    }

    #[test]
    fn slashes_around_the_name_mean_nothing() {
        for text in ["pkg:npm/pg/@7.12.0", "pkg:npm//pg//@7.12.0", "pkg:npm/pg@7.12.0/"] {
            assert_eq!(parsed(text), npm("pg", Some("7.12.0")), "{text}");
        }
        for text in
            ["pkg:npm/%40scope/x/@1.0.0", "pkg:npm/@scope/x/@1.0.0", "pkg:npm//@scope/x@1.0.0"]
        {
            assert_eq!(parsed(text), npm("@scope/x", Some("1.0.0")), "{text}");
        }
        assert_eq!(parsed("pkg:npm//@scope/x"), npm("@scope/x", None));
        assert_eq!(parsed("pkg:npm/@1.0.0"), npm("@1.0.0", None), "a name, and no version");
    }

    #[test]
    fn qualifiers_are_decoded_and_empty_ones_are_missing() {
        let text =
            "pkg:npm/x@1?a=&Repository_URL=https%3A%2F%2Fr.example%2Fp&vcs_url=git+ssh://x#s?b=c";
        let purl = Purl::parse(text).unwrap();
        assert_eq!(purl.qualifier("repository_url").as_deref(), Some("https://r.example/p"));
        assert_eq!(purl.qualifier("vcs_url").as_deref(), Some("git+ssh://x"));
        assert_eq!(purl.qualifier("a"), None);
        assert_eq!(purl.qualifier("b"), None);
        assert_eq!(Purl::parse("pkg:npm/x@1").unwrap().qualifier("a"), None);
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "npm/x@1",
            "pkg:npm",
            "pkg:npm/",
            "pkg:/x@1",
            "pkg:n m/x",
            "http://npm/x",
            "pkg:npm/%FF",
            "pkg:1npm/x",
            "pkg:npm/x@1?a=1&A=2",
        ] {
            assert_eq!(Purl::parse(text), Err(InvalidPurl), "{text}");
        }
    }

    #[test]
    fn a_canonical_type_is_in_lower_case() {
        for (text, is) in [
            ("npm", true),
            ("vscode-x", true),
            ("NPM", false),
            ("", false),
            ("n m", false),
            ("1x", false),
        ] {
            assert_eq!(Purl::is_canonical_type(text), is, "{text:?}");
        }
    }

    #[derive(serde::Deserialize)]
    struct Cases {
        tests: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        description: String,
        test_type: String,
        input: serde_json::Value,
        expected_output: serde_json::Value,
        expected_failure: bool,
    }

    #[test]
    fn agrees_with_the_cases_of_purl_spec() {
        let cases: Cases =
            serde_json::from_str(include_str!("../tests/data/purl-npm-cases.json")).unwrap();
        let mut parse_cases = 0;
        for case in cases.tests.iter().filter(|case| case.test_type == "parse") {
            parse_cases += 1;
            let purl = Purl::parse(case.input.as_str().unwrap());
            assert_eq!(purl.is_err(), case.expected_failure, "{}", case.description);
            let (Ok(purl), Some(expected)) = (purl, case.expected_output.as_object()) else {
                continue;
            };
            let namespace = expected["namespace"]
                .as_str()
                .map(|namespace| format!("{namespace}/"))
                .unwrap_or_default();
            assert_eq!(
                purl.name,
                format!("{namespace}{}", expected["name"].as_str().unwrap()),
                "{}",
                case.description
            );
            assert_eq!(
                purl.version.as_deref(),
                expected["version"].as_str(),
                "{}",
                case.description
            );
        }
        assert!(parse_cases > 0);
    }

    #[test]
    fn a_name_with_an_empty_segment_is_one_segment() {
        for (name, text) in [
            ("a//b", "pkg:npm/a%2F%2Fb@1"),
            ("/pg", "pkg:npm/%2Fpg@1"),
            ("@s/x/", "pkg:npm/%40s%2Fx%2F@1"),
            ("/", "pkg:npm/%2F@1"),
        ] {
            let id = PublicationId::new(name, "1").unwrap();
            assert_eq!(Purl::canonical("npm", &id), text);
            assert_eq!(parsed(text), npm(name, Some("1")));
            assert!(Purl::is_canonical(text, "npm", &id), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back(name in "(@[a-z~!é]{1,6}/)?[A-Za-z0-9._ %?#@+:/-]{1,12}", version in "[ -~]{1,12}") {
            let Ok(id) = PublicationId::new(&name, &version) else { return Ok(()) };
            let text = Purl::canonical("npm", &id);
            prop_assert!(Purl::parse(&text).unwrap().names("npm", &id), "{}", text);
            prop_assert!(Purl::is_canonical(&text, "npm", &id), "{}", text);
        }

        #[test]
        fn what_is_canonical_names_the_publication(
            text in "pkg:npm/(%40s/)?/?[a%@]{1,3}/?@[1.%2B]{1,3}[?#]?",
            name in "(@s/)?/?[a%@]{1,3}/?",
            version in "[1.+%]{1,3}",
        ) {
            let Ok(id) = PublicationId::new(&name, &version) else { return Ok(()) };
            for text in [text, Purl::canonical("npm", &id)] {
                let is_named = Purl::parse(&text).is_ok_and(|purl| purl.names("npm", &id));
                prop_assert!(is_named || !Purl::is_canonical(&text, "npm", &id), "{} {:?}", text, id);
                let other = PublicationId::new(&format!("{name}b"), &version).unwrap();
                prop_assert!(!Purl::is_canonical(&text, "npm", &other), "{} {:?}", text, other);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = Purl::parse(&text);
            let _ = Purl::parse(&format!("pkg:npm/{text}"));
        }
    }
}
