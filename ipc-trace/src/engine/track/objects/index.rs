//! Indices of objects: by key and name within a namespace, and of the namespaces that have a key, name or id.
//!
//! Invariant: every object that a key, name or id leads to is in the global index; a hit is checked in its
//! namespace before it is used.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::BuildHasher as _,
};

use foldhash::fast::RandomState;
use ipc_trace_common::{op::ObjectKind, record::NsRef};
use minicbor::{Decode, Encode};

use super::tracked::{ObjectId, TrackedObject};
use crate::engine::track::OrderedMap;

/// Maximal number of namespaces returned for a lookup.
pub(crate) const MAX_CANDIDATES: usize = 64;

/// The key of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupKey<'a> {
    /// A key of a kind
    Key(ObjectKind, u32),
    /// An id of a kind
    Id(ObjectKind, i32),
    /// A queue's name
    Name(&'a [u8]),
}

/// The index over all namespaces, with pending notifications about objects.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct GlobalIndex {
    #[n(0)]
    keys: BTreeSet<(ObjectKind, u32, NsRef)>,
    #[n(1)]
    ids: BTreeSet<(ObjectKind, i32, NsRef)>,
    /// By hash: the names themselves are stored with their namespaces.
    #[cbor(skip)]
    names: BTreeSet<(u64, NsRef)>,
    #[cbor(skip)]
    hasher: RandomState,
    /// Objects that got a new user.
    #[n(2)]
    new_users: Vec<(NsRef, ObjectId)>,
    /// Removed objects that may be in use, the oldest first, with some that have been destroyed since.
    #[n(3)]
    pub(super) removed: VecDeque<(NsRef, ObjectId)>,
}

/// Number of pending notifications about new users; they are taken after each call.
const MAX_NEW_USERS: usize = 1 << 10;

impl GlobalIndex {
    fn name(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Namespaces other than `but` that may have it.
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
        found.filter(|ns| *ns != but).take(MAX_CANDIDATES).collect()
    }

    /// Notes that an object has a new user.
    pub(super) fn note_new_user(&mut self, ns: NsRef, local: ObjectId) {
        if self.new_users.len() < MAX_NEW_USERS {
            self.new_users.push((ns, local));
        }
    }

    pub(super) fn take_new_users(&mut self) -> Vec<(NsRef, ObjectId)> {
        std::mem::take(&mut self.new_users)
    }
}

/// The index of one namespace.
#[derive(Debug, Encode, Decode)]
pub(super) struct NamespaceIndex {
    #[n(0)]
    ns: NsRef,
    #[n(1)]
    keys: OrderedMap<(ObjectKind, u32), i32>,
    #[n(2)]
    names: OrderedMap<Box<[u8]>, ObjectId>,
}

impl NamespaceIndex {
    pub(super) fn new(ns: NsRef) -> Self {
        Self { ns, keys: OrderedMap::default(), names: OrderedMap::default() }
    }

    /// Enters the names in the index over all namespaces.
    pub(super) fn index_names(&self, everywhere: &mut GlobalIndex) {
        for name in self.names.keys() {
            let hash = everywhere.name(name);
            everywhere.names.insert((hash, self.ns));
        }
    }

    pub(super) fn of_key(&self, kind: ObjectKind, key: u32) -> Option<i32> {
        self.keys.get(&(kind, key)).copied()
    }

    pub(super) fn of_name(&self, name: &[u8]) -> Option<ObjectId> {
        self.names.get(name).copied()
    }

    /// Adds an object under its key or name.
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

    /// Removes an object's key and name.
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
