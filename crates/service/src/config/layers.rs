//! The merged table of file and environment, with the source of each key.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{ConfigError, Origin, join, lookup};

/// Reads a file; `None` if it does not exist and need not exist. Then a file may have the name of its folder.
pub(super) fn read(path: &Path, must_exist: bool) -> Result<Option<String>, ConfigError> {
    let is_absent = |kind| matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(error.kind()) && !must_exist => Ok(None),
        Err(error) => Err(ConfigError::Read { path: path.into(), reason: error.to_string() }),
    }
}

/// A configuration key from an environment variable's name.
#[derive(Debug, Clone)]
pub(super) struct EnvironmentKey {
    variable: String,
    segments: Vec<String>,
}

impl EnvironmentKey {
    /// `variable` begins with `prefix`. A name with lower-case letters is not a key, because two variables could
    /// otherwise name the same key.
    pub(super) fn parse(prefix: &str, variable: String) -> Result<Self, ConfigError> {
        let path = &variable[prefix.len()..];
        let segments: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        if path.is_empty() || path.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let key = segments.join(".");
            return Err(ConfigError::UnknownKey { key, origin: Origin::Variable(variable) });
        }
        Ok(Self { variable, segments })
    }

    fn dotted(&self) -> String {
        self.segments.join(".")
    }
}

/// A merged variable, kept for error messages and for a second try as a string.
struct Merged {
    key: EnvironmentKey,
    text: String,
    /// Whether the value was parsed as TOML and could be tried as a string.
    parsed: bool,
}

/// File and environment, merged. The defaults stay in code and only show which keys are strings.
pub(super) struct Layers {
    defaults: Table,
    pass_through: &'static [&'static str],
    merged: Table,
    file: Option<PathBuf>,
    variables: Vec<Merged>,
}

impl Layers {
    pub(super) fn new(defaults: Table, pass_through: &'static [&'static str]) -> Self {
        Self { defaults, pass_through, merged: Table::new(), file: None, variables: Vec::new() }
    }

    pub(super) fn table(&self) -> &Table {
        &self.merged
    }

    pub(super) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let mut table: Table = text.parse().map_err(|error| syntax(path, text, &error))?;
        for dotted in self.pass_through {
            if let Some(Value::Table(open)) = lookup_mut(&mut table, dotted) {
                let flat = flatten(dotted, std::mem::take(open), path)?;
                *open = flat;
            }
        }
        self.merged = table;
        self.file = Some(path.into());
        Ok(())
    }

    pub(super) fn add_variable(
        &mut self,
        mut key: EnvironmentKey,
        text: &str,
    ) -> Result<(), ConfigError> {
        let dotted = key.dotted();
        if let Some(Value::Table(table)) = lookup(&self.defaults, &dotted) {
            // It would replace the file's whole table.
            let first = table.keys().next().map_or("KEY", String::as_str).to_ascii_uppercase();
            let expected =
                format!("expected one variable for each key, such as {}__{first}", key.variable);
            return Err(ConfigError::IllTyped {
                key: dotted,
                origin: Origin::Variable(key.variable),
                expected,
            });
        }
        for open in self.pass_through {
            let Some(inner) = dotted.strip_prefix(open).and_then(|rest| rest.strip_prefix('.'))
            else {
                continue;
            };
            key.segments = open.split('.').map(str::to_owned).collect();
            key.segments.push(inner.replace('_', "."));
            self.insert(key, text, as_toml(text).filter(Value::is_str));
            return Ok(());
        }
        // For a key with a string default, unquoted text stays a string: `123` is a valid name of a group.
        let is_string = matches!(lookup(&self.defaults, &dotted), Some(Value::String(_)));
        let value = as_toml(text).filter(|value| !is_string || value.is_str());
        self.insert(key, text, value);
        Ok(())
    }

    fn insert(&mut self, key: EnvironmentKey, text: &str, value: Option<Value>) {
        let parsed = matches!(&value, Some(value) if !value.is_str());
        put(&mut self.merged, &key.segments, value.unwrap_or_else(|| text.into()));
        self.variables.push(Merged { key, text: text.into(), parsed });
    }

    /// Deserializes the merged table. A variable for a key without a default (an `Option`) may have been parsed as TOML
    /// although the key needs a string: it is then tried again as a string.
    pub(super) fn deserialize<T: DeserializeOwned>(mut self) -> Result<T, ConfigError> {
        loop {
            let error = match serde_path_to_error::deserialize(self.merged.clone()) {
                Ok(settings) => return Ok(settings),
                Err(error) => error,
            };
            let failed = path_of(&error);
            let has_default = lookup(&self.defaults, &failed).is_some();
            let reread = self.variables.iter_mut().find(|variable| {
                variable.parsed && !has_default && variable.key.dotted() == failed
            });
            let Some(variable) = reread else {
                return Err(self.explain(failed, error.inner().message()));
            };
            variable.parsed = false;
            let text = variable.text.as_str().into();
            put(&mut self.merged, &variable.key.segments.clone(), text);
        }
    }

    fn explain(&self, failed: String, message: &str) -> ConfigError {
        let variable = self.variables.iter().rev().find(|variable| {
            let dotted = variable.key.dotted();
            is_within(&dotted, &failed) || is_within(&failed, &dotted)
        });
        let origin = match (variable, &self.file) {
            (Some(variable), _) => Origin::Variable(variable.key.variable.clone()),
            (None, Some(file)) => Origin::File(file.clone()),
            // Without a file and without a variable, only the defaults were read.
            (None, None) => return ConfigError::Default(format!("{failed}: {message}")),
        };
        if let Some(field) = between(message, "unknown field `", '`') {
            let key = if failed == field || failed.ends_with(&format!(".{field}")) {
                failed
            } else {
                join(&failed, field)
            };
            return ConfigError::UnknownKey { key, origin };
        }
        // The variable's path continues below a key that is not a table, so there is no such key.
        if let Some(variable) =
            variable.filter(|variable| variable.key.dotted().len() > failed.len())
        {
            return ConfigError::UnknownKey { key: variable.key.dotted(), origin };
        }
        let value = lookup(&self.merged, &failed);
        ConfigError::IllTyped { expected: without_value(message, value), key: failed, origin }
    }
}

