//! The location of a package, and whether it is in the deployment's registry.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

/// Why a package is not requested. Its name may be private, so it is counted and never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A workspace package of this repository.
    Workspace,
    /// A link to a folder.
    Link,
    /// A file or a folder on this machine.
    File,
    /// A Git repository.
    Git,
    /// A tarball outside of the deployment's registry.
    Tarball,
    /// A package of another registry, by its location or by the package manager's settings.
    OtherRegistry,
    /// A package inside another one, without its own location.
    Bundled,
    /// A component that an SBOM marks as private.
    Private,
    /// A purl of another type.
    OtherEcosystem,
    /// A package without a version.
    NoVersion,
    /// A package without a location, in an SBOM in which others have one.
    NoLocation,
    /// A package of an SBOM that says where its sources are, and not where the package is from.
    Sources,
    /// Others: a runtime that pnpm installs, an SBOM component without a purl.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workspace => "workspace",
            Self::Link => "link",
            Self::File => "file",
            Self::Git => "git",
            Self::Tarball => "other tarball",
            Self::OtherRegistry => "other registry",
            Self::Bundled => "bundled",
            Self::Private => "private",
            Self::OtherEcosystem => "other ecosystem",
            Self::NoVersion => "no version",
            Self::NoLocation => "no location",
            Self::Sources => "sources alone",
            Self::Other => "other",
        })
    }
}

/// The location of a package in the lockfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// No location: the package manager's settings decide.
    Unsaid,
    /// The URL of a tarball.
    Tarball(Url),
    /// The URL of a tarball in the form of a repository, which it is unless its host is a registry's.
    Repository(Url),
    /// The URL of a registry, without a tarball.
    Registry(Url),
    /// A package that is asked for by name, or by a path, in the registry of the package manager's settings. `None` if
    /// that does not name one version.
    Request(Option<(String, String)>),
    /// Outside of any registry.
    Elsewhere(Kind),
}

impl Location {
    /// Reads the location from `resolved`, from a specifier or from an SBOM's reference.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() {
            return Self::Unsaid;
        }
        let Ok(url) = Url::parse(text) else {
            // `git@host:user/repository`, or a relative path.
            let is_git = text.split_once(':').is_some_and(|(head, _)| head.contains('@'));
            return Self::Elsewhere(if is_git { Kind::Git } else { Kind::File });
        };
        match url.scheme() {
            "http" | "https" if is_git(&url) => match has_tarball(&url) {
                true => Self::Repository(url),
                false => Self::Elsewhere(Kind::Git),
            },
            "http" | "https" if url.host_str().is_some() => Self::Tarball(url),
            "link" | "portal" => Self::Elsewhere(Kind::Link),
            "workspace" => Self::Elsewhere(Kind::Workspace),
            "file" | "exec" => Self::Elsewhere(Kind::File),
            "ssh" | "github" | "gitlab" | "bitbucket" | "gist" => Self::Elsewhere(Kind::Git),
            scheme if scheme.starts_with("git") => Self::Elsewhere(Kind::Git),
            _ => Self::Elsewhere(Kind::Other),
        }
    }

    /// Reads an SBOM's reference to an artifact. Some tools write there the `repository` of package.json, which is the
    /// address of a repository without a commit.
    #[must_use]
    pub fn of_artifact(text: &str) -> Self {
        let location = Self::read(text);
        let is_forge = |url: &Url| {
            let path = url.path();
            matches!(url.host_str(), Some("github.com" | "gitlab.com" | "bitbucket.org"))
                && ![".tgz", ".gz", ".zip"].iter().any(|end| path.ends_with(end))
        };
        let is_repository = match &location {
            Self::Elsewhere(Kind::Git) | Self::Repository(_) => {
                !text.contains("codeload.github.com")
            }
            Self::Tarball(url) => is_forge(url),
            // `user/repository`
            Self::Elsewhere(Kind::File) => {
                !text.starts_with(['.', '/'])
                    && !text.contains([':', '\\'])
                    && text.matches('/').count() == 1
            }
            _ => false,
        };
        // A commit is the fragment in npm's form, and follows an `@` in SPDX's.
        let has_commit = text.contains('#')
            || text.contains("://") && text.rsplit('/').next().is_some_and(|end| end.contains('@'));
        match is_repository && !has_commit {
            true => Self::Elsewhere(Kind::Sources),
            false => location,
        }
    }

    /// The URL, if there is one.
    #[must_use]
    pub const fn url(&self) -> Option<&Url> {
        match self {
            Self::Tarball(url) | Self::Repository(url) | Self::Registry(url) => Some(url),
            Self::Unsaid | Self::Request(_) | Self::Elsewhere(_) => None,
        }
    }
}

