//! Selects the packages to request: those from the deployment's registry, each name and version once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::{InvalidName, PublicationId};
use url::Url;

use crate::location::{Kind, Location, Registry, host_of, package_of, segments};
use crate::lockfile::{Entry, Format, Lockfile};
use crate::settings::Settings;

/// How the location of an entry contradicts the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disagreement {
    /// It is the tarball of another package or version. That one is requested.
    Other {
        /// The name of the entry.
        name: String,
        /// The version of the entry, if it has one.
        version: Option<String>,
    },
    /// The location does not name a package.
    Unreadable,
    /// The package's own shrinkwrap decides what is installed below it.
    Shrinkwrap,
}

impl Disagreement {
    /// The entry's name and version, if they are not those of `id`.
    #[must_use]
    pub fn entry(&self, id: &PublicationId) -> Option<(String, String)> {
        match self {
            Self::Other { name, version } => {
                let version = version.as_deref().unwrap_or(id.version.as_str());
                Some((name.clone(), version.to_owned()))
            }
            Self::Unreadable | Self::Shrinkwrap => None,
        }
    }
}

/// One position of a package in a file.
#[derive(Debug, Clone)]
pub struct Occurrence {
    /// The path of the file as given.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The entry's digests.
    pub integrity: Option<String>,
    /// How the location contradicts the entry.
    pub disagreement: Option<Disagreement>,
}

/// An entry that is not requested.
#[derive(Debug, Clone)]
pub struct NotAudited {
    /// The reason.
    pub kind: Kind,
    /// The name in the file.
    pub name: String,
    /// The version in the file.
    pub version: Option<String>,
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

/// The packages that are requested and those that are not.
#[derive(Debug, Default)]
pub struct Selection {
    /// Each publication once, with all its positions, sorted by name.
    pub asked: BTreeMap<PublicationId, Vec<Occurrence>>,
    /// The other entries.
    pub not_audited: Vec<NotAudited>,
}

/// The location names a package with an invalid name.
#[derive(Debug, thiserror::Error)]
#[error("{file}, line {line}: the location names a package that is not valid: {error}")]
pub struct InvalidLocation {
    file: Arc<str>,
    line: u32,
    error: InvalidName,
}

/// The entries of a base file. Entries equal to these are not new, whatever their lines are.
#[derive(Debug, Default)]
pub struct Base(HashSet<Entry>);

impl Base {
    /// The entries of the earlier lockfile.
    #[must_use]
    pub fn of(lockfile: &Lockfile) -> Self {
        Self(lockfile.entries.iter().map(without_line).collect())
    }

