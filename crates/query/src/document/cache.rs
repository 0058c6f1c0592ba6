//! A cache of validated documents by text, bounded by memory.

use std::sync::Arc;

use super::Prepared;
use crate::generations::Generations;

type Document = Arc<Prepared>;

/// Memory of a document per byte of text: dense documents were measured at 59.
pub(crate) const BYTES_PER_BYTE: usize = 64;
/// Memory of a document in addition, whatever its length.
const BYTES_PER_DOCUMENT: usize = 4_096;

/// Validated documents.
#[derive(Debug)]
pub(crate) struct DocumentCache(Generations<Arc<str>, Document>);

fn weight(text: &str) -> usize {
    text.len() * BYTES_PER_BYTE + BYTES_PER_DOCUMENT
}

impl DocumentCache {
    /// A cache of about `capacity` bytes. It stays empty when that is too little for one document.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Generations::new(capacity))
    }

    pub(crate) fn get(&self, text: &str) -> Option<Document> {
        self.0.get(text)
    }

    pub(crate) fn insert(&self, text: &str, document: Document) {
        self.0.insert(text.into(), document, weight(text));
    }

    /// The estimated memory of all documents, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apollo_compiler::ExecutableDocument;
    use apollo_compiler::validation::Valid;

    fn document() -> Document {
        let document = Valid::assume_valid(ExecutableDocument::new());
        Arc::new(Prepared { document, introspected: None, scans: false })
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
