//! The settings files of each package manager, and their environment variables.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Environment, Manager, Registries};
use crate::tree::{self, Map, Node, SyntaxError};

/// Why settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file exists and cannot be opened.
    #[error("the settings file {0} cannot be read: {1}")]
    Io(PathBuf, std::io::Error),
    /// The YAML is invalid.
    #[error("the settings file {0}: {1}")]
    Yaml(PathBuf, SyntaxError),
    /// The TOML is invalid.
    #[error("the settings file {0} is not TOML")]
    Toml(PathBuf),
}

/// The registries that a package manager would use. The environment counts first, then the nearest file, then the user's,
/// then the global one. Where several global files may be that one, the result has the registries with each of them.
pub(super) fn registries(
    manager: Manager,
    folders: &[PathBuf],
    environment: &Environment,
) -> Result<Vec<Registries>, SettingsError> {
    let mut registries = of_environment(manager, environment);
    let home = environment.get("HOME").or_else(|| environment.get("USERPROFILE")).map(Path::new);
    let reader = Reader { manager, environment };
    for folder in folders {
        reader.folder(folder, &mut registries)?;
    }
    let of_pnpm = match manager {
        Manager::Pnpm => pnpm_folders(environment, home),
        _ => Vec::new(),
    };
    // pnpm's own file of the user counts before npm's.
    for folder in &of_pnpm {
        registries.or(reader.npmrc(&folder.join("auth.ini"))?);
    }
    let user = ["npm_config_userconfig", "NPM_CONFIG_USERCONFIG"];
    if manager != Manager::Berry
        && let Some(file) = user.iter().find_map(|name| environment.get(name))
    {
        registries.or(reader.npmrc(Path::new(file))?);
    }
    if let Some(home) = home {
        reader.folder(home, &mut registries)?;
    }
    if manager == Manager::Bun
        && let Some(folder) = environment.get("XDG_CONFIG_HOME")
    {
        registries.or(reader.bunfig(&Path::new(folder).join(".bunfig.toml"))?);
    }
    let mut globals = Vec::new();
    for folder in &of_pnpm {
        globals.push(reader.npmrc(&folder.join("rc"))?);
        globals.push(reader.pnpm_workspace(&folder.join("config.yaml"))?);
    }
    for file in npm_globals(manager, &registries, environment, home) {
        globals.push(reader.npmrc(&file)?);
        if manager == Manager::Yarn {
            globals.push(reader.yarnrc(&file.with_file_name("yarnrc"))?);
        }
    }
    // A file that is missing or names nothing is not one of them.
    globals.retain(|global| *global != Registries::default());
    if globals.is_empty() {
        return Ok(vec![registries]);
    }
    let with = |global| {
        let mut all = registries.clone();
        all.or(global);
        all
    };
    Ok(globals.into_iter().map(with).collect())
}

/// The folders in which pnpm's own settings may be: on any system, on Linux, on macOS, on Windows.
fn pnpm_folders(environment: &Environment, home: Option<&Path>) -> Vec<PathBuf> {
    if let Some(folder) = environment.get("XDG_CONFIG_HOME") {
        return vec![Path::new(folder).join("pnpm")];
    }
    let folders = [".config/pnpm", "Library/Preferences/pnpm", "AppData/Local/pnpm/config"];
    home.into_iter().flat_map(|home| folders.map(|folder| home.join(folder))).collect()
}

/// npm's global settings file, which pnpm and Yarn 1 read too. Without a setting, it belongs to the installation of
/// Node.js that runs the package manager. Which one that is is not known, so the result has the files of all that may be.
fn npm_globals(
    manager: Manager,
    registries: &Registries,
    environment: &Environment,
    home: Option<&Path>,
) -> Vec<PathBuf> {
    let (file, prefix) = match manager {
        Manager::Npm | Manager::Pnpm => (&registries.globalconfig, &registries.prefix),
        Manager::Yarn => (&None, &None),
        Manager::Berry | Manager::Bun => return Vec::new(),
    };
    let path = |text: &str| match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    if let Some(file) = file {
        return vec![path(file)];
    }
    let prefixes = match prefix.as_deref().or_else(|| environment.get("PREFIX")) {
        Some(prefix) => vec![path(prefix)],
        None => {
            let folders = std::env::split_paths(environment.get("PATH").unwrap_or_default());
            let nodes = folders.map(|folder| folder.join("node")).filter(|node| node.exists());
            // A version manager's folder may hold links.
            let nodes = nodes.flat_map(|node| [node.canonicalize().unwrap_or_default(), node]);
            let of_nodes = nodes.filter_map(|node| Some(node.parent()?.parent()?.to_owned()));
            of_nodes.chain(["/usr/local", "/usr", "/"].map(Into::into)).collect()
        }
    };
    prefixes.iter().map(|prefix| prefix.join("etc/npmrc")).collect()
}

