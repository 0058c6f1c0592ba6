//! The package managers' settings, which decide the registry of a package without a location.

mod files;
mod formats;

use std::collections::HashMap;
use std::path::Path;

use url::Url;

use crate::location::{RegistryHosts, host_of, segments};
use crate::lockfile::Format;

pub use formats::SettingsError;

/// The environment variables.
#[derive(Debug, Clone, Default)]
pub struct Environment(pub HashMap<String, String>);

impl Environment {
    /// The environment of this process, without variables that are not UTF-8.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        Self(
            variables
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The settings by which a package manager reads another lockfile or none, and the value with which it reads the usual one.
const LOCKFILES: [(&str, &str); 6] = [
    ("lockfileFilename", "yarn.lock"),
    ("git-branch-lockfile", "false"),
    ("gitBranchLockfile", "false"),
    ("lockfile", "true"),
    ("package-lock", "true"),
    ("shrinkwrap", "true"),
];

/// The settings of one file or of the environment, with keys as in `.npmrc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Source(HashMap<String, String>);

impl Source {
    fn is_read(key: &str) -> bool {
        matches!(
            key,
            "registry"
                | "globalconfig"
                | "prefix"
                | "userconfig"
                | "npmrc_auth_file"
                | "replace-registry-host"
        ) || LOCKFILES.iter().any(|(known, _)| *known == key)
            || key.starts_with('@') && key.ends_with(":registry")
    }

    /// Keeps a setting that names a registry, another settings file or another lockfile.
    fn set(&mut self, key: &str, value: String) {
        if Self::is_read(key) && !value.is_empty() {
            self.0.insert(key.to_owned(), value);
        }
    }
}

/// What a source does to those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Its values count, and those behind it do not.
    Replaces,
    /// Its values may count. That depends on the package manager's version, or on how it is called.
    Adds,
}

/// The settings of one package manager, in the order in which they count.
#[derive(Debug, Clone, Default)]
struct Sources(Vec<(Effect, Source)>);

impl Sources {
    /// All values that a key may have, and whether the last of them excludes any other.
    fn values(&self, key: &str) -> (Vec<&str>, bool) {
        let mut values = Vec::new();
        for (effect, source) in &self.0 {
            if let Some(value) = source.0.get(key) {
                values.push(&**value);
                if *effect == Effect::Replaces {
                    return (values, true);
                }
            }
        }
        (values, false)
    }

    /// All registries that a package may come from, except the package manager's own default.
    fn registries(&self, name: &str) -> Vec<&str> {
        let scope = name.split_once('/').map(|(scope, _)| format!("{scope}:registry"));
        let (mut registries, is_all) = scope.map(|key| self.values(&key)).unwrap_or_default();
        if !is_all {
            registries.extend(self.values("registry").0);
        }
        registries
    }
}

/// A package manager that reads the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    Npm,
    Pnpm,
    Yarn,
    Berry,
    Bun,
}

/// The settings for one lockfile, of each package manager that may have written it.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<Sources>);

impl Settings {
    /// Reads the settings in the lockfile's folder, in all folders above it, in the home folder, in the global files, and
    /// in the environment.
    ///
    /// # Errors
    /// [`SettingsError`] when a file exists and cannot be read, because then private packages cannot be recognized.
    pub fn read(
        folder: &Path,
        format: Format,
        environment: &Environment,
    ) -> Result<Self, SettingsError> {
        let managers: &[Manager] = match format {
            Format::Npm => &[Manager::Npm],
            Format::Pnpm => &[Manager::Pnpm],
            Format::Yarn => &[Manager::Yarn],
            Format::Berry => &[Manager::Berry],
            Format::Bun => &[Manager::Bun],
            // These formats do not show which package manager is used.
            Format::Sbom | Format::Purls => {
                &[Manager::Npm, Manager::Pnpm, Manager::Yarn, Manager::Berry, Manager::Bun]
            }
        };
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let folder = folder.canonicalize().unwrap_or(folder);
        let read = |manager: &Manager| files::sources(*manager, &folder, environment);
        Ok(Self(managers.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Whether a package of that name may come from another registry.
    #[must_use]
    pub fn name_another(&self, name: &str, hosts: &RegistryHosts) -> bool {
        let mut registries = self.0.iter().flat_map(|sources| sources.registries(name));
        registries.any(|registry| !hosts.has_registry(registry))
    }

    /// Whether a registry for all packages is named, and none of another deployment.
    #[must_use]
    pub fn name_only(&self, hosts: &RegistryHosts) -> bool {
        let is_named = self.0.iter().any(|sources| !sources.registries("").is_empty());
        is_named && !self.name_another("", hosts)
    }

    /// Whether npm may replace the host of a location by that of the registry for all packages.
    #[must_use]
    pub fn replace(&self, url: &Url) -> bool {
        let is_default = url.host_str() == Some("registry.npmjs.org");
        self.0.iter().any(|sources| {
            let (values, is_all) = sources.values("replace-registry-host");
            is_default && !is_all
                || values.iter().any(|value| match *value {
                    "always" => true,
                    "npmjs" => is_default,
                    value => is_below(url, value),
                })
        })
    }

    /// A setting by which the package manager may read another lockfile than the usual one, or none.
    #[must_use]
    pub fn other_lockfile(&self) -> Option<&'static str> {
        let has = |(key, usual): &(&str, &str)| {
            self.0.iter().any(|sources| sources.values(key).0.iter().any(|value| value != usual))
        };
        LOCKFILES.iter().find(|setting| has(setting)).map(|(key, _)| *key)
    }
}

/// Whether an address has the host `prefix`, or begins with it if it is an address too.
fn is_below(url: &Url, prefix: &str) -> bool {
    match Url::parse(prefix) {
        Ok(prefix) if prefix.has_host() => {
            url.host() == prefix.host()
                && segments(url.path()).starts_with(&segments(prefix.path()))
        }
        _ => url.host_str() == Some(prefix) || host_of(url) == prefix,
    }
}