    /// Removes the base's entries from a lockfile.
    pub fn subtract_from(&self, lockfile: &mut Lockfile) {
        lockfile.entries.retain(|entry| !self.0.contains(&without_line(entry)));
    }
}

fn without_line(entry: &Entry) -> Entry {
    Entry { line: 0, ..entry.clone() }
}

/// The number of packages per host, and the number without a location.
#[must_use]
pub fn hosts_of(lockfiles: &[Lockfile]) -> (BTreeMap<String, usize>, usize) {
    let mut hosts = BTreeMap::new();
    let mut unsaid = 0;
    for entry in lockfiles.iter().flat_map(|lockfile| &lockfile.entries) {
        match &entry.location {
            Location::Unsaid | Location::Request(_) => unsaid += 1,
            Location::Elsewhere(_) | Location::Repository(_) => {}
            Location::Tarball(url) | Location::Registry(url) => {
                *hosts.entry(host_of(url)).or_insert(0) += 1;
            }
        }
    }
    (hosts, unsaid)
}

/// Whether the service is needed: whether any package could be requested, whatever the registry's hosts are, or whether its
/// ecosystem decides what an SBOM without places means.
#[must_use]
pub fn has_candidates(lockfiles: &[Lockfile]) -> bool {
    let (hosts, unsaid) = hosts_of(lockfiles);
    let mut entries = lockfiles.iter().flat_map(|lockfile| &lockfile.entries);
    unsaid > 0
        || !hosts.is_empty()
        || entries.any(|entry| {
            matches!(entry.location, Location::Elsewhere(Kind::Sources) | Location::Repository(_))
        })
}

impl Selection {
    /// Adds the entries of a lockfile to the selection.
    ///
    /// # Errors
    /// [`InvalidLocation`] when a location in the registry names a package with an invalid name.
    pub fn add(
        &mut self,
        lockfile: &Lockfile,
        settings: &Settings,
        registry: &Registry,
    ) -> Result<(), InvalidLocation> {
        let file: Arc<str> = lockfile.path.as_str().into();
        for entry in &lockfile.entries {
            let line = entry.line;
            match decide(entry, lockfile.format, settings, registry) {
                Ok((name, version, disagreement)) => {
                    let id = PublicationId::new(&name, &version)
                        .map_err(|error| InvalidLocation { file: file.clone(), line, error })?;
                    let occurrence = Occurrence {
                        file: file.clone(),
                        line,
                        integrity: entry.integrity.clone(),
                        disagreement,
                    };
                    self.asked.entry(id).or_default().push(occurrence);
                }
                Err(kind) => self.not_audited.push(NotAudited {
                    kind,
                    name: entry.name.clone(),
                    version: entry.version.clone(),
                    file: file.clone(),
                    line,
                }),
            }
        }
        Ok(())
    }
}

type Asked = (String, String, Option<Disagreement>);

fn decide(
    entry: &Entry,
    format: Format,
    settings: &Settings,
    registry: &Registry,
) -> Result<Asked, Kind> {
    if entry.ecosystem != registry.ecosystem {
        return Err(Kind::OtherEcosystem);
    }
    for place in &entry.also {
        match place {
            Location::Elsewhere(kind) => return Err(*kind),
            _ if place.url().is_some_and(|url| !registry.hosts.has_registry(url.as_str())) => {
                return Err(Kind::OtherRegistry);
            }
            _ => {}
        }
    }
    let url = entry.location.url();
    // npm downloads from the registry of the settings, whose host it puts there.
    let is_replaced = format == Format::Npm && url.is_some_and(|url| settings.replace(url));
    let mut asked = match &entry.location {
        Location::Elsewhere(kind) => Err(*kind),
        Location::Unsaid => by_entry(entry, None),
        Location::Request(None) => by_entry(entry, Some(Disagreement::Unreadable)),
        Location::Request(Some((name, version))) => Ok(by_location(entry, name, version)),
        Location::Registry(url) if registry.hosts.has_registry(url.as_str()) => {
            by_entry(entry, None)
        }
        Location::Registry(_) => Err(Kind::OtherRegistry),
        Location::Tarball(url) | Location::Repository(url) => {
            let is_own = is_replaced && settings.name_only(&registry.hosts);
            let path = match is_own {
                true => Some(segments(url.path())),
                false => registry.hosts.tarball_path(url),
            };
            let path = path.ok_or_else(|| kind_of_tarball(&entry.location, url))?;
            match package_of(&path) {
                // A forge that is a registry too serves its archives of repositories.
                _ if is_archive(&entry.location, &path) => Err(Kind::Git),
                Some((name, version)) => Ok(by_location(entry, &name, &version)),
                None => by_entry(entry, Some(Disagreement::Unreadable)),
            }
        }
    }?;
    if entry.has_shrinkwrap {
        asked.2.get_or_insert(Disagreement::Shrinkwrap);
    }
    // Some tools write into an SBOM the address that a package has in the default registry, whatever the settings are.
    let is_by_settings = url.is_none() || format == Format::Sbom;
    let is_private = |name: &str| settings.name_another(name, &registry.hosts);
    // The replaced host is that of the registry for all packages, whatever the scope is.
    let is_other = is_replaced && is_private("");
    if is_other || is_by_settings && (is_private(&entry.name) || is_private(&asked.0)) {
        return Err(Kind::OtherRegistry);
    }
    Ok(asked)
}

fn is_archive(location: &Location, path: &[String]) -> bool {
    let file = path.last().map_or("", String::as_str);
    // GitLab writes `-/archive/v1/NAME-v1.tar.gz`; a package may have the name `archive`.
    let is_of_forge = path.windows(3).any(|part| part[0] == "-" && part[1] == "archive")
        || package_of(path).is_none()
            && (file.starts_with("archive.") || path.iter().any(|part| part == "archive"));
    matches!(location, Location::Repository(_)) && is_of_forge
}

/// The kind of a tarball outside of the registry.
fn kind_of_tarball(location: &Location, url: &Url) -> Kind {
    match location {
        Location::Repository(_) => Kind::Git,
        _ if url.path().contains("/-/") => Kind::OtherRegistry,
        _ => Kind::Tarball,
    }
}

fn by_entry(entry: &Entry, disagreement: Option<Disagreement>) -> Result<Asked, Kind> {
    let version = entry.version.clone().ok_or(Kind::NoVersion)?;
    Ok((entry.name.clone(), version, disagreement))
}

/// The package that the location names. Some tools leave out the build of a version, which does not tell versions apart.
fn by_location(entry: &Entry, name: &str, version: &str) -> Asked {
    let without_build = version.split_once('+').map_or(version, |(version, _)| version);
    let is_version = |listed: &String| listed == version || listed == without_build;
    let agrees = name == entry.name && entry.version.as_ref().is_none_or(is_version);
    let disagreement = (!agrees)
        .then(|| Disagreement::Other { name: entry.name.clone(), version: entry.version.clone() });
    (name.to_owned(), version.to_owned(), disagreement)
}
