//! Names of queues that were unlinked before the call that created the queue returned.
//!
//! Invariant: a removal waits for at most [`LATE_NS`], and at most [`MAX_PENDING`] wait on the host; each one
//! is reported, with its queue or without.

use std::collections::VecDeque;

use indexmap::map::Entry;
use minicbor::{Decode, Encode};

use super::{ObjectChange, tracked::LATE_NS};
use crate::event::shared::SharedState;
use crate::{engine::track::OrderedMap, steps::step};

/// Number of pending removals, over all namespaces.
const MAX_PENDING: usize = 1 << 12;

/// The pending removals of one namespace.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) struct PendingRemovals {
    /// The changes to report, by name.
    #[n(0)]
    known: OrderedMap<Box<[u8]>, ObjectChange>,
    /// In order of time; entries whose removal was replaced are skipped.
    #[n(1)]
    order: VecDeque<(u64, Box<[u8]>)>,
}

/// Number of pending removals on the host.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct PendingOnHost(#[n(0)] usize);

impl PendingRemovals {
    /// Adds a removal, and expires old ones.
    pub(super) fn insert(
        &mut self,
        name: &[u8],
        removal: ObjectChange,
        on_host: &mut PendingOnHost,
        changes: &mut Vec<ObjectChange>,
    ) {
        let at = removal.boot_ns;
        self.expire(Some(at), on_host, changes);
        if on_host.0 >= MAX_PENDING {
            match self.pop(on_host, |_| true) {
                Some(oldest) => changes.push(oldest),
                None => return changes.push(removal),
            }
        }
        self.order.push_back((at, name.into()));
        match self.known.entry(name.into()) {
            Entry::Occupied(mut known) => changes.push(known.insert(removal)),
            Entry::Vacant(free) => {
                free.insert(removal);
                on_host.0 += 1;
            }
        }
    }

    /// The call that created the queue returned: takes its removal.
    pub(super) fn remove(
        &mut self,
        name: &[u8],
        on_host: &mut PendingOnHost,
    ) -> Option<ObjectChange> {
        let removal = self.known.remove(name)?;
        on_host.0 = on_host.0.saturating_sub(1);
        Some(removal)
    }

    /// Reports removals of queues whose creation hasn't arrived and no longer will.
    pub(super) fn expire(
        &mut self,
        now: Option<u64>,
        on_host: &mut PendingOnHost,
        changes: &mut Vec<ObjectChange>,
    ) {
        let over = |at: u64| now.is_none_or(|now| now > at.saturating_add(LATE_NS));
        while let Some(removal) = self.pop(on_host, over) {
            changes.push(removal);
        }
    }

    /// Removes the oldest, if the predicate holds.
    fn pop(
        &mut self,
        on_host: &mut PendingOnHost,
        is_such: impl Fn(u64) -> bool,
    ) -> Option<ObjectChange> {
        while let Some((at, _)) = self.order.front()
            && is_such(*at)
        {
            step();
            let (at, name) = self.order.pop_front()?;
            if self.known.get(&name).is_some_and(|removal| removal.boot_ns == at) {
                return self.remove(&name, on_host);
            }
        }
        None
    }
}