/// Whether the URL is an archive of a repository, or a Git URL.
fn is_git(url: &Url) -> bool {
    matches!(url.host_str(), Some("codeload.github.com"))
        || url.path().ends_with(".git")
        || url.fragment().is_some_and(|fragment| fragment.contains("commit="))
}

/// Whether the URL's path is that of a tarball. A fragment does not change what is downloaded from there.
fn has_tarball(url: &Url) -> bool {
    let path = segments(url.path());
    let is_tarball =
        |file: &String| [".tgz", ".tar.gz", ".tar"].iter().any(|end| file.ends_with(end));
    path.last().is_some_and(is_tarball) || package_of(&path).is_some()
}

/// Whether the URL is one of http(s) with a host, and without user, query and fragment.
pub(crate) fn is_plain(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// `host` or `host:port` of a URL, as an argument for `--registry`.
#[must_use]
pub fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A text that is not a registry host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not HOST[:PORT][/PATH] or a http(s) address without user, query and fragment")]
pub struct InvalidHost;

/// A host of the deployment's registry, with an optional port and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryHost {
    host: String,
    port: Option<u16>,
    path: Vec<String>,
}

impl RegistryHost {
    /// Parses `HOST[:PORT][/PATH]` or a URL.
    ///
    /// # Errors
    /// [`InvalidHost`] for anything else.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        let text = text.trim();
        let has_scheme = text.contains("://");
        let text = if has_scheme { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&text).map_err(|_| InvalidHost)?;
        let host = url.host_str().filter(|_| is_plain(&url)).ok_or(InvalidHost)?;
        // Without a scheme, the default ports are those of both.
        let port = url.port().filter(|&port| has_scheme || port != 443);
        Ok(Self { host: without_dot(host).to_owned(), port, path: segments(url.path()) })
    }

    /// The part of the URL's path after this registry's path. `None` when the URL is elsewhere.
    fn rest(&self, url: &Url) -> Option<Vec<String>> {
        let is_here = matches!(url.scheme(), "http" | "https")
            && url.host_str().map(without_dot) == Some(&self.host)
            && url.port() == self.port;
        let path = segments(url.path());
        // An encoded `..` may lead out of the registry's path.
        let leads_away = path.iter().any(|segment| matches!(&**segment, "." | ".."));
        let rest = path.strip_prefix(&*self.path)?;
        (is_here && !leads_away).then(|| rest.to_vec())
    }
}

/// A host name without the dot of the root domain, which changes nothing.
fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// The decoded parts of a path, as servers read it: neither `%65` for `e` nor a second slash leads elsewhere.
#[must_use]
pub fn segments(path: &str) -> Vec<String> {
    let path = percent_decode_str(path).decode_utf8_lossy();
    path.split('/').filter(|segment| !segment.is_empty()).map(Into::into).collect()
}

/// The deployment's registry.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The purl type.
    pub ecosystem: String,
    /// The hosts.
    pub hosts: RegistryHosts,
}

/// All hosts of the deployment's registry.
#[derive(Debug, Clone, Default)]
pub struct RegistryHosts(pub Vec<RegistryHost>);

impl RegistryHosts {
    /// Whether no host is known. Then nothing can be requested.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the registry URL of a setting is one of these hosts.
    #[must_use]
    pub fn has_registry(&self, address: &str) -> bool {
        let Ok(url) = Url::parse(address.trim()) else { return false };
        self.0.iter().any(|host| host.rest(&url).is_some())
    }

