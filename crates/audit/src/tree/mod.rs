//! A document tree for JSON and YAML with line numbers, which findings need.

mod json;
mod yaml;

use std::collections::HashMap;

pub use json::{json, json_with_trailing_commas};
pub use yaml::{yaml_documents, yaml_with_aliases};

/// The maximum nesting of objects and lists. Real lockfiles are far below it; deeper ones would overflow the stack.
pub const MAX_DEPTH: usize = 128;

/// Why a text cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Invalid syntax, for example in a cut-off file.
    #[error("line {line}: {message}")]
    Grammar {
        /// The line, from 1.
        line: u32,
        /// The parser's message.
        message: String,
    },
    /// The text is nested deeper than [`MAX_DEPTH`].
    #[error("line {0}: nested deeper than {MAX_DEPTH}")]
    TooDeep(u32),
    /// A YAML alias. Package managers write none into lockfiles, and aliases can expand to a huge document.
    #[error("line {0}: a YAML alias, which is not supported here")]
    Alias(u32),
    /// A YAML merge key or a tag. Package managers write none into lockfiles, and a merge key adds members unseen.
    #[error("line {0}: a YAML merge key or tag, which is not supported here")]
    Merge(u32),
    /// A mapping has a key twice, for example after a bad merge. Of JSON, some programs take the first and some the last.
    #[error("line {0}: the same key twice in one mapping")]
    DuplicateKey(u32),
}

impl SyntaxError {
    pub(crate) fn grammar(line: u32, message: impl Into<String>) -> Self {
        Self::Grammar { line, message: message.into() }
    }
}

/// A value, and the line where it or its key begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The line, from 1.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null` or an empty value.
    Null,
    /// `true` or `false`; only in JSON, because YAML scalars stay text.
    Bool(bool),
    /// A number as written; only in JSON.
    Number(String),
    /// A string, or any YAML scalar.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// An object.
    Map(Map),
    /// A YAML alias, which is not expanded.
    Alias,
}

impl Node {
    /// The text, if the value is a text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text or number, as written.
    #[must_use]
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the value is `true`, in JSON or as a YAML scalar.
    #[must_use]
    pub fn is_true(&self) -> bool {
        match &self.value {
            Value::Bool(value) => *value,
            Value::Text(text) => text == "true",
            _ => false,
        }
    }

    /// The object, if the value is one.
    #[must_use]
    pub fn map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items, if the value is a list; else empty.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Whether the value is an alias or contains one.
    #[must_use]
    pub fn has_alias(&self) -> bool {
        match &self.value {
            Value::Alias => true,
            Value::List(items) => items.iter().any(Self::has_alias),
            Value::Map(map) => map.iter().any(|(_, node)| node.has_alias()),
            _ => false,
        }
    }

    /// The member of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.map()?.get(key)
    }

    /// The text of an object's member.
    #[must_use]
    pub fn text_at(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// The first of these members of an object that is neither a text nor null nor false.
    #[must_use]
    pub fn not_text(&self, keys: &[&str]) -> Option<&Self> {
        let is_text =
            |node: &&Self| matches!(node.value, Value::Text(_) | Value::Null | Value::Bool(false));
        keys.iter().filter_map(|key| self.get(key)).find(|node| !is_text(node))
    }
}

/// An object with its members in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map {
    members: Vec<(String, Node)>,
    index: HashMap<String, usize>,
}

impl Map {
    /// The member with this key.
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

    /// Sets a member. Returns whether the key existed.
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
