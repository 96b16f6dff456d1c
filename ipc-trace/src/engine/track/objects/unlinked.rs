//! Queues' names that were unlinked before the call that made the queue has returned.
//!
//! Invariant: a removal waits for [`LATE_NS`] at most, and no more wait than [`MAX_PENDING`] on the whole host;
//! each is told of, with its queue or without.

use std::{
    cell::Cell,
    collections::{VecDeque, hash_map::Entry},
    rc::Rc,
};

use super::{Change, one::LATE_NS};
use crate::{engine::track::HashMap, steps::step};

/// Removals that wait, of all namespaces.
const MAX_PENDING: usize = 1 << 12;

/// Those of one namespace.
#[derive(Debug)]
pub(super) struct PendingRemovals {
    /// What is to be told, by name
    known: HashMap<Box<[u8]>, Change>,
    /// By time; a name whose removal is another one by now is passed over
    order: VecDeque<(u64, Box<[u8]>)>,
    /// How many wait on the whole host
    on_host: Rc<Cell<usize>>,
}

impl PendingRemovals {
    pub(super) fn new(on_host: Rc<Cell<usize>>) -> Self {
        Self { known: HashMap::default(), order: VecDeque::new(), on_host }
    }

    /// A name was unlinked. What is not waited for any longer is told of.
    pub(super) fn insert(&mut self, name: &[u8], removal: Change, changes: &mut Vec<Change>) {
        let at = removal.boot_ns;
        self.expire(Some(at), changes);
        if self.on_host.get() >= MAX_PENDING {
            match self.pop(|_| true) {
                Some(oldest) => changes.push(oldest),
                None => return changes.push(removal),
            }
        }
        self.order.push_back((at, name.into()));
        match self.known.entry(name.into()) {
            Entry::Occupied(mut known) => changes.push(known.insert(removal)),
            Entry::Vacant(free) => {
                free.insert(removal);
                self.on_host.set(self.on_host.get() + 1);
            }
        }
    }

    /// The call that made the queue came back.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Change> {
        let removal = self.known.remove(name)?;
        self.on_host.set(self.on_host.get() - 1);
        Some(removal)
    }

    /// Tells of removals of queues whose births have not been told of until now, and will not be.
    pub(super) fn expire(&mut self, now: Option<u64>, changes: &mut Vec<Change>) {
        let over = |at: u64| now.is_none_or(|now| now > at.saturating_add(LATE_NS));
        while let Some(removal) = self.pop(over) {
            changes.push(removal);
        }
    }

    /// The oldest, if it is such.
    fn pop(&mut self, is_such: impl Fn(u64) -> bool) -> Option<Change> {
        while let Some((at, _)) = self.order.front()
            && is_such(*at)
        {
            step();
            let (at, name) = self.order.pop_front()?;
            if self.known.get(&name).is_some_and(|removal| removal.boot_ns == at) {
                return self.remove(&name);
            }
        }
        None
    }
}

impl Drop for PendingRemovals {
    fn drop(&mut self) {
        self.on_host.set(self.on_host.get().saturating_sub(self.known.len()));
    }
}