    /// The part of the tarball URL's path after the registry's path. `None` when it is not in the registry.
    #[must_use]
    pub fn tarball_path(&self, url: &Url) -> Option<Vec<String>> {
        let rests = self.0.iter().filter_map(|host| host.rest(url));
        // When several hosts match, the longest path counts, independent of their order.
        rests.min_by_key(Vec::len)
    }
}

/// The name and version in a tarball's path: `NAME/-/NAME-VERSION.tgz` as in npm and most registries, or
/// `download/@SCOPE/NAME/VERSION/…` as in GitHub Packages.
#[must_use]
pub fn package_of(segments: &[String]) -> Option<(String, String)> {
    if let Some([_, scope, name, version, ..]) =
        segments.windows(5).find(|part| part[0] == "download" && part[1].starts_with('@'))
    {
        return Some((format!("{scope}/{name}"), version.clone()));
    }
    let dash = segments.iter().rposition(|segment| segment == "-")?;
    let (name, file) = (segments.get(dash.checked_sub(1)?)?, segments.last()?);
    let scope = dash.checked_sub(2).and_then(|at| segments.get(at));
    let name = match scope {
        Some(scope) if scope.starts_with('@') => format!("{scope}/{name}"),
        _ => name.clone(),
    };
    let base = name.rsplit('/').next()?;
    let file = file.strip_suffix(".tgz").or_else(|| file.strip_suffix(".tar.gz"))?;
    let version = file.strip_prefix(base)?.strip_prefix('-')?;
    (!version.is_empty()).then(|| (name.clone(), version.to_owned()))
}