/// serde writes `invalid type: string "…", expected u16`: only the text after the value is safe to repeat. Other
/// messages are repeated unless they contain the value.
fn without_value(message: &str, value: Option<&Value>) -> String {
    if let Some((_, expected)) = message.rsplit_once(", expected ") {
        return format!("expected {}", in_words(expected));
    }
    if message == "invalid socket address syntax" {
        return "expected an address and a port, such as \"127.0.0.1:8080\"".into();
    }
    let quotes = |value: &Value| match value {
        Value::String(text) => !text.is_empty() && message.contains(text.as_str()),
        other => message.contains(&other.to_string()),
    };
    if value.is_some_and(quotes) { "not a value of this key".into() } else { message.into() }
}

/// What serde and the types say of themselves, for who does not write Rust.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => {
            "a whole number of 0 or more, without quotation marks"
        }
        "a sequence" => "a list in brackets",
        "parsable string" => "a size, such as \"48MiB\"",
        "a boolean" => "true or false, without quotation marks",
        other => other,
    }
}

fn between<'a>(text: &'a str, head: &str, end: char) -> Option<&'a str> {
    let (_, rest) = text.split_once(head)?;
    rest.split_once(end).map(|(inner, _)| inner)
}

/// Whether the first path equals the second path or is below it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn path_of(error: &serde_path_to_error::Error<toml::de::Error>) -> String {
    let path = error.path().to_string();
    // serde writes the root as a dot.
    if path == "." { String::new() } else { path }
}

/// Parses a value in TOML's notation. `None` for other text, and for text that adds further keys.
fn as_toml(text: &str) -> Option<Value> {
    let mut table: Table = format!("value = {text}").parse().ok()?;
    let value = table.remove("value")?;
    table.is_empty().then_some(value)
}

/// Sets a value at a path, and replaces values on the way that are not tables.
fn put(table: &mut Table, segments: &[String], value: Value) {
    let Some((first, rest)) = segments.split_first() else { return };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return;
    }
    let entry = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
    if !entry.is_table() {
        *entry = Value::Table(Table::new());
    }
    if let Value::Table(inner) = entry {
        put(inner, rest, value);
    }
}

fn lookup_mut<'a>(table: &'a mut Table, dotted: &str) -> Option<&'a mut Value> {
    let mut segments = dotted.split('.');
    let first = table.get_mut(segments.next()?)?;
    segments.try_fold(first, |value, segment| value.as_table_mut()?.get_mut(segment))
}

/// `{security = {protocol = "ssl"}}` becomes `{"security.protocol" = "ssl"}`.
fn flatten(path: &str, open: Table, file: &Path) -> Result<Table, ConfigError> {
    fn walk(table: Table, name: &str, flat: &mut Table) -> Result<(), (String, &'static str)> {
        for (key, value) in table {
            let name = join(name, &key);
            let text = match value {
                Value::Table(inner) => {
                    walk(inner, &name, flat)?;
                    continue;
                }
                Value::Array(_) => return Err((name, "expected a string, a number or a boolean")),
                Value::String(text) => text,
                scalar => scalar.to_string(),
            };
            if flat.insert(name.clone(), Value::String(text)).is_some() {
                return Err((name, "it is set twice, with and without quotation marks"));
            }
        }
        Ok(())
    }
    let mut flat = Table::new();
    walk(open, "", &mut flat).map_err(|(name, expected)| ConfigError::IllTyped {
        key: join(path, &name),
        origin: Origin::File(file.into()),
        expected: expected.into(),
    })?;
    Ok(flat)
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    ConfigError::Syntax {
        path: path.into(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        reason: error.message().to_owned(),
    }
}