fn of_environment(manager: Manager, environment: &Environment) -> Registries {
    let own: &[&str] = match manager {
        Manager::Npm => &[],
        Manager::Pnpm => &["pnpm_config_registry", "PNPM_CONFIG_REGISTRY"],
        Manager::Yarn => &["yarn_registry", "YARN_REGISTRY"],
        Manager::Berry => &["YARN_NPM_REGISTRY_SERVER"],
        Manager::Bun => &["BUN_CONFIG_REGISTRY"],
    };
    let mut registries = Registries::default();
    if let Some(registry) = own.iter().find_map(|name| environment.get(name)) {
        registries.set("registry", registry.to_owned());
    }
    if manager == Manager::Berry {
        return registries;
    }
    // npm accepts its variables in any case. Of several spellings the first in sort order counts here.
    let mut variables: Vec<_> = environment.0.iter().collect();
    variables.sort();
    let mut of_npm = Registries::default();
    for (name, value) in variables.into_iter().rev() {
        let is_npm = name.get(..11).is_some_and(|head| head.eq_ignore_ascii_case("npm_config_"));
        if is_npm {
            of_npm.set(&name[11..].to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    registries.or(of_npm);
    registries
}

struct Reader<'e> {
    manager: Manager,
    environment: &'e Environment,
}

impl Reader<'_> {
    fn folder(&self, folder: &Path, registries: &mut Registries) -> Result<(), SettingsError> {
        match self.manager {
            Manager::Npm => {}
            Manager::Pnpm => {
                registries.or(self.pnpm_workspace(&folder.join("pnpm-workspace.yaml"))?);
            }
            Manager::Yarn => registries.or(self.yarnrc(&folder.join(".yarnrc"))?),
            Manager::Berry => {
                registries.or(self.yarnrc_yml(&folder.join(".yarnrc.yml"))?);
                return Ok(());
            }
            Manager::Bun => {
                for name in ["bunfig.toml", ".bunfig.toml"] {
                    registries.or(self.bunfig(&folder.join(name))?);
                }
            }
        }
        registries.or(self.npmrc(&folder.join(".npmrc"))?);
        Ok(())
    }

    /// Reads `.npmrc`: lines `key = value`; `;` and `#` begin comments.
    fn npmrc(&self, path: &Path) -> Result<Registries, SettingsError> {
        let mut registries = Registries::default();
        for line in text(path)?.lines() {
            let line = line.trim();
            if line.starts_with('[') {
                break;
            }
            if line.starts_with([';', '#']) {
                continue;
            }
            if let Some((key, value)) = line.split_once('=') {
                let value = value.split([';', '#']).next().unwrap_or_default();
                let key = self.expand(unquoted(key.trim()));
                registries.set(&key, self.expand(unquoted(value.trim())));
            }
        }
        Ok(registries)
    }

    /// Reads `.yarnrc`: lines `key "value"`.
    fn yarnrc(&self, path: &Path) -> Result<Registries, SettingsError> {
        let mut registries = Registries::default();
        for line in text(path)?.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let (key, value) = match line.strip_prefix('"').and_then(|line| line.split_once('"')) {
                Some(parts) => parts,
                None => line.split_once([' ', '\t', ':']).unwrap_or((line, "")),
            };
            let value = value.trim_start_matches([':', ' ', '\t']);
            registries.set(key, self.expand(unquoted(value.trim())));
        }
        Ok(registries)
    }

    fn yarnrc_yml(&self, path: &Path) -> Result<Registries, SettingsError> {
        let mut registries = Registries::default();
        for document in documents(path)? {
            if let Some(server) = document.text_at("npmRegistryServer") {
                registries.set("registry", self.expand(server));
            }
            let scopes = document.get("npmScopes").and_then(Node::map);
            for (scope, settings) in scopes.into_iter().flat_map(Map::iter) {
                if let Some(server) = settings.text_at("npmRegistryServer") {
                    let scope = scope.trim_start_matches('@');
                    registries.set(&format!("@{scope}:registry"), self.expand(server));
                }
            }
        }
        Ok(registries)
    }

    /// Reads pnpm-workspace.yaml, which holds settings with the keys of `.npmrc` or in a mapping.
    fn pnpm_workspace(&self, path: &Path) -> Result<Registries, SettingsError> {
        let mut registries = Registries::default();
        for document in documents(path)? {
            for (key, value) in document.map().into_iter().flat_map(Map::iter) {
                if let Some(value) = value.text() {
                    registries.set(key, self.expand(value));
                }
            }
            let all = document.get("registries").and_then(Node::map);
            for (scope, value) in all.into_iter().flat_map(Map::iter) {
                let value = self.expand(value.text().unwrap_or_default());
                match scope {
                    "default" => registries.set("registry", value),
                    scope => registries.set(&format!("{scope}:registry"), value),
                }
            }
        }
        Ok(registries)
    }

    fn bunfig(&self, path: &Path) -> Result<Registries, SettingsError> {
        let text = text(path)?;
        let table: toml::Table = text.parse().map_err(|_| SettingsError::Toml(path.to_owned()))?;
        let mut registries = Registries::default();
        let Some(install) = table.get("install").and_then(toml::Value::as_table) else {
            return Ok(registries);
        };
        let address = |value: &toml::Value| {
            let address = value.as_str().or_else(|| value.get("url")?.as_str());
            address.map(|address| self.expand(address))
        };
        if let Some(registry) = install.get("registry").and_then(address) {
            registries.set("registry", registry);
        }
        let scopes = install.get("scopes").and_then(toml::Value::as_table);
        for (scope, value) in scopes.into_iter().flatten() {
            if let Some(registry) = address(value) {
                let scope = scope.trim_start_matches('@');
                registries.set(&format!("@{scope}:registry"), registry);
            }
        }
        Ok(registries)
    }

    /// Expands variables: `${NAME}`, `${NAME-else}`, `${NAME:-else}`, `${NAME?}`, and bun's `$NAME`. An unset one
    /// leaves text that is not a URL, so that the package counts as from another registry.
    fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('$') {
            expanded.push_str(before);
            let braced = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, otherwise, after) = match braced {
                Some((inner, after)) => {
                    let end = inner.find([':', '-', '?']).unwrap_or(inner.len());
                    let otherwise = inner[end..].trim_start_matches([':', '-', '?']);
                    (&inner[..end], otherwise, after)
                }
                None => {
                    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                    let end = behind.find(|letter| !is_name(letter)).unwrap_or(behind.len());
                    (&behind[..end], "", &behind[end..])
                }
            };
            match self.environment.get(name) {
                Some(value) => expanded.push_str(value),
                None if !otherwise.is_empty() => expanded.push_str(otherwise),
                None => expanded.push_str("${unset}"),
            }
            rest = after;
        }
        expanded.push_str(rest);
        expanded
    }
}

