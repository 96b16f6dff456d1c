//! Ways to objects: keys and names within a namespace, and in which namespaces a key, a name or an id
//! leads to something at all.
//!
//! Invariant: an object that a key, name or id leads to is in the index of all namespaces; what is in the
//! index is asked for again in its namespace before it counts.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::BuildHasher as _,
};

use ipc_trace_common::{op::Family, record::NsRef};

use super::tracked::{ObjectId, TrackedObject};
use crate::engine::track::HashMap;

/// Namespaces that one question is answered with at most.
pub(crate) const MANY: usize = 64;

/// Something that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupKey<'a> {
    /// A key of a kind
    Key(Family, u32),
    /// An id of a kind
    Id(Family, i32),
    /// A queue's name
    Name(&'a [u8]),
}

/// What all namespaces have, and what was noticed about objects of any.
#[derive(Debug, Default)]
pub(super) struct GlobalIndex {
    keys: BTreeSet<(Family, u32, NsRef)>,
    ids: BTreeSet<(Family, i32, NsRef)>,
    /// By a hash: the names themselves are with their namespaces
    names: BTreeSet<(u64, NsRef)>,
    hasher: crate::engine::track::Seeded,
    /// Objects that somebody new has used
    met: Vec<(NsRef, ObjectId)>,
    /// Objects that were removed and may be in use, the oldest first, and some that are gone since
    pub(super) removed: VecDeque<(NsRef, ObjectId)>,
}

/// Objects that somebody new has used and nobody has asked about: who asks does so after each call.
const MET: usize = 1 << 10;

impl GlobalIndex {
    fn name(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Namespaces, other than one, that may have it.
    pub(super) fn candidates(&self, sought: LookupKey<'_>, but: NsRef) -> Vec<NsRef> {
        const FIRST: NsRef = NsRef { inum: 0, generation: 0 };
        const LAST: NsRef = NsRef { inum: u32::MAX, generation: u32::MAX };
        let found: &mut dyn Iterator<Item = NsRef> = match sought {
            LookupKey::Key(kind, key) => {
                &mut self.keys.range((kind, key, FIRST)..=(kind, key, LAST)).map(|one| one.2)
            }
            LookupKey::Id(kind, id) => {
                &mut self.ids.range((kind, id, FIRST)..=(kind, id, LAST)).map(|one| one.2)
            }
            LookupKey::Name(name) => {
                let hash = self.name(name);
                &mut self.names.range((hash, FIRST)..=(hash, LAST)).map(|one| one.1)
            }
        };
        found.filter(|ns| *ns != but).take(MANY).collect()
    }

    /// Somebody new has used an object.
    pub(super) fn meets(&mut self, ns: NsRef, local: ObjectId) {
        if self.met.len() < MET {
            self.met.push((ns, local));
        }
    }

    pub(super) fn take_met(&mut self) -> Vec<(NsRef, ObjectId)> {
        std::mem::take(&mut self.met)
    }
}

/// The ways to the objects of one namespace.
#[derive(Debug)]
pub(super) struct NamespaceIndex {
    ns: NsRef,
    keys: HashMap<(Family, u32), i32>,
    names: HashMap<Box<[u8]>, ObjectId>,
}

impl NamespaceIndex {
    pub(super) fn new(ns: NsRef) -> Self {
        Self { ns, keys: HashMap::default(), names: HashMap::default() }
    }

    pub(super) fn of_key(&self, kind: Family, key: u32) -> Option<i32> {
        self.keys.get(&(kind, key)).copied()
    }

    pub(super) fn of_name(&self, name: &[u8]) -> Option<ObjectId> {
        self.names.get(name).copied()
    }

    /// An object can be reached by this.
    pub(super) fn add(
        &mut self,
        everywhere: &mut GlobalIndex,
        local: ObjectId,
        key: Option<u32>,
        name: Option<&[u8]>,
    ) {
        if let ObjectId::Sysv(kind, id) = local {
            everywhere.ids.insert((kind, id, self.ns));
            // 0 is IPC_PRIVATE.
            if let Some(key) = key.filter(|key| *key != 0) {
                self.keys.insert((kind, key), id);
                everywhere.keys.insert((kind, key, self.ns));
            }
        }
        if let Some(name) = name {
            self.names.insert(name.into(), local);
            let hash = everywhere.name(name);
            everywhere.names.insert((hash, self.ns));
        }
    }

    /// An object can be reached no more.
    pub(super) fn remove(
        &mut self,
        everywhere: &mut GlobalIndex,
        local: ObjectId,
        one: &TrackedObject,
    ) {
        if let ObjectId::Sysv(kind, id) = local {
            everywhere.ids.remove(&(kind, id, self.ns));
            if let Some(key) = one.key
                && self.keys.get(&(kind, key)) == Some(&id)
            {
                self.keys.remove(&(kind, key));
                everywhere.keys.remove(&(kind, key, self.ns));
            }
        }
        if let Some(name) = &one.name
            && self.names.get(name) == Some(&local)
        {
            self.names.remove(name);
            let hash = everywhere.name(name);
            everywhere.names.remove(&(hash, self.ns));
        }
    }
}
