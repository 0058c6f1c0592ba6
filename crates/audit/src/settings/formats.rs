//! The formats of the settings files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Environment, Source};
use crate::tree::{self, Map, Node, SyntaxError, Value};

/// Why settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file exists and cannot be opened.
    #[error("the settings file {0} cannot be read: {1}")]
    Io(PathBuf, std::io::Error),
    /// The YAML is invalid.
    #[error("the settings file {0}: {1}")]
    Yaml(PathBuf, SyntaxError),
    /// A variable of the environment has a key twice.
    #[error("the variable {0}: {1}")]
    Variable(String, SyntaxError),
    /// The TOML is invalid.
    #[error("the settings file {0} is not TOML")]
    Toml(PathBuf),
    /// A registry of pnpm's in a form that this program does not know, so that a private one would be missed.
    #[error("the settings file {0}, line {1}: `{2}` has an entry that is not known")]
    Registry(PathBuf, u32, &'static str),
}

/// Reads settings files, in which variables of the environment are expanded.
pub(super) struct Reader<'e>(pub(super) &'e Environment);

impl Reader<'_> {
    /// Reads `.npmrc`: lines `key = value`; `;` and `#` begin comments.
    pub(super) fn npmrc(&self, path: &Path) -> Result<Source, SettingsError> {
        let mut source = Source::default();
        for line in text(path)?.split(['\r', '\n']) {
            // As npm reads it, only a line that is wholly `[…]` begins a section. The keys in it are none of npm's.
            let section = line.strip_prefix('[').and_then(|line| line.trim_end().strip_suffix(']'));
            if section.is_some_and(|name| !name.contains(']')) {
                break;
            }
            let line = line.trim();
            if line.starts_with([';', '#']) {
                continue;
            }
            if let Some((key, value)) = line.split_once('=') {
                let value = value.split([';', '#']).next().unwrap_or_default();
                let key = self.expand(unquoted(key.trim()));
                source.set(&key, self.expand(unquoted(value.trim())));
            }
        }
        Ok(source)
    }

    /// Reads `.yarnrc`: lines `key "value"`.
    pub(super) fn yarnrc(&self, path: &Path) -> Result<Source, SettingsError> {
        let mut source = Source::default();
        let text = text(path)?;
        for line in text.split(['\r', '\n']).map(str::trim).filter(|line| !line.starts_with('#')) {
            let (key, value) = match line.strip_prefix('"').and_then(|line| line.split_once('"')) {
                Some(parts) => parts,
                None => line.split_once([' ', '\t', ':']).unwrap_or((line, "")),
            };
            let value = value.trim_start_matches([':', ' ', '\t']);
            source.set(key, self.expand(unquoted(value.trim())));
        }
        Ok(source)
    }

    pub(super) fn yarnrc_yml(&self, path: &Path) -> Result<Source, SettingsError> {
        let mut source = Source::default();
        for document in documents(path)? {
            if let Some(name) = document.text_at("lockfileFilename") {
                source.set("lockfileFilename", self.expand(name));
            }
            if let Some(server) = document.text_at("npmRegistryServer") {
                source.set("registry", self.expand(server));
            }
            let scopes = document.get("npmScopes").and_then(Node::map);
            for (scope, settings) in scopes.into_iter().flat_map(Map::iter) {
                if let Some(server) = settings.text_at("npmRegistryServer") {
                    let scope = scope.trim_start_matches('@');
                    source.set(&format!("@{scope}:registry"), self.expand(server));
                }
            }
        }
        Ok(source)
    }

    /// Reads pnpm-workspace.yaml, with the keys of `.npmrc` or with the registries in a mapping.
    pub(super) fn pnpm_workspace(&self, path: &Path) -> Result<Source, SettingsError> {
        self.pnpm_yaml(path, &["registries"])
    }

    /// Reads pnpm's config.yaml, which may have credentials for registries too.
    pub(super) fn pnpm_config(&self, path: &Path) -> Result<Source, SettingsError> {
        self.pnpm_yaml(path, &["_auth", "registries"])
    }

    fn pnpm_yaml(&self, path: &Path, maps: &[&'static str]) -> Result<Source, SettingsError> {
        let mut source = Source::default();
        for document in documents(path)? {
            for (key, value) in document.map().into_iter().flat_map(Map::iter) {
                let key = if key == "npmrcAuthFile" { "npmrc_auth_file" } else { key };
                if let Some(value) = value.text() {
                    source.set(key, self.expand(value));
                }
            }
            for &key in maps {
                let map = document.get(key).filter(|node| node.value != Value::Null);
                if let Some(line) = map.and_then(|map| self.routes(map, &mut source).err()) {
                    return Err(SettingsError::Registry(path.to_owned(), line, key));
                }
            }
        }
        Ok(source)
    }

    /// Reads pnpm's `registries`, which leads from scopes to addresses, or from addresses to scopes, and its `_auth`, in
    /// which an address has an entry for each scope. `Err` has the line of an entry in another form.
    pub(super) fn routes(&self, map: &Node, source: &mut Source) -> Result<(), u32> {
        for (key, entry) in map.map().ok_or(map.line)?.iter() {
            match &entry.value {
                Value::Text(address) if key == "default" || key.starts_with('@') => {
                    source.set(&registry_key(key), self.expand(address));
                }
                Value::Map(fields) if key.contains("//") => {
                    for scope in scopes(fields).ok_or(entry.line)? {
                        source.set(&registry_key(scope), self.expand(key));
                    }
                }
                _ => return Err(entry.line),
            }
        }
        Ok(())
    }

    pub(super) fn bunfig(&self, path: &Path) -> Result<Source, SettingsError> {
        let text = text(path)?;
        let table: toml::Table = text.parse().map_err(|_| SettingsError::Toml(path.to_owned()))?;
        let mut source = Source::default();
        let Some(install) = table.get("install").and_then(toml::Value::as_table) else {
            return Ok(source);
        };
        let address = |value: &toml::Value| {
            let address = value.as_str().or_else(|| value.get("url")?.as_str());
            address.map(|address| self.expand(address))
        };
        if let Some(registry) = install.get("registry").and_then(address) {
            source.set("registry", registry);
        }
        let scopes = install.get("scopes").and_then(toml::Value::as_table);
        for (scope, value) in scopes.into_iter().flatten() {
            if let Some(registry) = address(value) {
                let scope = scope.trim_start_matches('@');
                source.set(&format!("@{scope}:registry"), registry);
            }
        }
        Ok(source)
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
            match self.0.get(name) {
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

/// The scopes whose packages come from a registry: those in a list, and those that are keys themselves.
fn scopes(fields: &Map) -> Option<Vec<&str>> {
    let listed = match fields.get("scopes").map(|node| &node.value) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::List(items)) => items.iter().map(Node::text).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    let keys = fields.iter().map(|(key, _)| key).filter(|key| key.starts_with('@'));
    Some(keys.chain(listed).collect())
}

/// The key of a scope's registry in `.npmrc`. `@` alone stands for all packages that have no other one.
fn registry_key(scope: &str) -> String {
    match scope {
        "@" | "default" => "registry".to_owned(),
        scope => format!("{scope}:registry"),
    }
}

/// The text of a settings file; empty when it does not exist.
fn text(path: &Path) -> Result<String, SettingsError> {
    match std::fs::read_to_string(path) {
        // Editors may write a byte order mark, which every package manager skips.
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        // A folder of that name is not a settings file.
        Err(_) if path.is_dir() => Ok(String::new()),
        Err(error) => Err(SettingsError::Io(path.to_owned(), error)),
    }
}

/// The documents of a YAML file. Settings that have nothing to do with registries may have aliases.
fn documents(path: &Path) -> Result<Vec<Node>, SettingsError> {
    let fails = |error| SettingsError::Yaml(path.to_owned(), error);
    let documents = tree::yaml_with_aliases(&text(path)?).map_err(fails)?;
    for (key, value) in documents.iter().filter_map(Node::map).flat_map(Map::iter) {
        let names_registries = matches!(
            key,
            "registries" | "_auth" | "npmrcAuthFile" | "npmScopes" | "npmRegistryServer"
        );
        if key == "<<" {
            return Err(fails(SyntaxError::Merge(value.line)));
        }
        if (names_registries || Source::is_read(key)) && value.has_alias() {
            return Err(fails(SyntaxError::Alias(value.line)));
        }
    }
    Ok(documents)
}
