//! yarn.lock of Yarn 2 and later. The `resolution` of an entry has its name, version and location.

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::{Entry, LockfileError, Names, are_texts, by_version, split_name};
use crate::location::{Kind, Location, package_of_path};
use crate::tree::{Map, Node};

/// The packages of a lockfile.
pub(super) fn entries(documents: &[Node]) -> Result<Vec<Entry>, LockfileError> {
    let [document] = documents else {
        return Err(LockfileError::structure(1, "not one YAML document"));
    };
    let map = document.map();
    let map = map.ok_or_else(|| LockfileError::structure(document.line, "not a mapping"))?;
    let version = map.get("__metadata").and_then(|metadata| metadata.text_at("version"));
    if !version.is_some_and(|version| matches!(version.parse::<u32>(), Ok(4..=10))) {
        return Err(LockfileError::UnknownVersion {
            what: "__metadata.version",
            version: version.unwrap_or("none").to_owned(),
            known: "4 to 10",
        });
    }
    let has_link_type = |node: &Node| matches!(node.text_at("linkType"), Some("hard" | "soft"));
    let last = map.iter().last().filter(|(key, _)| *key != "__metadata");
    if let Some((_, last)) = last
        && !has_link_type(last)
        && map.iter().any(|(_, node)| has_link_type(node))
    {
        let message = "the last entry lacks what the others have; was the file cut off?";
        return Err(LockfileError::structure(last.line, message));
    }
    let mut entries = Vec::new();
    let mut names = Names::default();
    for (key, node) in map.iter().filter(|(key, _)| *key != "__metadata") {
        let broken = |what: &str| {
            LockfileError::structure(node.line, format!("{what}; was the file cut off?"))
        };
        if key.is_empty() || node.map().is_none() {
            return Err(broken("an entry without content"));
        }
        are_texts(node, &["version", "resolution"])?;
        if node.get("resolved").is_some() {
            return Err(LockfileError::structure(node.line, "marks of two formats"));
        }
        let resolution = node.text_at("resolution");
        let resolution = resolution.ok_or_else(|| broken("an entry without a resolution"))?;
        let entry = entry(resolution, node.line);
        let entry = entry.ok_or_else(|| broken("a resolution that is not NAME@REFERENCE"))?;
        let descriptors = || key.split(',').map(str::trim);
        entries.push(as_listed(entry, descriptors(), node.text_at("version")));
        names.entry(descriptors());
        names.needed.extend(dependencies(node).map(|(name, line)| (name.to_owned(), line)));
    }
    names.none_is_cut_off()?;
    Ok(entries)
}

/// The dependencies of an entry, without those that may be missing.
fn dependencies(node: &Node) -> impl Iterator<Item = (&str, u32)> {
    let map = |key: &str| node.get(key).and_then(Node::map);
    let meta = map("dependenciesMeta");
    let is_optional = move |name: &str| {
        let meta = meta.and_then(|meta| meta.get(name));
        meta.and_then(|meta| meta.get("optional")).is_some_and(Node::is_true)
    };
    let dependencies = map("dependencies").into_iter().flat_map(Map::iter);
    dependencies
        .map(|(name, dependency)| (name, dependency.line))
        .filter(move |(name, _)| !is_optional(name))
}

/// The entry with the name and the version for which the file lists it. Yarn installs what the resolution names, and another
/// package there breaks the rule `location`, as it does for the other package managers.
fn as_listed<'d>(
    entry: Entry,
    mut descriptors: impl Iterator<Item = &'d str>,
    version: Option<&str>,
) -> Entry {
    if matches!(entry.location, Location::Elsewhere(_)) {
        return entry;
    }
    let without_build = |version: &str| version.split('+').next().map(ToOwned::to_owned);
    let other = descriptors.find_map(|text| package_name(text).filter(|name| *name != entry.name));
    let other_version = version.filter(|version| {
        entry.version.as_deref().is_some_and(|own| without_build(own) != without_build(version))
    });
    if other.is_none() && other_version.is_none() {
        return entry;
    }
    let location = match (entry.location, &entry.version) {
        (Location::Unsaid, Some(version)) => {
            Location::Request(Some((entry.name.clone(), version.clone())))
        }
        (location, _) => location,
    };
    Entry {
        name: other.unwrap_or(entry.name),
        version: other_version.map(ToOwned::to_owned).or(entry.version),
        location,
        ..entry
    }
}

/// The name of the package that a descriptor, `NAME@RANGE`, asks for; of a patch, the one that it patches. `None` for what comes
/// from no registry.
fn package_name(descriptor: &str) -> Option<String> {
    let (name, range) = split_name(descriptor)?;
    if let Some(patch) = range.strip_prefix("patch:") {
        let inner = patch.split_once('#').map_or(patch, |(inner, _)| inner);
        return package_name(&percent_decode_str(inner).decode_utf8().ok()?);
    }
    let range = range.split_once("::").map_or(range, |(range, _)| range);
    match range.strip_prefix("npm:") {
        Some(range) => Some(split_name(range).map_or(name, |(real, _)| real).to_owned()),
        None if range.contains([':', '/']) => None,
        None => Some(name.to_owned()),
    }
}

