//! A bounded map that evicts entries which weren't inserted again.

use std::hash::Hash;

use minicbor::{Decode, Encode};

use super::OrderedMap;

/// Maximal number of entries. Beyond it, entries from before the latest half are evicted.
pub(crate) const MAX_ENTRIES: usize = 1 << 16;

/// A map that evicts its older half when it is full.
#[derive(Debug, Encode, Decode)]
pub(crate) struct TwoGenCache<K: Hash + Eq, V> {
    #[n(0)]
    young: OrderedMap<K, V>,
    #[n(1)]
    old: OrderedMap<K, V>,
    #[n(2)]
    forgotten: u64,
}

impl<K: Hash + Eq, V> Default for TwoGenCache<K, V> {
    fn default() -> Self {
        Self { young: OrderedMap::default(), old: OrderedMap::default(), forgotten: 0 }
    }
}

impl<K: Hash + Eq, V> TwoGenCache<K, V> {
    /// Inserts a value.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= MAX_ENTRIES / 2 {
            self.forgotten += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Number of evicted entries.
    #[cfg(test)]
    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
