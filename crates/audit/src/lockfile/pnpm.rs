//! pnpm-lock.yaml, versions 5.4 to 9, with one or several documents.

use url::Url;

use super::{Entry, LockfileError, are_texts, by_version, split_name};
use crate::location::{Kind, Location, package_of_path};
use crate::tree::{Map, Node, Value};

/// The packages of all documents. pnpm 11 and later list the tools that pnpm installs itself in a separate document.
pub(super) fn entries(documents: &[Node]) -> Result<Vec<Entry>, LockfileError> {
    let mut entries = Vec::new();
    for document in documents {
        let version = document.get("lockfileVersion").and_then(Node::scalar).unwrap_or("none");
        let style = Style::of(version)?;
        // Entries of a yarn.lock.
        let members = document.map().into_iter().flat_map(Map::iter);
        if let Some((_, other)) = members.into_iter().find(|(key, _)| key.contains('@')) {
            return Err(LockfileError::structure(other.line, "marks of two formats"));
        }
        let Some(packages) = document.get("packages") else {
            nothing_is_missing(document, style, None)?;
            are_of_packages(document, style, None)?;
            continue;
        };
        let packages = packages
            .map()
            .ok_or_else(|| LockfileError::structure(packages.line, "packages is not a mapping"))?;
        nothing_is_missing(document, style, Some(packages))?;
        are_of_packages(document, style, Some(packages))?;
        for (key, package) in packages.iter() {
            entries.push(entry(key, package, style)?);
        }
    }
    Ok(entries)
}

/// The format of the keys in `packages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `/name/1.0.0_peers`
    Slash,
    /// `/name@1.0.0(peers)`
    At,
    /// `name@1.0.0`
    Bare,
}

impl Style {
    fn of(version: &str) -> Result<Self, LockfileError> {
        let number = version.split('-').next().unwrap_or_default();
        let mut parts = number.split('.').map(str::parse::<u32>);
        let major = parts.next().and_then(Result::ok);
        let minor = parts.next().map_or(Some(0), Result::ok);
        match (major, minor, parts.next()) {
            (Some(5), Some(4..), None) => Ok(Self::Slash),
            (Some(6..=8), Some(_), None) => Ok(Self::At),
            (Some(9), Some(_), None) => Ok(Self::Bare),
            _ => Err(LockfileError::UnknownVersion {
                what: "lockfileVersion",
                version: version.to_owned(),
                known: "5.4 to 9",
            }),
        }
    }
}

fn entry(key: &str, package: &Node, style: Style) -> Result<Entry, LockfileError> {
    let line = package.line;
    let resolution = package.get("resolution").filter(|node| node.map().is_some());
    let resolution = resolution.ok_or_else(|| {
        LockfileError::structure(line, "a package without a resolution; was the file cut off?")
    })?;
    are_texts(package, &["name", "version"])?;
    are_texts(resolution, &["integrity", "tarball", "registry"])?;
    let key = Key::read(key, style)
        .ok_or_else(|| LockfileError::structure(line, "a package's key is not NAME@VERSION"))?;
    let is_plain =
        key.location == Location::Unsaid || matches!(key.location, Location::Registry(_));
    // Packages outside of a registry have `name` and `version` fields.
    let name = package.text_at("name").filter(|_| !is_plain).unwrap_or(key.name);
    let version = if is_plain { Some(key.version) } else { package.text_at("version") };
    let entry = Entry::npm(name, line).version(version).integrity(resolution.text_at("integrity"));
    // pnpm 8 and later do not read it.
    let registry = resolution.text_at("registry").filter(|_| style == Style::Slash);
    let ty = resolution.get("type").filter(|ty| ty.value != Value::Null);
    let location = match ty.map(|ty| ty.text().unwrap_or_default()) {
        Some("git") => Location::Elsewhere(Kind::Git),
        Some("directory") => Location::Elsewhere(Kind::File),
        Some("binary" | "variations") => Location::Elsewhere(Kind::Other),
        // pnpm takes the names of its own downloaders too, as `remoteTarball`, and installs the tarball then.
        Some(_) => {
            return Err(LockfileError::structure(line, "a resolution of a type that is not known"));
        }
        None => match resolution.text_at("tarball") {
            // pnpm downloads it from there, whatever the mark says.
            Some(tarball) if resolution.get("gitHosted").is_some_and(Node::is_true) => {
                match tarball_at(tarball, registry, line)? {
                    Location::Tarball(url) => Location::Repository(url),
                    location => location,
                }
            }
            Some(tarball) => tarball_at(tarball, registry, line)?,
            None => match registry.and_then(|registry| Url::parse(registry).ok()) {
                Some(registry) => Location::Registry(registry),
                // Without a place pnpm 10 asks the registry, whatever the key says.
                None if !is_plain => {
                    return Err(LockfileError::structure(line, "a resolution without a place"));
                }
                None => of_version(&key, package.text_at("version")),
            },
        },
    };
    Ok(entry.at(location))
}

