//! package-lock.json and npm-shrinkwrap.json, versions 1 to 3.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path};

use super::{Entry, LockfileError, are_texts, exact, split_name};
use crate::location::{Kind, Location};
use crate::tree::{Map, Node, Value};

const FOLDER: &str = "/node_modules/";

const TWO_PLACES: &str =
    "`version` and `resolved` are two places, and versions of npm differ in which they install";

/// The tag that npm asks for if a specifier has no version.
const LATEST: &str = "latest";

/// The packages of the lockfile in `folder`. Version 2 lists them twice; as in npm 7 and later, only `packages` is read.
pub(super) fn entries(document: &Node, folder: &Path) -> Result<Vec<Entry>, LockfileError> {
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
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    match (version, document.get("packages"), document.get("dependencies")) {
        // npm does not write this, and its versions differ in which of the two they install.
        (Some("1"), Some(packages), _) => Err(LockfileError::structure(
            packages.line,
            "`packages` in version 1: npm 6 would install other packages than later ones",
        )),
        (_, Some(packages), _) => of_packages(map(packages, "packages")?, &folder),
        (_, None, Some(dependencies)) => {
            let mut entries = Vec::new();
            let project = Parent { project: &folder, is_outside: false };
            of_dependencies(map(dependencies, "dependencies")?, &project, &mut entries)?;
            Ok(entries)
        }
        (Some("1"), None, None) => Ok(Vec::new()),
        _ => Err(LockfileError::structure(document.line, "`packages` is missing")),
    }
}

fn map<'a>(node: &'a Node, what: &str) -> Result<&'a Map, LockfileError> {
    node.map()
        .ok_or_else(|| LockfileError::structure(node.line, format!("{what} is not an object")))
}

fn of_packages(packages: &Map, project: &Path) -> Result<Vec<Entry>, LockfileError> {
    let is = |package: &Node, key| package.get(key).is_some_and(Node::is_true);
    let links = packages.iter().filter(|(_, package)| is(package, "link"));
    let targets: HashSet<&str> =
        links.filter_map(|(_, package)| package.text_at("resolved")).collect();
    let bundled = bundled(packages);
    let mut entries = Vec::new();
    for (path, package) in packages.iter() {
        map(package, "a package")?;
        are_texts(package, &["name", "version", "resolved", "integrity"])?;
        if path.is_empty() {
            continue;
        }
        if !is_plain(path) {
            let message = "the key of a package is not the path that npm writes for its folder";
            return Err(LockfileError::structure(package.line, message));
        }
        // A link may lead to a folder below the node_modules of another project. What is there without a location need
        // not come from a registry. npm itself installs what is below a package of this project.
        let is_installed = parent(path).is_none_or(|parent| packages.get(parent).is_some());
        let is_outside = leads_out(path, project) || targets.contains(path) && !is_installed;
        let has_place = package.text_at("resolved").is_some_and(|resolved| !resolved.is_empty());
        let Some(folder) = installed_in(path).filter(|_| has_place || !is_outside) else {
            let name = package.text_at("name").unwrap_or(path);
            entries.push(Entry::npm(name, package.line).elsewhere(Kind::Workspace));
            continue;
        };
        let name = package.text_at("name").unwrap_or(folder);
        let resolved = package.text_at("resolved").unwrap_or_default();
        let version = package.text_at("version");
        let by_version = of_version(name, version.unwrap_or_default());
        let is_place = !matches!(by_version, Location::Unsaid | Location::Request(_));
        if is_place && !resolved.is_empty() {
            return Err(LockfileError::structure(package.line, TWO_PLACES));
        }
        // An address may have credentials, which must reach no report.
        let version = version.filter(|_| !is_place);
        let mut entry =
            Entry::npm(name, package.line).version(version).integrity(package.text_at("integrity"));
        let mark = package.get("hasShrinkwrap").map(|mark| &mark.value);
        entry.has_shrinkwrap = !matches!(mark, None | Some(Value::Null | Value::Bool(false)));
        entries.push(match location(name, resolved) {
            _ if is(package, "link") => entry.elsewhere(Kind::Link),
            Location::Unsaid if is(package, "inBundle") && bundled.contains(path) => {
                entry.elsewhere(Kind::Bundled)
            }
            Location::Unsaid => entry.at(by_version),
            location => entry.at(location),
        });
    }
    Ok(entries)
}

