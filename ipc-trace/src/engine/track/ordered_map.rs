//! A hash map whose iteration order depends only on what was inserted and removed, and in which order. So the same inputs
//! give the same output, and a checkpoint that keeps the order keeps all of it.

use std::{
    hash::Hash,
    ops::{Deref, DerefMut},
};

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use ipc_trace_common::cbor::{Encoded, invalid};
use minicbor::{Decode, Decoder, Encode, Encoder, decode::Error, encode::Write};

/// The map. [`OrderedMap::remove`] moves the last entry to the place of the removed one.
#[derive(Clone, Debug)]
pub(crate) struct OrderedMap<K, V>(IndexMap<K, V, RandomState>);

impl<K, V> Default for OrderedMap<K, V> {
    fn default() -> Self {
        Self(IndexMap::default())
    }
}

impl<K, V> Deref for OrderedMap<K, V> {
    type Target = IndexMap<K, V, RandomState>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V> DerefMut for OrderedMap<K, V> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<K: Hash + Eq, V> OrderedMap<K, V> {
    /// Removes an entry, and returns its value.
    pub(crate) fn remove<Q: ?Sized + Hash + indexmap::Equivalent<K>>(
        &mut self,
        key: &Q,
    ) -> Option<V> {
        self.0.swap_remove(key)
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for OrderedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl<K, V> IntoIterator for OrderedMap<K, V> {
    type Item = (K, V);
    type IntoIter = indexmap::map::IntoIter<K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a OrderedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = indexmap::map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut OrderedMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = indexmap::map::IterMut<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

impl<C, K: Encode<C>, V: Encode<C>> Encode<C> for OrderedMap<K, V> {
    fn encode<W: Write>(&self, to: &mut Encoder<W>, context: &mut C) -> Encoded<W> {
        to.map(self.len() as u64)?;
        self.iter().try_for_each(|(key, value)| {
            key.encode(to, context)?;
            value.encode(to, context)
        })
    }
}

impl<'b, C, K: Decode<'b, C> + Hash + Eq, V: Decode<'b, C>> Decode<'b, C> for OrderedMap<K, V> {
    fn decode(from: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        let len = from.map()?.ok_or_else(|| invalid("a map without a length"))?;
        // The length isn't trusted: memory is allocated only for entries that exist.
        (0..len).map(|_| Ok((K::decode(from, context)?, V::decode(from, context)?))).collect()
    }
}