/// The location of a package that the key names. pnpm 10 takes its version from a field that is usually not there.
fn of_version(key: &Key, version: Option<&str>) -> Location {
    match version.filter(|version| *version != key.version) {
        Some(version) if matches!(key.location, Location::Unsaid) => {
            Location::Request(Some((key.name.to_owned(), version.to_owned())))
        }
        _ if key.location == Location::Unsaid => by_version(key.name, key.version),
        _ => key.location.clone(),
    }
}

/// The location of a tarball. Old versions write its URL relative to the registry's, which newer ones take from the
/// settings.
fn tarball_at(tarball: &str, registry: Option<&str>, line: u32) -> Result<Location, LockfileError> {
    if tarball.contains("://") || tarball.starts_with("file:") {
        return Ok(Location::read(tarball));
    }
    // To pnpm a backslash is a slash, and white space is nothing, so that each of these may lead to another host.
    let is_other = |letter: char| matches!(letter, ':' | '\\') || letter <= ' ';
    if tarball.starts_with("//") || tarball.contains(is_other) {
        let message = "a tarball that is neither an address nor a path in a registry";
        return Err(LockfileError::structure(line, message));
    }
    let url = registry.and_then(|base| Url::parse(base).ok()?.join(tarball).ok());
    Ok(url.map_or_else(|| Location::Request(package_of_path(tarball)), Location::Tarball))
}

struct Key<'k> {
    name: &'k str,
    version: &'k str,
    /// `Unsaid` when the key has only a name and a version.
    location: Location,
}

impl<'k> Key<'k> {
    fn read(key: &'k str, style: Style) -> Option<Self> {
        let (path, location) = match (style, key.strip_prefix('/')) {
            (Style::Bare, _) => (key, Location::Unsaid),
            (_, Some(path)) => (path, Location::Unsaid),
            // The host of another registry precedes the first slash.
            (_, None) => match key.split_once('/') {
                Some((host, path)) if is_host(host) && by_name(path, style).is_some() => {
                    let url = Url::parse(&format!("https://{host}/")).ok()?;
                    (path, Location::Registry(url))
                }
                _ => return Some(Self::placed(key)),
            },
        };
        match by_name(path, style) {
            Some((name, version)) => Some(Self { name, version, location }),
            None => Some(Self::placed(key)).filter(|key| !key.name.is_empty()),
        }
    }

    /// Reads keys with a location: `name@file:x`, `file:x`, `github.com/user/repository/0123`, `@git+ssh…`.
    fn placed(key: &'k str) -> Self {
        let named = split_name(key).filter(|(name, _)| !name.contains(':'));
        let (name, place) = named.unwrap_or((key, key));
        let place = place.split('(').next().unwrap_or(place);
        let location = match Location::read(place) {
            // Without a scheme, in old versions: a repository or another host.
            Location::Unsaid | Location::Elsewhere(Kind::File) if !place.starts_with("file:") => {
                Location::Elsewhere(Kind::Other)
            }
            location => location,
        };
        Self { name, version: "", location }
    }
}

fn is_host(text: &str) -> bool {
    // The colon in `file:folder/name` precedes no port.
    let is_file = text.starts_with("file:");
    text.contains(['.', ':']) && !text.contains('@') && !is_file || text == "localhost"
}