/// The name and version in a path relative to a registry. `None` too if `.` and `..` in it may lead elsewhere.
#[must_use]
pub fn package_of_path(path: &str) -> Option<(String, String)> {
    let segments = segments(path.split(['?', '#']).next().unwrap_or_default());
    let leads_away = segments.iter().any(|segment| matches!(&**segment, "." | ".."));
    package_of(&segments).filter(|_| !leads_away)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(texts: &[&str]) -> RegistryHosts {
        RegistryHosts(texts.iter().map(|text| RegistryHost::parse(text).unwrap()).collect())
    }

    fn is_from(host: &str, address: &str) -> bool {
        match Location::read(address) {
            Location::Tarball(url) => hosts(&[host]).tarball_path(&url).is_some(),
            _ => false,
        }
    }

    #[test]
    fn a_host_stands_for_its_default_port_and_a_path_for_itself() {
        for (host, address, expected) in [
            ("r.example", "https://r.example/a/-/a-1.tgz", true),
            ("r.example", "http://R.EXAMPLE/a/-/a-1.tgz", true),
            ("r.example", "https://r.example:443/a/-/a-1.tgz", true),
            ("https://r.example/", "https://u:p@r.example/a", true),
            ("r.example", "https://r.example:8443/a", false),
            ("r.example:8443", "https://r.example:8443/a", true),
            ("r.example:8443", "https://r.example/a", false),
            ("r.example", "https://r.example.evil/a", false),
            ("r.example", "https://r.example@evil/a", false),
            ("r.example", "https://evil/r.example/a", false),
            ("r.example/npm", "https://r.example/npm/a", true),
            ("r.example/npm/", "https://r.example/npm/a", true),
            ("r.example/npm", "https://r.example/npmx/a", false),
            ("r.example/npm", "https://r.example/npm/../x/a", false),
            ("r.example/npm", "https://r.example/npm/%2e%2e/x/a", false),
            ("r.example/npm", "https://r.example/npm/x%2f..%2f..%2fx/a", false),
            ("r.example/npm", "https://r.example//npm//a", true),
            ("r.example/npm", "https://r.example/n%70m/a", true),
            ("r.example/n%70m", "https://r.example/npm/a", true),
            ("r.example", "https://r.example./a", true),
            ("r.example:80", "http://r.example/a", true),
            ("r.example:80", "http://r.example:80/a", true),
            ("r.example:443", "https://r.example/a", true),
            ("https://r.example:443", "https://r.example:443/a", true),
            ("http://r.example:80/", "http://r.example/a", true),
            ("http://r.example:443", "https://r.example/a", false),
            ("[::1]:4873", "http://[::1]:4873/a", true),
            ("http://localhost:4873", "http://localhost:4873/a", true),
        ] {
            assert_eq!(is_from(host, address), expected, "{host} {address}");
        }
        for text in ["", "https://", "ftp://x", "https://u@x", "https://x?a", "x y"] {
            assert_eq!(RegistryHost::parse(text), Err(InvalidHost), "{text:?}");
        }
    }

    #[test]
    fn settings_name_a_registry_with_or_without_a_slash() {
        assert!(hosts(&["r.example/npm"]).has_registry("https://r.example/npm"));
        assert!(hosts(&["r.example"]).has_registry("https://r.example"));
        assert!(!hosts(&["r.example/npm"]).has_registry("https://r.example/"));
        assert!(!hosts(&["r.example"]).has_registry("${UNSET}"));
    }

    #[test]
    fn a_tarball_names_its_package() {
        for (path, expected) in [
            ("ms/-/ms-2.1.3.tgz", Some(("ms", "2.1.3"))),
            ("@s/x/-/x-1.0.0-rc.1.tgz", Some(("@s/x", "1.0.0-rc.1"))),
            ("@s%2fx/-/x-1.0.0.tgz", Some(("@s/x", "1.0.0"))),
            ("@s/x/-/@s/x-1.0.0.tgz", Some(("@s/x", "1.0.0"))),
            ("api/npm/repo/x-y/-/x-y-1.0.0.tgz", Some(("x-y", "1.0.0"))),
            ("download/@s/x/1.0.0/0123abc", Some(("@s/x", "1.0.0"))),
            ("x/-/x-1.0.0%2Bb.tgz", Some(("x", "1.0.0+b"))),
            ("x/-/y-1.0.0.tgz", None),
            ("x/-/x-.tgz", None),
            ("x/x-1.0.0.tgz", None),
            ("-/x-1.0.0.tgz", None),
            ("x/-/%FF-1.tgz", None),
        ] {
            let found = package_of(&segments(path));
            let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn locations_are_told_apart() {
        for (text, kind) in [
            ("git+ssh://git@github.com/a/b.git#0", Kind::Git),
            ("git@github.com:a/b.git", Kind::Git),
            ("github:a/b#0", Kind::Git),
            ("https://github.com/a/b.git#commit=0", Kind::Git),
            ("https://codeload.github.com/a/b/tar.gz/0", Kind::Git),
            ("file:../x", Kind::File),
            ("file:/x.tgz", Kind::File),
            ("x-1.0.0.tgz", Kind::File),
            ("link:../x", Kind::Link),
            ("portal:../x", Kind::Link),
            ("workspace:packages/x", Kind::Workspace),
            ("runtime:22.0.0", Kind::Other),
        ] {
            assert_eq!(Location::read(text), Location::Elsewhere(kind), "{text}");
        }
        assert_eq!(Location::read(""), Location::Unsaid);
        // Only its host says whether the tarball is a repository's.
        for text in [
            "https://r.example/x/-/x-1.0.0.tgz#commit=1",
            "https://r.example/files/7.tar.gz#commit=1",
            "https://r.example/download/@s/x/1.0.0/0a#commit=1",
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(Location::read(text), Location::Repository(url), "{text}");
        }
    }

    #[test]
    fn a_repository_is_no_artifact() {
        for text in [
            "git+https://x.example/a/b.git",
            "git@github.com:a/b.git",
            "github:a/b",
            "https://github.com/a/b",
            "https://gitlab.com/a/b/tree/main/c",
            "a/b",
        ] {
            let location = Location::of_artifact(text);
            assert_eq!(location, Location::Elsewhere(Kind::Sources), "{text}");
        }
        for text in [
            "",
            "git+https://x.example/a/b.git#0a1b",
            "git+https://x.example/a/b.git@0a1b",
            "https://codeload.github.com/a/b/tar.gz/0",
            "https://github.com/a/b/releases/download/v1/b.tgz",
            "https://r.example/a/-/a-1.0.0.tgz",
            "https://r.example/files/7",
            "file:x/b",
            "./b",
            "b-1.0.0.tgz",
        ] {
            assert_eq!(Location::of_artifact(text), Location::read(text), "{text}");
        }
    }
}
