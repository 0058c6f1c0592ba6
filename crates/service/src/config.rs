//! Layered settings: defaults in code, then a TOML file, then the environment.
//!
//! The environment variable of a key is the prefix and the path in upper case, joined by `__`: `store.url` is
//! `QUERY_STORE__URL`. Its value is parsed as TOML if possible, else it is a string; if the key's default is a string, only a
//! quoted TOML string is parsed as TOML. A line feed at its end is left out. An error names the key and never quotes a value,
//! because a value may be a secret.

pub mod duration;
mod error;
mod layers;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use error::{ConfigError, Origin};
use layers::{EnvironmentKey, Layers};

/// The settings of a daemon: a struct with `#[serde(deny_unknown_fields, default)]` on every level, so that each key has
/// its default in code and no other key exists.
pub trait Settings: Default + Serialize + DeserializeOwned {
    /// Dotted paths of tables that are passed on unchecked, such as `kafka.client`: a map from string to string. Nested
    /// tables are flattened with dots, numbers and booleans become strings, and a single `_` in the name of an
    /// environment variable means a dot.
    const PASS_THROUGH: &'static [&'static str] = &[];

    /// Checks constraints that types cannot express, such as a limit that must not be 0.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], which names the key.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// Reads the settings.
///
/// `prefix` ends in an underscore (`QUERY_`). `file` is the file given on the command line and must exist; without it,
/// `default_file` is read if it exists. `environment` is the process's whole environment; every variable with the
/// prefix must be a key, and no variable may have the prefix in other letter case or after another word.
///
/// # Errors
/// [`ConfigError`]: a file that cannot be read or is not TOML, an unknown key, a value of the wrong type, or a value
/// that [`Settings::check`] refuses.
pub fn load<T: Settings>(
    prefix: &str,
    file: Option<&Path>,
    default_file: &Path,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<T, ConfigError> {
    let mut layers = Layers::new(defaults::<T>()?, T::PASS_THROUGH);
    let path = file.unwrap_or(default_file);
    if let Some(text) = layers::read(path, file.is_some())? {
        layers.add_file(path, &text)?;
    }
    let mut variables: Vec<(OsString, OsString)> = environment.collect();
    // The environment has no order, and the first error should be the same in every run.
    variables.sort_unstable();
    let sections = defaults::<T>()?;
    for (name, value) in variables {
        // Variables of other programs may have any bytes.
        let name = name.to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            let Ok(value) = value.into_string() else { return Err(ConfigError::NotText { name }) };
            // Secrets are often files that end with a line feed.
            let value = value.strip_suffix('\n').unwrap_or(&value);
            layers.add_variable(EnvironmentKey::parse(prefix, name)?, value)?;
        } else if let Some(meant) = correct_name(prefix, &name, &sections) {
            return Err(ConfigError::Misnamed { name, meant });
        }
    }
    let settings: T = layers.deserialize()?;
    settings.check()?;
    Ok(settings)
}

/// The mistakes of a configuration file that should list every key with its default: missing keys, and keys whose value
/// differs from the default in code. Empty if there are none. A key without a default (an `Option` that is `None`)
/// cannot be listed and is not reported.
///
/// # Errors
/// [`ConfigError`] if the file cannot be loaded.
pub fn differences<T: Settings>(path: &Path) -> Result<Vec<String>, ConfigError> {
    let defaults = defaults::<T>()?;
    let text = layers::read(path, true)?.unwrap_or_default();
    let mut layers = Layers::new(defaults.clone(), T::PASS_THROUGH);
    layers.add_file(path, &text)?;
    let shown = keys(layers.table());
    let loaded = serialize(&layers.deserialize::<T>()?)?;
    let mut wrong: Vec<String> = keys(&defaults)
        .difference(&shown)
        .map(|key| format!("`{key}` is not in the file"))
        .collect();
    for key in &shown {
        if lookup(&defaults, key) != lookup(&loaded, key) {
            wrong.push(format!("`{key}` is not the default in the file"));
        }
    }
    Ok(wrong)
}

/// The correct name of a misspelt variable that names one of the sections, and that would otherwise be ignored:
/// `SAMPLE_STORE__URL` for `sample_store__url` and `MY_SAMPLE_STORE__URL`.
fn correct_name(prefix: &str, name: &str, sections: &Table) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let at = upper.find(prefix)?;
    let (section, _) = upper[at + prefix.len()..].split_once("__")?;
    let whole_word = at == 0 || upper[..at].ends_with('_');
    let known = sections.contains_key(&section.to_ascii_lowercase());
    (whole_word && known).then(|| upper[at..].to_owned())
}

fn defaults<T: Settings>() -> Result<Table, ConfigError> {
    serialize(&T::default())
}

fn serialize<T: Serialize>(settings: &T) -> Result<Table, ConfigError> {
    Table::try_from(settings).map_err(|error| ConfigError::Default(error.to_string()))
}

/// The dotted paths of all leaves; an empty table is a leaf.
fn keys(table: &Table) -> BTreeSet<String> {
    fn walk(table: &Table, path: &str, keys: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = join(path, name);
            match value {
                Value::Table(inner) if !inner.is_empty() => walk(inner, &path, keys),
                _ => {
                    keys.insert(path);
                }
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(table, "", &mut all);
    all
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn lookup<'a>(table: &'a Table, dotted: &str) -> Option<&'a Value> {
    let mut segments = dotted.split('.');
    let first = table.get(segments.next()?)?;
    segments.try_fold(first, |value, segment| value.as_table()?.get(segment))
}