/// Whether the path is outside of the project. `../NAME` leads back into a project in a folder of that name.
fn leads_out(path: &str, project: &Path) -> bool {
    let mut place = project.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            part => place.push(part),
        }
    }
    !place.starts_with(project)
}

/// The part of the path after the last `node_modules` folder.
fn installed_in(path: &str) -> Option<&str> {
    let nested = path.rsplit_once(FOLDER).map(|(_, folder)| folder);
    nested.or_else(|| path.strip_prefix(&FOLDER[1..]))
}

/// The package in whose node_modules folder the path is. `None` for the project itself.
fn parent(path: &str) -> Option<&str> {
    path.rsplit_once(FOLDER).map(|(parent, _)| parent)
}

/// Whether the path leads to one folder in one way, so that its end is the name by which npm installs it. npm resolves others,
/// as `node_modules//x`, `node_modules/./x` and `node_modules/y/../x`.
fn is_plain(path: &str) -> bool {
    // Folders outside of the project begin with `..`.
    let mut parts = path.split('/').skip_while(|part| *part == "..");
    let is_folder = |part: &str| {
        // On Windows, npm takes a backslash for a slash.
        let is_hidden = part.contains('\\') && part.contains("node_modules");
        !matches!(part, "" | "." | "..") && !is_hidden
    };
    let is_name = |part: &str| is_folder(part) && !part.contains('\\');
    let mut is_package = false;
    while let Some(part) = parts.next() {
        // Behind the name of a package comes only the next `node_modules`.
        if !is_folder(part) || is_package && part != "node_modules" {
            return false;
        }
        if part == "node_modules" {
            let name = parts.next().unwrap_or_default();
            let is_scope = name.starts_with('@');
            is_package = is_name(name) && (!is_scope || parts.next().is_some_and(is_name));
            if !is_package {
                return false;
            }
        }
    }
    true
}

/// The paths of all packages that others contain. npm downloads what is only marked as bundled, and the packages that the project
/// itself bundles (arborist's `getBundler`).
fn bundled(packages: &Map) -> HashSet<&str> {
    let all: Vec<(&str, &Node)> = packages.iter().collect();
    let index = all.iter().enumerate().map(|(at, (path, _))| (*path, at));
    let index: HashMap<&str, usize> = index.collect();
    let mut children: Vec<HashMap<&str, usize>> = vec![HashMap::new(); all.len()];
    for (at, (path, _)) in all.iter().enumerate() {
        let parent = path.rsplit_once(FOLDER);
        if let Some((&parent, folder)) =
            parent.and_then(|(parent, folder)| Some((index.get(parent)?, folder)))
        {
            children[parent].insert(folder, at);
        }
    }
    let mut is_bundled = vec![false; all.len()];
    for (children_of_owner, (_, owner)) in children.iter().zip(&all) {
        let list = owner.get("bundleDependencies");
        let names = list.into_iter().flat_map(Node::items).filter_map(Node::text);
        let mut wanted: Vec<&str> = names.collect();
        if list.is_some_and(Node::is_true) {
            wanted.extend(keys(owner, "dependencies"));
        }
        let mut seen = HashSet::new();
        while let Some(name) = wanted.pop() {
            // A folder of the name may be missing, because the dependency is met further up.
            let child = children_of_owner.get(name).filter(|_| seen.insert(name));
            let mut parts: Vec<usize> = child.into_iter().copied().collect();
            while let Some(part) = parts.pop() {
                is_bundled[part] = true;
                parts.extend(children[part].values());
                // What a contained package depends on is contained too.
                for key in ["dependencies", "optionalDependencies", "peerDependencies"] {
                    wanted.extend(keys(all[part].1, key));
                }
            }
        }
    }
    all.into_iter().zip(is_bundled).filter(|(_, is)| *is).map(|((path, _), _)| path).collect()
}

/// The keys of an object in the package.
fn keys<'p>(package: &'p Node, object: &str) -> impl Iterator<Item = &'p str> + use<'p> {
    package.get(object).and_then(Node::map).into_iter().flat_map(Map::iter).map(|(key, _)| key)
}