/// The name and version in a key, without the suffix for peers and patch.
fn by_name(path: &str, style: Style) -> Option<(&str, &str)> {
    let path = path.split('(').next().unwrap_or(path);
    let scope = if path.starts_with('@') { path.find('/')? + 1 } else { 0 };
    let separator = if style == Style::Slash { '/' } else { '@' };
    let at = scope + path[scope..].find(separator)?;
    let (name, version) = (&path[..at], &path[at + 1..]);
    let version = match style {
        Style::Slash => version.split('_').next().unwrap_or(version),
        Style::At | Style::Bare => version,
    };
    let is_version = !version.is_empty() && !version.contains([':', '/', '@']);
    (!name.is_empty() && is_version).then_some((name, version))
}

/// Refuses a cut-off file. Cut between two lines it is still valid YAML, but dependencies of the projects are missing.
fn nothing_is_missing(
    document: &Node,
    style: Style,
    packages: Option<&Map>,
) -> Result<(), LockfileError> {
    let snapshots = document.get("snapshots").and_then(Node::map);
    let has_packages = packages.is_some_and(|packages| !packages.is_empty());
    // pnpm always writes the settings. A file without them was written by hand.
    let is_of_pnpm = document.get("settings").is_some();
    if style == Style::Bare && has_packages && snapshots.is_none() && is_of_pnpm {
        return Err(cut(document.line, "`snapshots` is missing"));
    }
    let has = |key: &str| match (style, snapshots) {
        (Style::Bare, Some(snapshots)) => snapshots.get(key).is_some(),
        (Style::Bare, None) => {
            let package = key.split('(').next().unwrap_or(key);
            packages.is_some_and(|packages| packages.get(package).is_some())
        }
        _ => packages.is_some_and(|packages| packages.get(key).is_some()),
    };
    let importers = document.get("importers").and_then(Node::map);
    let importers = importers.into_iter().flat_map(Map::iter).map(|(_, importer)| importer);
    // With a single project, its dependencies may be at the top level.
    for importer in importers.chain([document]) {
        for section in ["dependencies", "devDependencies", "optionalDependencies"] {
            let dependencies = importer.get(section).and_then(Node::map);
            for (name, dependency) in dependencies.into_iter().flat_map(Map::iter) {
                let version = dependency.text().or_else(|| dependency.text_at("version"));
                let version = version
                    .ok_or_else(|| cut(dependency.line, "a dependency without a version"))?;
                let key = match style {
                    Style::Slash => format!("/{name}/{version}"),
                    Style::At => format!("/{name}@{version}"),
                    Style::Bare => format!("{name}@{version}"),
                };
                if !version.starts_with("link:") && !has(&key) && !has(version) {
                    return Err(cut(dependency.line, "a dependency is not among the packages"));
                }
            }
        }
    }
    Ok(())
}

/// Refuses snapshots that pnpm 9 and later would install without a package. pnpm installs what `snapshots` lists, and reads
/// there too what it writes into `packages` alone.
fn are_of_packages(
    document: &Node,
    style: Style,
    packages: Option<&Map>,
) -> Result<(), LockfileError> {
    let snapshots = document.get("snapshots").filter(|_| style == Style::Bare);
    let Some(snapshots) = snapshots.filter(|snapshots| snapshots.value != Value::Null) else {
        return Ok(());
    };
    let fails = |line, message| Err(LockfileError::structure(line, message));
    let Some(all) = snapshots.map() else {
        return fails(snapshots.line, "snapshots is not a mapping");
    };
    for (key, snapshot) in all.iter() {
        let key = without_suffix(key);
        if packages.is_none_or(|packages| packages.get(key).is_none()) {
            return fails(snapshot.line, "a snapshot is not among the packages");
        }
        if ["resolution", "version", "name"].iter().any(|field| snapshot.get(field).is_some()) {
            return fails(
                snapshot.line,
                "a snapshot has a field that pnpm writes for packages alone",
            );
        }
    }
    Ok(())
}

/// A snapshot's key without the parentheses at its end, as pnpm finds the package.
fn without_suffix(key: &str) -> &str {
    let mut open = 0_usize;
    for (at, letter) in key.char_indices().rev() {
        match letter {
            ')' => open += 1,
            '(' => open = open.saturating_sub(1),
            _ if open == 0 => return &key[..at + letter.len_utf8()],
            _ => {}
        }
    }
    key
}

fn cut(line: u32, what: &str) -> LockfileError {
    LockfileError::structure(line, format!("{what}; was the file cut off?"))
}
