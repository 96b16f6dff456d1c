//! Queues' names that were unlinked before the call that made the queue has returned.
//!
//! Invariant: a removal waits for [`LATE_NS`] at most, and no more wait than [`MAX_PENDING`] on the whole host;
//! each is told of, with its queue or without.

use std::collections::{VecDeque, hash_map::Entry};

use super::{ObjectChange, tracked::LATE_NS};
use crate::{engine::track::HashMap, steps::step};

/// Removals that wait, of all namespaces.
const MAX_PENDING: usize = 1 << 12;

/// Those of one namespace.
#[derive(Debug, Default)]
pub(super) struct PendingRemovals {
    /// What is to be told, by name
    known: HashMap<Box<[u8]>, ObjectChange>,
    /// By time; a name whose removal is another one by now is passed over
    order: VecDeque<(u64, Box<[u8]>)>,
}

/// How many wait on the whole host.
#[derive(Debug, Default)]
pub(super) struct PendingOnHost(usize);

impl PendingRemovals {
    /// A name was unlinked. What is not waited for any longer is told of.
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

    /// The call that made the queue came back.
    pub(super) fn remove(
        &mut self,
        name: &[u8],
        on_host: &mut PendingOnHost,
    ) -> Option<ObjectChange> {
        let removal = self.known.remove(name)?;
        on_host.0 = on_host.0.saturating_sub(1);
        Some(removal)
    }

    /// Tells of removals of queues whose births have not been told of until now, and will not be.
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

    /// The oldest, if it is such.
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