/// The location in `resolved`, which npm reads like the specifier of a dependency: it may also be a version, a range, a
/// tag or an alias, all of which npm asks the registry for.
fn location(name: &str, specifier: &str) -> Location {
    let specifier = specifier.trim();
    let alias = alias(specifier);
    let is_path = specifier.starts_with('.') || specifier.contains([':', '/', '\\']);
    let is_by_name = alias.is_some() || !is_archive(specifier) && !is_path;
    if specifier.is_empty() || !is_by_name {
        return Location::read(specifier);
    }
    let (real, version) = alias
        .or_else(|| Some(specifier).filter(|text| text.contains('@')).map(name_and_version))
        .unwrap_or((name, specifier));
    Location::Request(match exact(version) {
        Some(version) => Some((real.to_owned(), version)),
        // The registry decides which version that is.
        None if real != name => Some((real.to_owned(), version.to_owned())),
        None => None,
    })
}

fn is_archive(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    [".tgz", ".tar.gz", ".tar"].iter().any(|end| path.ends_with(end))
}

/// The real name and the version of an alias, `npm:NAME@VERSION`.
fn alias(specifier: &str) -> Option<(&str, &str)> {
    let is_alias = specifier.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("npm:"));
    is_alias.then(|| name_and_version(&specifier[4..])).filter(|(name, _)| !name.is_empty())
}

/// The name and the version of `NAME@VERSION`; without a version, what npm asks for then.
fn name_and_version(text: &str) -> (&str, &str) {
    split_name(text).unwrap_or((text, LATEST))
}

/// The location of an entry without `resolved`: npm then reads `version` like a specifier too.
fn of_version(name: &str, version: &str) -> Location {
    match exact(version) {
        Some(exact) if exact == version => Location::Unsaid,
        _ => location(name, version),
    }
}

/// The package, in version 1, below which others are nested.
struct Parent<'a> {
    /// The folder of the project.
    project: &'a Path,
    /// Whether it is in a folder outside of the project, to which a link leads.
    is_outside: bool,
}

/// Collects the entries of version 1 recursively. Documents are at most 128 deep.
fn of_dependencies(
    dependencies: &Map,
    parent: &Parent<'_>,
    entries: &mut Vec<Entry>,
) -> Result<(), LockfileError> {
    for (folder, package) in dependencies.iter() {
        map(package, "a dependency")?;
        are_texts(package, &["version", "resolved", "integrity"])?;
        entries.push(of_dependency(folder, package, parent)?);
        if let Some(nested) = package.get("dependencies") {
            let link = package.text_at("version").and_then(|version| version.strip_prefix("file:"));
            let link = link.filter(|path| !is_archive(path));
            let is_outside =
                parent.is_outside || link.is_some_and(|path| leads_out(path, parent.project));
            let parent = Parent { is_outside, ..*parent };
            of_dependencies(map(nested, "dependencies")?, &parent, entries)?;
        }
    }
    Ok(())
}

fn of_dependency(
    folder: &str,
    package: &Node,
    parent: &Parent<'_>,
) -> Result<Entry, LockfileError> {
    let specifier = package.text_at("version").unwrap_or_default();
    let (name, version) = alias(specifier).unwrap_or((folder, specifier));
    let resolved = package.text_at("resolved").unwrap_or_default();
    let by_version = of_version(name, version);
    // For packages outside of a registry, `version` holds the location.
    let is_place = !matches!(by_version, Location::Unsaid | Location::Request(_));
    if is_place && !resolved.trim().is_empty() && resolved != specifier {
        return Err(LockfileError::structure(package.line, TWO_PLACES));
    }
    let entry = Entry::npm(name, package.line)
        .integrity(package.text_at("integrity"))
        .version(Some(version).filter(|version| !is_place && !version.is_empty()));
    Ok(match location(name, resolved) {
        _ if is_place => entry.at(by_version),
        // What is in the node_modules of another project need not come from a registry.
        Location::Unsaid if parent.is_outside => entry.elsewhere(Kind::Workspace),
        // Also of a package that is marked as bundled: npm downloads it, unless it then finds it in the one above.
        Location::Unsaid => entry.at(by_version),
        by_resolved => entry.at(by_resolved),
    })
}
