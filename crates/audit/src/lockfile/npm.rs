//! package-lock.json and npm-shrinkwrap.json, versions 1 to 3.

use std::collections::HashSet;

use super::{Entry, LockfileError};
use crate::location::{Kind, Location};
use crate::tree::{Map, Node, Value};

const FOLDER: &str = "/node_modules/";

/// The packages of a lockfile. Version 2 lists them twice; as in npm 7 and later, only `packages` is read.
pub(super) fn entries(document: &Node) -> Result<Vec<Entry>, LockfileError> {
    let version = document.get("lockfileVersion").and_then(|node| match &node.value {
        Value::Number(number) => Some(number.as_str()),
        _ => None,
    });
    if !matches!(version, Some("1" | "2" | "3")) {
        return Err(LockfileError::UnknownVersion {
            what: "lockfileVersion",
            version: version.unwrap_or("none").to_owned(),
            known: "1, 2 and 3",
        });
    }
    if version != Some("1")
        && let Some(packages) = document.get("packages")
    {
        return of_packages(map(packages, "packages")?);
    }
    let mut entries = Vec::new();
    if let Some(dependencies) = document.get("dependencies") {
        of_dependencies(map(dependencies, "dependencies")?, &mut entries)?;
    } else if version != Some("1") {
        return Err(LockfileError::structure(document.line, "`packages` is missing"));
    }
    Ok(entries)
}

fn map<'a>(node: &'a Node, what: &str) -> Result<&'a Map, LockfileError> {
    node.map()
        .ok_or_else(|| LockfileError::structure(node.line, format!("{what} is not an object")))
}

fn of_packages(packages: &Map) -> Result<Vec<Entry>, LockfileError> {
    let is = |package: &Node, key| package.get(key).is_some_and(Node::is_true);
    let links = packages.iter().filter(|(_, package)| is(package, "link"));
    let targets: HashSet<&str> =
        links.filter_map(|(_, package)| package.text_at("resolved")).collect();
    let mut entries = Vec::new();
    for (path, package) in packages.iter() {
        map(package, "a package")?;
        if path.is_empty() {
            continue;
        }
        let resolved = package.text_at("resolved").map_or(Location::Unsaid, Location::read);
        // A link may lead to a folder below the node_modules of another project. What is there without a location need
        // not come from a registry.
        let is_outside = path.starts_with("../") && resolved == Location::Unsaid;
        let folder = installed_in(path).filter(|_| !targets.contains(path) && !is_outside);
        let Some(folder) = folder else {
            let name = package.text_at("name").unwrap_or(path);
            entries.push(Entry::npm(name, package.line).elsewhere(Kind::Workspace));
            continue;
        };
        let name = package.text_at("name").unwrap_or(folder);
        let entry = Entry::npm(name, package.line)
            .version(package.text_at("version"))
            .integrity(package.text_at("integrity"));
        entries.push(match resolved {
            _ if is(package, "link") => entry.elsewhere(Kind::Link),
            Location::Unsaid if is(package, "inBundle") => entry.elsewhere(Kind::Bundled),
            location => entry.at(location),
        });
    }
    Ok(entries)
}

/// The part of the path after the last `node_modules` folder.
fn installed_in(path: &str) -> Option<&str> {
    let nested = path.rsplit_once(FOLDER).map(|(_, folder)| folder);
    nested.or_else(|| path.strip_prefix(&FOLDER[1..]))
}

/// Collects the entries of version 1 recursively. Documents are at most 128 deep.
fn of_dependencies(dependencies: &Map, entries: &mut Vec<Entry>) -> Result<(), LockfileError> {
    for (folder, package) in dependencies.iter() {
        map(package, "a dependency")?;
        entries.push(of_dependency(folder, package));
        if let Some(nested) = package.get("dependencies") {
            of_dependencies(map(nested, "dependencies")?, entries)?;
        }
    }
    Ok(())
}

fn of_dependency(folder: &str, package: &Node) -> Entry {
    let specifier = package.text_at("version").unwrap_or_default();
    // An alias: `npm:NAME@VERSION`.
    let alias = specifier.strip_prefix("npm:").and_then(|real| real.rsplit_once('@'));
    let (name, version) = alias.filter(|(name, _)| !name.is_empty()).unwrap_or((folder, specifier));
    let entry = Entry::npm(name, package.line).integrity(package.text_at("integrity"));
    let is_bundled = package.get("bundled").is_some_and(Node::is_true);
    let resolved = package.text_at("resolved").map_or(Location::Unsaid, Location::read);
    // For packages outside of a registry, `version` holds the location.
    let has_place = version.contains([':', '/']);
    match resolved {
        Location::Unsaid if has_place => entry.at(Location::read(version)),
        location if has_place => entry.at(location),
        Location::Unsaid if is_bundled => entry.version(Some(version)).elsewhere(Kind::Bundled),
        location => entry.version(Some(version).filter(|version| !version.is_empty())).at(location),
    }
}
