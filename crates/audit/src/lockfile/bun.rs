//! bun.lock, versions 1 and 2: JSON with trailing commas, where each package is a list.

use nodejs_semver::Version;

use super::{Entry, LockfileError, by_version, split_name};
use crate::location::{Kind, Location};
use crate::tree::{Map, Node, Value};

/// Whether a JSON document is a bun.lock: its packages are lists. In npm's lockfile they are objects.
pub(super) fn is_bun(document: &Node) -> bool {
    let packages = document.get("packages").and_then(Node::map);
    let first = packages.and_then(|packages| packages.iter().next());
    match first {
        Some((_, package)) => matches!(package.value, Value::List(_)),
        None => document.get("lockfileVersion").is_some() && document.get("workspaces").is_some(),
    }
}

/// The packages of a lockfile.
pub(super) fn entries(document: &Node) -> Result<Vec<Entry>, LockfileError> {
    let version = document.get("lockfileVersion").and_then(Node::scalar).unwrap_or("none");
    if !matches!(version, "1" | "2") {
        return Err(LockfileError::UnknownVersion {
            what: "lockfileVersion",
            version: version.to_owned(),
            known: "1 and 2",
        });
    }
    let of_others = ["dependencies", "requires", "bomFormat", "spdxVersion", "__metadata"];
    if let Some(other) = of_others.iter().find_map(|mark| document.get(mark)) {
        return Err(LockfileError::structure(other.line, "marks of two formats"));
    }
    let Some(packages) = document.get("packages") else { return Ok(Vec::new()) };
    let packages = packages
        .map()
        .ok_or_else(|| LockfileError::structure(packages.line, "packages is not an object"))?;
    packages.iter().filter_map(|(key, package)| entry(key, package).transpose()).collect()
}

/// `["NAME@VERSION", "REGISTRY OR TARBALL", {…}, "sha512-…"]` for a registry, `["NAME@PLACE", {…}, …]` otherwise.
fn entry(key: &str, package: &Node) -> Result<Option<Entry>, LockfileError> {
    let broken =
        || LockfileError::structure(package.line, "a package that is not [NAME@VERSION, …]");
    let items = package.items();
    let spec = items.first().and_then(Node::text).ok_or_else(broken)?;
    let (name, version) = split_name(spec).ok_or_else(broken)?;
    if version.starts_with("root:") {
        return Ok(None);
    }
    let entry = Entry::npm(name, package.line);
    let tarball = items.get(1).and_then(Node::text);
    // The place of a tarball beside package.json is its name alone.
    let is_file = items.get(1).is_some_and(|item| item.map().is_some());
    let is_file = is_file && Version::parse(version).is_err();
    if is_file || tarball.is_none() && version.contains([':', '/']) {
        let location = Location::read(version);
        let integrity = items.iter().skip(1).filter_map(Node::text).find(|text| is_sri(text));
        return Ok(Some(entry.at(location).integrity(integrity)));
    }
    let tarball = tarball.ok_or_else(broken)?;
    let is_version = by_version(name, version) == Location::Unsaid;
    let is_digest = items.get(3).is_none_or(|digest| digest.text().is_some());
    if !is_version || !is_digest {
        return Err(broken());
    }
    let details = items.get(2).and_then(Node::map);
    // The key of a bundled package is below that of the package that contains it.
    let is_nested = key.matches('/').count() > usize::from(key.starts_with('@'));
    let is_bundled = is_nested
        && details.and_then(|details: &Map| details.get("bundled")).is_some_and(Node::is_true);
    let location = match Location::read(tarball) {
        Location::Unsaid if is_bundled => Location::Elsewhere(Kind::Bundled),
        // For another registry, bun may write its URL without a tarball.
        Location::Tarball(url) if !url.path().contains("/-/") && !url.path().ends_with(".tgz") => {
            Location::Registry(url)
        }
        Location::Elsewhere(kind) if kind != Kind::Git => return Err(broken()),
        location => location,
    };
    let integrity = items.get(3).and_then(Node::text);
    Ok(Some(entry.version(Some(version)).at(location).integrity(integrity)))
}

fn is_sri(text: &str) -> bool {
    ["sha512-", "sha384-", "sha256-", "sha1-"].iter().any(|head| text.starts_with(head))
}
