//! Destroyed objects: the latest are kept, evictions are counted.

use std::collections::VecDeque;

use ipc_trace_common::record::NsRef;
use minicbor::{Decode, Encode};

use super::tracked::{ObjectId, TrackedObject};
use crate::engine::track::OrderedMap;
use crate::event::shared::SharedState;

/// Number of destroyed objects kept.
pub(super) const MAX_TOMBSTONES: usize = 1 << 14;

/// The destroyed objects.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct Tombstones {
    /// With the number of each entry, which identifies its position in `order`.
    #[n(0)]
    known: OrderedMap<(NsRef, ObjectId), (u64, Box<TrackedObject>)>,
    #[n(1)]
    order: VecDeque<(u64, NsRef, ObjectId)>,
    #[n(2)]
    entered: u64,
    #[n(3)]
    forgotten: u64,
}

impl Tombstones {
    pub(super) fn insert(&mut self, ns: NsRef, local: ObjectId, one: Box<TrackedObject>) {
        self.entered += 1;
        self.order.push_back((self.entered, ns, local));
        if self.known.insert((ns, local), (self.entered, one)).is_some() {
            self.forgotten += 1;
        }
        while self.order.len() > MAX_TOMBSTONES {
            if let Some((number, ns, local)) = self.order.pop_front()
                && self.known.get(&(ns, local)).is_some_and(|one| one.0 == number)
            {
                self.known.remove(&(ns, local));
                self.forgotten += 1;
            }
        }
    }

    pub(super) fn get(&self, ns: NsRef, local: ObjectId) -> Option<&TrackedObject> {
        self.known.get(&(ns, local)).map(|one| one.1.as_ref())
    }

    pub(super) fn get_mut(&mut self, ns: NsRef, local: ObjectId) -> Option<&mut TrackedObject> {
        self.known.get_mut(&(ns, local)).map(|one| one.1.as_mut())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (NsRef, ObjectId, &TrackedObject)> {
        self.known.iter().map(|((ns, local), one)| (*ns, *local, one.1.as_ref()))
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
