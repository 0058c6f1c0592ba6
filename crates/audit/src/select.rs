//! Selects the packages to request: those from the deployment's registry, each name and version once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::{InvalidName, PublicationId};

use crate::location::{Kind, Location, RegistryHosts, host_of, package_of};
use crate::lockfile::{Entry, Lockfile};
use crate::settings::Settings;

/// The deployment's registry.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The purl type.
    pub ecosystem: String,
    /// The hosts.
    pub hosts: RegistryHosts,
}

/// How the location of an entry contradicts the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disagreement {
    /// It is the tarball of another package or version. That one is requested.
    Other {
        /// The package that the entry names.
        listed: String,
    },
    /// The location does not name a package.
    Unreadable,
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
            Location::Unsaid => unsaid += 1,
            Location::Elsewhere(_) => {}
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
        || entries.any(|entry| matches!(entry.location, Location::Elsewhere(Kind::Sources)))
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
            match decide(entry, settings, registry) {
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

fn decide(entry: &Entry, settings: &Settings, registry: &Registry) -> Result<Asked, Kind> {
    if entry.ecosystem != registry.ecosystem {
        return Err(Kind::OtherEcosystem);
    }
    for place in &entry.also {
        match place {
            Location::Elsewhere(kind) => return Err(*kind),
            Location::Registry(url) | Location::Tarball(url)
                if !registry.hosts.has_registry(url.as_str()) =>
            {
                return Err(Kind::OtherRegistry);
            }
            _ => {}
        }
    }
    let by_entry = |disagreement| {
        let version = entry.version.clone().ok_or(Kind::NoVersion)?;
        Ok((entry.name.clone(), version, disagreement))
    };
    match &entry.location {
        Location::Elsewhere(kind) => Err(*kind),
        Location::Unsaid if settings.name_another(&entry.name, &registry.hosts) => {
            Err(Kind::OtherRegistry)
        }
        Location::Unsaid => by_entry(None),
        Location::Registry(url) if registry.hosts.has_registry(url.as_str()) => by_entry(None),
        Location::Registry(_) => Err(Kind::OtherRegistry),
        Location::Tarball(url) => {
            let Some(path) = registry.hosts.tarball_path(url) else {
                let is_registry = url.path().contains("/-/");
                return Err(if is_registry { Kind::OtherRegistry } else { Kind::Tarball });
            };
            let Some((name, version)) = package_of(path) else {
                return by_entry(Some(Disagreement::Unreadable));
            };
            let agrees = name == entry.name
                && entry.version.as_ref().is_none_or(|listed| *listed == version);
            let listed = || match &entry.version {
                Some(version) => format!("{} {version}", entry.name),
                None => entry.name.clone(),
            };
            let disagreement = (!agrees).then(|| Disagreement::Other { listed: listed() });
            Ok((name, version, disagreement))
        }
    }
}
