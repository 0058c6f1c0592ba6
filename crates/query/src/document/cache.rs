//! Validated documents by their text, bounded by the memory they take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use apollo_compiler::ExecutableDocument;
use apollo_compiler::validation::Valid;

type Document = Arc<Valid<ExecutableDocument>>;

/// What a document takes for each byte of its text: 59 was measured over dense documents.
const BYTES_PER_BYTE: usize = 64;
/// What a document takes however short it is.
const BYTES_PER_DOCUMENT: usize = 4_096;

/// Two generations: what is used moves to the young one, and when that holds half of the bytes, the old one is dropped
/// and the young one grows old. Nothing is ordered and nothing is searched, and whatever was used lately stays.
#[derive(Debug)]
pub(crate) struct DocumentCache {
    generations: Mutex<Generations>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Arc<str>, Document>,
    old: HashMap<Arc<str>, Document>,
    young_bytes: usize,
    old_bytes: usize,
}

fn weight(text: &str) -> usize {
    text.len() * BYTES_PER_BYTE + BYTES_PER_DOCUMENT
}

impl DocumentCache {
    /// Holds documents up to about `capacity` bytes of memory; none where that is too little for one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { generations: Mutex::default(), capacity }
    }

    pub(crate) fn get(&self, text: &str) -> Option<Document> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = generations.young.get(text) {
            return Some(document.clone());
        }
        let (text, document) = generations.old.remove_entry(text)?;
        generations.old_bytes -= weight(&text);
        generations.put(text, document.clone(), self.capacity / 2);
        Some(document)
    }

    pub(crate) fn insert(&self, text: &str, document: Document) {
        if weight(text) <= self.capacity / 2 {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            generations.put(text.into(), document, self.capacity / 2);
        }
    }

    /// What the documents are reckoned to take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young_bytes + generations.old_bytes
    }
}

impl Generations {
    fn put(&mut self, text: Arc<str>, document: Document, half: usize) {
        let bytes = weight(&text);
        if self.young_bytes + bytes > half {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        // Two requests may have validated the same text at the same time.
        if self.young.insert(text, document).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        Arc::new(Valid::assume_valid(ExecutableDocument::new()))
    }

    #[test]
    fn what_is_used_stays_and_the_bytes_are_bounded() {
        let capacity = 20 * weight("document 000");
        let cache = DocumentCache::new(capacity);
        cache.insert("document hot", document());
        for number in 0..200 {
            cache.insert(&format!("document {number:03}"), document());
            assert!(cache.get("document hot").is_some(), "{number}");
            assert!(cache.bytes() <= capacity);
        }
        assert!(cache.get("document 000").is_none());
        assert!(cache.get("document 199").is_some());
    }

    #[test]
    fn the_same_text_counts_once_and_a_large_one_is_not_kept() {
        let cache = DocumentCache::new(4 * weight("a"));
        cache.insert("a", document());
        cache.insert("a", document());
        assert_eq!(cache.bytes(), weight("a"));
        cache.insert(&"a".repeat(1_000), document());
        assert_eq!(cache.bytes(), weight("a"));
    }
}
