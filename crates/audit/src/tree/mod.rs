//! A document read from JSON or YAML, with the line of each value: a finding has to name the line in the lockfile.

mod json;
mod yaml;

use std::collections::HashMap;

pub use json::{json, json_with_trailing_commas};
pub use yaml::yaml_documents;

/// The greatest nesting of objects and lists. No lockfile comes near; a deeper one is an attack on the stack.
pub const MAX_DEPTH: usize = 128;

/// Why a text is not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// The grammar is broken, as in a file that was cut off.
    #[error("line {line}: {message}")]
    Grammar {
        /// Where, from 1.
        line: u32,
        /// What the parser says.
        message: String,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("line {0}: nested deeper than {MAX_DEPTH}")]
    TooDeep(u32),
    /// A YAML alias. No tool writes one, and aliases can make a small file huge.
    #[error("line {0}: a YAML alias, which no lockfile has")]
    Alias(u32),
    /// A YAML key twice in one mapping, as a bad merge leaves it.
    #[error("line {0}: the same key twice in one mapping")]
    DuplicateKey(u32),
}

impl SyntaxError {
    pub(crate) fn grammar(line: u32, message: impl Into<String>) -> Self {
        Self::Grammar { line, message: message.into() }
    }
}

/// A value and the line where it (or its key) begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// From 1.
    pub line: u32,
    /// What stands there.
    pub value: Value,
}

/// What a document is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, or nothing.
    Null,
    /// `true` or `false`; only from JSON, because a YAML scalar stays text.
    Bool(bool),
    /// A number as it is written; only from JSON.
    Number(String),
    /// A string, or any YAML scalar.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// An object.
    Map(Map),
}

impl Node {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text or the number, as it is written.
    #[must_use]
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `true`, also as a YAML scalar.
    #[must_use]
    pub fn is_true(&self) -> bool {
        match &self.value {
            Value::Bool(value) => *value,
            Value::Text(text) => text == "true",
            _ => false,
        }
    }

    /// The object, if it is one.
    #[must_use]
    pub fn map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items of a list; none where it is not one.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The member of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.map()?.get(key)
    }

    /// The text of the member of an object.
    #[must_use]
    pub fn text_at(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }
}

/// An object: its members in the order of the file. Of a key that is there twice the last counts, as in `JSON.parse`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map {
    members: Vec<(String, Node)>,
    index: HashMap<String, usize>,
}

impl Map {
    /// The member of that name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.index.get(key).map(|&at| &self.members[at].1)
    }

    /// All members in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.members.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// Whether it has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Sets a member. Returns whether the key was there already.
    fn insert(&mut self, key: String, node: Node) -> bool {
        if let Some(&at) = self.index.get(&key) {
            self.members[at].1 = node;
            return true;
        }
        self.index.insert(key.clone(), self.members.len());
        self.members.push((key, node));
        false
    }
}
