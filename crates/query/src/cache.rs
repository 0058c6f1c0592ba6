//! A cache that is bounded by memory.

use std::borrow::Borrow;
use std::hash::Hash;

use bytesize::ByteSize;
use hashlink::LruCache;
use parking_lot::Mutex;
use service::metrics::IntGauge;

/// A cache of values and their sizes. The values that were not used for the longest time go first.
pub(crate) struct Cache<K, V> {
    entries: Mutex<Entries<K, V>>,
    capacity: usize,
    gauge: IntGauge,
}

struct Entries<K, V> {
    by_key: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// A cache of `capacity` bytes. `gauge` is the gauge of the bytes in it.
    pub(crate) fn new(capacity: ByteSize, gauge: IntGauge) -> Self {
        let entries = Mutex::new(Entries { by_key: LruCache::new_unbounded(), bytes: 0 });
        let capacity = usize::try_from(capacity.as_u64()).unwrap_or(usize::MAX);
        Self { entries, capacity, gauge }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.entries.lock().by_key.get(key).map(|(value, _)| value.clone())
    }

    /// Adds a value of `bytes` bytes, unless it is larger than the capacity.
    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) {
        if bytes > self.capacity {
            return;
        }
        let entries = &mut *self.entries.lock();
        entries.bytes += bytes;
        // Two requests may have made the same value at the same time.
        if let Some((_, before)) = entries.by_key.insert(key, (value, bytes)) {
            entries.bytes -= before;
        }
        while entries.bytes > self.capacity
            && let Some((_, (_, bytes))) = entries.by_key.remove_lru()
        {
            entries.bytes -= bytes;
        }
        self.gauge.set(i64::try_from(entries.bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(capacity: u64) -> (Cache<String, ()>, IntGauge) {
        let gauge = IntGauge::new("bytes", "Bytes").unwrap();
        (Cache::new(ByteSize::b(capacity), gauge.clone()), gauge)
    }

    #[test]
    fn what_is_used_stays_and_the_bytes_are_bounded() {
        let (cache, gauge) = cache(20);
        cache.insert("hot".into(), (), 1);
        for number in 0..200 {
            cache.insert(number.to_string(), (), 1);
            assert!(cache.get("hot").is_some(), "{number}");
            assert_eq!(gauge.get(), 20.min(number + 2));
        }
        assert!(cache.get("180").is_none() && cache.get("181").is_some());
        cache.insert("large".into(), (), 20);
        assert!(cache.get("hot").is_none() && gauge.get() == 20);
    }

    #[test]
    fn the_same_key_counts_once_and_a_large_value_is_not_kept() {
        let (cache, gauge) = cache(4);
        cache.insert("a".into(), (), 2);
        cache.insert("a".into(), (), 3);
        cache.insert("b".into(), (), 5);
        assert_eq!(gauge.get(), 3);
        assert!(cache.get("a").is_some() && cache.get("b").is_none());
    }
}
