//! The package managers' settings, which decide the registry of a package without a location.

mod files;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::location::RegistryHosts;
use crate::lockfile::Format;

pub use files::SettingsError;

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

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The registries in the settings: the default one, and one per scope. Also the location of npm's global settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Registries {
    default: Option<String>,
    /// By scope, without `@`.
    scopes: HashMap<String, String>,
    /// npm's global settings file.
    globalconfig: Option<String>,
    /// The folder in which that file is `etc/npmrc`.
    prefix: Option<String>,
}

impl Registries {
    /// Adds the registries of `other` that are not set yet, so that earlier settings take precedence.
    fn or(&mut self, other: Self) {
        self.default = self.default.take().or(other.default);
        self.globalconfig = self.globalconfig.take().or(other.globalconfig);
        self.prefix = self.prefix.take().or(other.prefix);
        for (scope, registry) in other.scopes {
            self.scopes.entry(scope).or_insert(registry);
        }
    }

    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return;
        }
        match key {
            "registry" => self.default = Some(value),
            "globalconfig" => self.globalconfig = Some(value),
            "prefix" => self.prefix = Some(value),
            _ => {
                let scope = key.strip_prefix('@').and_then(|key| key.strip_suffix(":registry"));
                if let Some(scope) = scope {
                    self.scopes.insert(scope.to_owned(), value);
                }
            }
        }
    }

    fn of(&self, name: &str) -> Option<&str> {
        let scope = name.strip_prefix('@').and_then(|name| name.split('/').next());
        let by_scope = scope.and_then(|scope| self.scopes.get(scope));
        by_scope.or(self.default.as_ref()).map(String::as_str)
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

/// The settings for one lockfile, of each package manager that may have written it, and of each global file that may count.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<Registries>);

impl Settings {
    /// Reads the settings in the lockfile's folder, in parent folders up to the repository's root, in the home folder,
    /// in the global files, and in the environment.
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
        let folders = folders(folder);
        let read = |manager: &Manager| files::registries(*manager, &folders, environment);
        let all: Vec<Vec<Registries>> = managers.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self(all.concat()))
    }

    /// Whether a package of that name would come from another registry.
    #[must_use]
    pub fn name_another(&self, name: &str, hosts: &RegistryHosts) -> bool {
        let mut registries = self.0.iter().filter_map(|registries| registries.of(name));
        registries.any(|registry| !hosts.has_registry(registry))
    }
}

/// The folder and its parents, up to the root of the repository.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let folder = folder.canonicalize().unwrap_or(folder);
    let mut folders = Vec::new();
    for folder in folder.ancestors() {
        folders.push(folder.to_owned());
        if folder.join(".git").exists() {
            break;
        }
    }
    folders
}
