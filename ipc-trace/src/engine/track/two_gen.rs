//! A bounded table that forgets what has not been told again.

use super::HashMap;

/// How many are remembered. When there are more, those that came before the last half are forgotten.
pub(crate) const LIMIT: usize = 1 << 16;

/// A table of which the older half is forgotten when it is full.
#[derive(Debug)]
pub(crate) struct TwoGenCache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    forgotten: u64,
}

impl<K, V> Default for TwoGenCache<K, V> {
    fn default() -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), forgotten: 0 }
    }
}

impl<K: std::hash::Hash + Eq, V> TwoGenCache<K, V> {
    /// Remembers a value.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= LIMIT / 2 {
            self.forgotten += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// What is remembered.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// How many had to make room.
    #[cfg(test)]
    pub(crate) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
