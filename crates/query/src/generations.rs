//! A cache that is bounded by memory.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

/// A cache of two generations. A value that is used moves to the young one. When that holds half of the capacity, it
/// replaces the old one. This keeps recent values without an order or a search.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    tables: Mutex<Tables<K, V>>,
    capacity: usize,
}

#[derive(Debug)]
struct Tables<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    young_bytes: usize,
    old_bytes: usize,
}

impl<K: Hash + Eq, V: Clone> Generations<K, V> {
    /// A cache of about `capacity` bytes. It stays empty when that is too little for one value.
    pub(crate) fn new(capacity: usize) -> Self {
        let tables =
            Tables { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, old_bytes: 0 };
        Self { tables: Mutex::new(tables), capacity }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut tables = self.tables.lock();
        if let Some((value, _)) = tables.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, bytes)) = tables.old.remove_entry(key)?;
        tables.old_bytes -= bytes;
        tables.put(key, (value.clone(), bytes), self.capacity);
        Some(value)
    }

    /// Adds a value of `bytes` bytes, unless it is larger than the capacity.
    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) {
        if bytes <= self.capacity {
            let mut tables = self.tables.lock();
            tables.put(key, (value, bytes), self.capacity);
        }
    }

    /// The size of all values, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let tables = self.tables.lock();
        tables.young_bytes + tables.old_bytes
    }
}

impl<K: Hash + Eq, V> Tables<K, V> {
    fn put(&mut self, key: K, value: (V, usize), capacity: usize) {
        let bytes = value.1;
        if self.young_bytes + bytes > capacity / 2 {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        // A value of more than half of the capacity.
        if self.young_bytes + self.old_bytes + bytes > capacity {
            self.old.clear();
            self.old_bytes = 0;
        }
        // Two requests may have made the same value at the same time.
        if self.young.insert(key, value).is_none() {
            self.young_bytes += bytes;
        }
    }
}