fn unquoted(text: &str) -> &str {
    for mark in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(mark).and_then(|text| text.strip_suffix(mark)) {
            return inner;
        }
    }
    text
}

/// The text of a settings file; empty when it does not exist.
fn text(path: &Path) -> Result<String, SettingsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        // A folder of that name is not a settings file.
        Err(_) if path.is_dir() => Ok(String::new()),
        Err(error) => Err(SettingsError::Io(path.to_owned(), error)),
    }
}

fn documents(path: &Path) -> Result<Vec<Node>, SettingsError> {
    tree::yaml_documents(&text(path)?).map_err(|error| SettingsError::Yaml(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Environment(variables.iter().map(owned).collect())
    }

    /// The paths alone: the files of the machine must not decide a test.
    #[test]
    fn global_files_are_named_or_belong_to_an_installation() {
        let files = |manager, named: &Registries, variables: &[(&str, &str)]| {
            npm_globals(manager, named, &environment(variables), Some(Path::new("/users/u")))
        };
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("node"), "").unwrap();
        let path = format!("/nonexistent/bin:{}", bin.display());
        let of_node = folder.path().join("etc/npmrc");
        let system = ["/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc"].map(PathBuf::from);
        let unnamed = Registries::default();
        let by_prefix = Registries { prefix: Some("~/npm".to_owned()), ..Registries::default() };
        for manager in [Manager::Npm, Manager::Pnpm, Manager::Yarn] {
            assert_eq!(files(manager, &unnamed, &[]), system);
            let found = files(manager, &unnamed, &[("PATH", &path)]);
            assert!(found.contains(&of_node) && found.ends_with(&system), "{found:?}");
            let variables = [("PATH", &*path), ("PREFIX", "/p")];
            assert_eq!(files(manager, &unnamed, &variables), [Path::new("/p/etc/npmrc")]);
            // Yarn 1 takes the prefix from the variable alone.
            let expected = match manager {
                Manager::Yarn => "/p/etc/npmrc",
                _ => "/users/u/npm/etc/npmrc",
            };
            assert_eq!(files(manager, &by_prefix, &variables), [Path::new(expected)]);
        }
        for manager in [Manager::Berry, Manager::Bun] {
            assert!(files(manager, &unnamed, &[]).is_empty(), "{manager:?}");
        }
    }

    #[test]
    fn pnpm_has_a_folder_for_settings() {
        let home = Some(Path::new("/users/u"));
        let folders = pnpm_folders(&environment(&[]), home);
        assert!(folders.contains(&"/users/u/.config/pnpm".into()), "{folders:?}");
        let variables = environment(&[("XDG_CONFIG_HOME", "/x")]);
        assert_eq!(pnpm_folders(&variables, home), [Path::new("/x/pnpm")]);
    }
}
