//! A map that caches the index of its last hit: calls come in bursts of one thread in one namespace, and
//! comparing a key is cheaper than hashing it.
//!
//! Invariant: the cached index is used only if its key is the requested one.

use std::hash::Hash;

use minicbor::{Decode, Encode};

use super::OrderedMap;

/// The map. Its order is unspecified.
#[derive(Clone, Debug, Encode, Decode)]
pub(super) struct LastHitMap<K: Hash + Eq, V> {
    #[n(0)]
    map: OrderedMap<K, V>,
    #[n(1)]
    last: usize,
}

impl<K: Hash + Eq, V> Default for LastHitMap<K, V> {
    fn default() -> Self {
        Self { map: OrderedMap::default(), last: 0 }
    }
}

impl<K: Hash + Eq, V> LastHitMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.map.iter()
    }

    #[inline]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self.map.get_index(self.last) {
            Some((known, value)) if known == key => Some(value),
            Some(_) | None => self.find(key),
        }
    }

    #[cold]
    fn find(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// Moves the cached index to this key.
    #[inline]
    pub(super) fn seek(&mut self, key: &K) {
        if self.map.get_index(self.last).is_none_or(|(known, _)| known != key) {
            self.turn_to(key);
        }
    }

    #[cold]
    fn turn_to(&mut self, key: &K) {
        self.last = self.map.get_index_of(key).unwrap_or(self.last);
    }

    /// The value of a key, created by `make(self)` if missing.
    #[inline]
    pub(super) fn get_or_insert(&mut self, key: K, make: impl FnOnce(&mut Self) -> V) -> &mut V {
        let mut at = self.last;
        if self.map.get_index(at).is_none_or(|(known, _)| *known != key) {
            at = self.find_or_insert(key, make);
        }
        #[expect(clippy::indexing_slicing, reason = "it was found there, or put there")]
        &mut self.map[at]
    }

    #[cold]
    fn find_or_insert(&mut self, key: K, make: impl FnOnce(&mut Self) -> V) -> usize {
        let at = match self.map.get_index_of(&key) {
            Some(at) => at,
            None => {
                let value = make(self);
                self.map.insert_full(key, value).0
            }
        };
        self.last = at;
        at
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.map.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.map.remove(key)
    }

    /// The mutable value of a key.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.map.keys()
    }

    /// Keeps only these entries.
    #[cfg(test)]
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.map.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_index_is_not_used_for_another_key() {
        let mut table = LastHitMap::default();
        for key in 0..4 {
            assert_eq!(*table.get_or_insert(key, |_| key * 10), key * 10);
        }
        table.seek(&1);
        assert_eq!(table.get(&1), Some(&10));
        // The last entry moves to the cached index.
        assert_eq!(table.remove(&1), Some(10));
        assert_eq!(table.get(&1), None);
        assert_eq!(table.get(&3), Some(&30));
        table.retain(|key| *key == 0);
        assert_eq!(table.get(&3), None);
        assert_eq!(*table.get_or_insert(3, |_| 33), 33);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn the_value_constructor_may_evict_entries() {
        let mut table = LastHitMap::default();
        table.insert(1, 1);
        let value = table.get_or_insert(2, |table| {
            table.remove(&1);
            2
        });
        assert_eq!(*value, 2);
        assert_eq!(table.get(&1), None);
    }
}