fn entry(resolution: &str, line: u32) -> Option<Entry> {
    let (name, reference) = split_name(resolution)?;
    // `virtual:HASH#REFERENCE` is the same package with other peer dependencies.
    let reference = match reference.strip_prefix("virtual:") {
        Some(virtual_reference) => virtual_reference.split_once('#')?.1,
        None => reference,
    };
    if let Some(patch) = reference.strip_prefix("patch:") {
        // `patch:LOCATOR#PATCHES`, in which the locator is percent-encoded once per level.
        let locator = patch.split_once('#').map_or(patch, |(locator, _)| locator);
        let locator = percent_decode_str(locator).decode_utf8().ok()?;
        return entry(&locator, line);
    }
    let (reference, bindings) = match reference.split_once("::") {
        Some((reference, bindings)) => (reference, Some(bindings)),
        None => (reference, None),
    };
    let Some(version) = reference.strip_prefix("npm:") else {
        return Some(Entry::npm(name, line).at(match Location::read(reference) {
            Location::Unsaid => Location::Elsewhere(Kind::Other),
            location => location,
        }));
    };
    // An alias in a reference: `npm:NAME@VERSION`.
    let (name, version) = split_name(version).unwrap_or((name, version));
    let location = match bindings {
        Some(bindings) => archive(bindings)?,
        None => by_version(name, version),
    };
    Some(Entry::npm(name, line).version(Some(version)).at(location))
}

/// The location in the bindings of a reference, a query string that has nothing else.
fn archive(bindings: &str) -> Option<Location> {
    let mut bindings = form_urlencoded::parse(bindings.as_bytes());
    let (key, archive) = bindings.next()?;
    if key != "__archiveUrl" || bindings.next().is_some() {
        return None;
    }
    Some(match archive.contains(':') {
        true => Location::read(&archive),
        // A path in the registry of the settings.
        false => Location::Request(package_of_path(&archive)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolution_decides() {
        for (resolution, name, version, location) in [
            ("ms@npm:2.1.3", "ms", Some("2.1.3"), Location::Unsaid),
            ("@s/x@npm:1.0.0", "@s/x", Some("1.0.0"), Location::Unsaid),
            (
                "x@npm:v1.0.0",
                "x",
                Some("v1.0.0"),
                Location::Request(Some(("x".to_owned(), "1.0.0".to_owned()))),
            ),
            ("x@npm:1.0.0 y", "x", Some("1.0.0 y"), Location::Request(None)),
            ("x@virtual:0a1b#npm:1.0.0", "x", Some("1.0.0"), Location::Unsaid),
            (
                "x@patch:x@npm%3A1.0.0#./x.patch::version=1.0.0&hash=0a",
                "x",
                Some("1.0.0"),
                Location::Unsaid,
            ),
            (
                "x@patch:x@npm:1.0.0#~builtin<compat/x>::version=1.0.0",
                "x",
                Some("1.0.0"),
                Location::Unsaid,
            ),
            (
                "x@patch:x@patch%3Ax@npm%253A1.0.0%23./a.patch#./b.patch",
                "x",
                Some("1.0.0"),
                Location::Unsaid,
            ),
            ("x@virtual:0a#patch:x@npm%3A1.0.0#./x.patch", "x", Some("1.0.0"), Location::Unsaid),
            (
                "x@npm:1.0.0::__archiveUrl=https%3A%2F%2Fr.example%2Fx%2F-%2Fx-1.0.0.tgz",
                "x",
                Some("1.0.0"),
                Location::read("https://r.example/x/-/x-1.0.0.tgz"),
            ),
            (
                "x@npm:1.0.0::__archiveUrl=%2Fx%2F-%2Fx-1.0.0.tgz",
                "x",
                Some("1.0.0"),
                Location::Request(Some(("x".to_owned(), "1.0.0".to_owned()))),
            ),
            ("a@workspace:packages/a", "a", None, Location::Elsewhere(Kind::Workspace)),
            ("a@link:../a::locator=b", "a", None, Location::Elsewhere(Kind::Link)),
            ("a@portal:../a::locator=b", "a", None, Location::Elsewhere(Kind::Link)),
            ("a@file:./a#./a::hash=0&locator=b", "a", None, Location::Elsewhere(Kind::File)),
            ("a@https://github.com/u/a.git#commit=0a", "a", None, Location::Elsewhere(Kind::Git)),
            ("a@https://x.example/a.tgz", "a", None, Location::read("https://x.example/a.tgz")),
        ] {
            let expected = Entry::npm(name, 7).version(version).at(location);
            assert_eq!(entry(resolution, 7), Some(expected), "{resolution}");
        }
    }

    #[test]
    fn a_resolution_has_one_place() {
        // Yarn decodes the key too.
        let found = entry("x@npm:1.0.0::%5F_archiveUrl=https%3A%2F%2Fr.example%2Fevil.tgz", 1);
        assert_eq!(found.unwrap().location, Location::read("https://r.example/evil.tgz"));
        for resolution in [
            "ms",
            "x@npm:1.0.0::__archiveUrl=a&__archiveUrl=b",
            "x@npm:1.0.0::__archiveUrl=a&locator=b",
            "x@npm:1.0.0::",
        ] {
            assert_eq!(entry(resolution, 1), None, "{resolution}");
        }
    }
}
