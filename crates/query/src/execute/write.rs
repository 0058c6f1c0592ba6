//! Writes values directly into the text of the answer.

use std::collections::HashMap;

use apollo_compiler::response::JsonMap;
use model::{Publication, PublicationId, Purl};

use super::cursor;
use super::fetched::{Fetched, FoundHistory};
use crate::config::RegistrySettings;
use crate::error::{QueryError, Segment};

/// The data for the answer, from the store and the introspection.
pub(super) struct Found<'a> {
    pub(super) fetched: &'a Fetched,
    pub(super) meta: Option<&'a JsonMap>,
    pub(super) registry: &'a RegistrySettings,
}

impl<'a> Found<'a> {
    /// The row of a key.
    pub(super) fn row(&self, slot: Option<usize>) -> Option<&'a Publication> {
        self.fetched.rows.get(slot?)?.as_ref()
    }
}

/// Why a value was not written completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The answer is longer than allowed.
    TooLong,
    /// A field error made the value null. So are the values around it, up to the first nullable one.
    Null,
}

pub(super) type Written = Result<(), Stop>;

pub(super) struct Writer<'a> {
    pub(super) out: Vec<u8>,
    /// The errors of values that became null.
    pub(super) errors: Vec<QueryError>,
    pub(super) ecosystem: &'a str,
    pub(super) histories: &'a HashMap<PublicationId, FoundHistory>,
    pub(super) max_length: usize,
    pub(super) max_errors: usize,
    /// The current indices in the enclosing lists.
    pub(super) indexes: Vec<usize>,
}

impl Writer<'_> {
    pub(super) fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    pub(super) fn null(&mut self) -> Written {
        self.raw("null");
        Ok(())
    }

    pub(super) fn text(&mut self, text: &str) {
        // Writing to a vector cannot fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }

    pub(super) fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.raw("null"),
        }
    }

    pub(super) fn flag(&mut self, flag: Option<bool>) {
        self.raw(match flag {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        });
    }

    /// Writes a word of the row as a value of its enumeration.
    pub(super) fn word(&mut self, word: &str) {
        self.out.push(b'"');
        self.out.extend(word.bytes().map(|letter| letter.to_ascii_uppercase()));
        self.out.push(b'"');
    }

    pub(super) fn purl(&mut self, row: &Publication) {
        let purl = Purl::canonical(self.ecosystem, &row.id);
        self.text(&purl);
    }

    pub(super) fn cursor(&mut self, row: Option<&Publication>) {
        match row {
            Some(row) => self.text(&cursor::encode(row.info.created, &row.id)),
            None => self.raw("null"),
        }
    }

    /// Writes a nullable value, or null when an error made it null.
    pub(super) fn nullable(&mut self, write: impl FnOnce(&mut Self) -> Written) -> Written {
        let (length, depth) = (self.out.len(), self.indexes.len());
        match write(self) {
            Err(Stop::Null) => {
                self.out.truncate(length);
                self.indexes.truncate(depth);
                self.null()
            }
            other => other,
        }
    }

    pub(super) fn list<'i, T: 'i>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Written,
    ) -> Written {
        self.out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.indexes.push(index);
            write(self, item)?;
            self.indexes.pop();
            self.check()?;
        }
        self.out.push(b']');
        Ok(())
    }

    pub(super) fn check(&self) -> Written {
        if self.out.len() > self.max_length { Err(Stop::TooLong) } else { Ok(()) }
    }

    /// Adds a field error. Its path has a 0 for each list, which is replaced by the current index.
    pub(super) fn fail(&mut self, error: &QueryError) -> Written {
        if self.errors.len() < self.max_errors {
            let mut error = error.clone();
            let lists = error.path.iter_mut().filter(|own| matches!(own, Segment::ListIndex(_)));
            for (segment, index) in lists.zip(&self.indexes) {
                *segment = Segment::ListIndex(*index);
            }
            self.errors.push(error);
        }
        Err(Stop::Null)
    }
}
