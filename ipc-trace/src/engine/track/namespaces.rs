//! IPC namespaces: their creation and death.
//!
//! Creations are observed as they happen. Deaths are found by listing: a namespace that is missing from two
//! complete lists in a row, or whose number was reused, has died in between. One list isn't enough: it is
//! read without the kernel's lock, and may miss an entry next to one being removed.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{record::NsRef, state::HOST_INUM};
use minicbor::{Decode, Encode};

use super::{OrderedMap, contexts::TaskInfo};
use crate::event::shared::SharedState;
use crate::{event::IpcNs, input::namespace_list::NamespaceList};

/// Number of dead namespaces kept: records of theirs may still arrive.
const MAX_DEAD: usize = 1 << 14;

/// The creation of a namespace.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct NamespaceCreation {
    /// When, boot time in nanoseconds.
    #[n(0)]
    pub boot_ns: u64,
    /// The thread that created it.
    #[n(1)]
    pub tid: u32,
    /// The task of that thread.
    #[cbor(n(2), with = "crate::event::shared::optional")]
    pub by: Option<Rc<TaskInfo>>,
}

/// The death of a namespace, between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Death {
    /// When it last existed, boot time in nanoseconds; `None`: unknown.
    #[n(0)]
    pub after: Option<u64>,
    /// When it no longer existed, boot time in nanoseconds.
    #[n(1)]
    pub before: u64,
}

/// A tracked namespace.
#[derive(Clone, Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct NamespaceInfo {
    /// The kernel's own number
    #[n(0)]
    pub ns_id: Option<u64>,
    /// Its creation, if observed.
    #[n(1)]
    pub creation: Option<NamespaceCreation>,
    /// Its death.
    #[n(2)]
    pub death: Option<Death>,
    /// Whether it existed at the start or was reported on a line.
    #[n(3)]
    reported: bool,
    /// When it was last known to exist.
    #[n(4)]
    alive: Option<u64>,
    /// The first list since then in which it was missing.
    #[n(5)]
    missing: Option<u64>,
}

/// All tracked namespaces.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct NamespaceTracker {
    #[n(0)]
    known: OrderedMap<NsRef, NamespaceInfo>,
    /// The latest generation of each number.
    #[n(1)]
    latest: OrderedMap<u32, u32>,
    #[n(2)]
    dead: VecDeque<NsRef>,
}

impl NamespaceTracker {
    /// A namespace was seen in a record or a list. Returns the namespace that it replaced.
    pub(crate) fn found(
        &mut self,
        ns: NsRef,
        ns_id: Option<u64>,
        boot_ns: u64,
    ) -> Option<(NsRef, Death)> {
        let ended = self.supersede(ns, boot_ns);
        let info = self.known.entry(ns).or_default();
        info.ns_id = info.ns_id.or(ns_id);
        info.alive = info.alive.max(Some(boot_ns));
        ended
    }

    /// A namespace was created. Returns the namespace that it replaced.
    pub(crate) fn insert_created(
        &mut self,
        ns: NsRef,
        ns_id: Option<u64>,
        creation: NamespaceCreation,
    ) -> Option<(NsRef, Death)> {
        let ended = self.found(ns, ns_id, creation.boot_ns);
        if let Some(info) = self.known.get_mut(&ns) {
            info.creation = Some(creation);
            info.reported = true;
        }
        ended
    }

    /// Marks all known namespaces as existing at the start.
    pub(crate) fn were_there(&mut self) {
        self.known.values_mut().for_each(|info| info.reported = true);
    }

    /// Marks and returns the living namespaces that weren't reported: their creation records were lost.
    pub(crate) fn take_unreported(&mut self) -> Vec<NsRef> {
        let unreported =
            self.known.iter_mut().filter(|(_, info)| !info.reported && info.death.is_none());
        let mut unreported: Vec<NsRef> = unreported
            .map(|(ns, info)| {
                info.reported = true;
                *ns
            })
            .collect();
        unreported.sort_unstable();
        unreported
    }

    /// Number of living namespaces.
    #[must_use]
    pub(crate) fn living(&self) -> usize {
        self.known.values().filter(|info| info.death.is_none()).count()
    }

    /// Ends the previous namespace of a number: only one has it at a time.
    fn supersede(&mut self, ns: NsRef, boot_ns: u64) -> Option<(NsRef, Death)> {
        let latest = self.latest.entry(ns.inum).or_insert(ns.generation);
        if *latest >= ns.generation {
            return None;
        }
        let before = NsRef { generation: *latest, ..ns };
        *latest = ns.generation;
        self.end(before, boot_ns).map(|death| (before, death))
    }

    fn end(&mut self, ns: NsRef, before: u64) -> Option<Death> {
        let info = self.known.get_mut(&ns)?;
        if info.death.is_some() {
            return None;
        }
        let death = Death { after: info.alive, before };
        info.death = Some(death);
        self.dead.push_back(ns);
        Some(death)
    }

    /// Applies a namespace list. Returns the namespaces that have died.
    pub(crate) fn on_namespace_list(
        &mut self,
        namespace_list: &NamespaceList,
    ) -> Vec<(NsRef, Death)> {
        let mut ended = Vec::new();
        for alive in &namespace_list.alive {
            ended.extend(self.found(alive.ns, alive.ns_id, namespace_list.boot_ns));
            if let Some(info) = self.known.get_mut(&alive.ns) {
                info.missing = None;
            }
        }
        if !namespace_list.complete {
            return ended;
        }
        let mut gone = Vec::new();
        for (ns, info) in &mut self.known {
            // A namespace seen after the list began need not be in it.
            if info.death.is_some() || info.alive >= Some(namespace_list.boot_ns) {
                continue;
            }
            match info.missing {
                Some(first) => gone.push((*ns, first)),
                None => info.missing = Some(namespace_list.boot_ns),
            }
        }
        gone.sort_unstable();
        for (ns, first) in gone {
            ended.extend(self.end(ns, first).map(|death| (ns, death)));
        }
        ended
    }

    /// Evicts dead namespaces beyond the bound. Call this when no earlier record can arrive.
    pub(crate) fn forget(&mut self) {
        while self.dead.len() > MAX_DEAD {
            if let Some(ns) = self.dead.pop_front() {
                self.known.remove(&ns);
                if self.latest.get(&ns.inum) == Some(&ns.generation) {
                    self.latest.remove(&ns.inum);
                }
            }
        }
    }

    /// The state of a namespace.
    #[must_use]
    pub(crate) fn get(&self, ns: NsRef) -> Option<&NamespaceInfo> {
        self.known.get(&ns)
    }

    /// The living namespace of a number.
    #[must_use]
    pub(crate) fn of_inum(&self, inum: u32) -> Option<NsRef> {
        let ns = NsRef { inum, generation: *self.latest.get(&inum)? };
        self.known.get(&ns).filter(|info| info.death.is_none()).map(|_| ns)
    }

    /// All namespaces, by number and generation.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<(NsRef, &NamespaceInfo)> {
        let mut all: Vec<_> = self.known.iter().map(|(ns, info)| (*ns, info)).collect();
        all.sort_unstable_by_key(|one| one.0);
        all
    }

    /// A namespace as events show it.
    #[must_use]
    pub(crate) fn show(&self, ns: NsRef) -> IpcNs {
        IpcNs {
            inum: ns.inum,
            r#gen: ns.generation,
            ns_id: self.known.get(&ns).and_then(|info| info.ns_id),
            host: is_host(ns),
        }
    }
}

/// Whether it is the initial IPC namespace, which never dies.
#[must_use]
pub(crate) const fn is_host(ns: NsRef) -> bool {
    ns.inum == HOST_INUM
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::namespace_list::Alive;

    fn ns(inum: u32, generation: u32) -> NsRef {
        NsRef { inum, generation }
    }

    fn list(boot_ns: u64, alive: &[NsRef], complete: bool) -> NamespaceList {
        let alive = alive.iter().map(|&ns| Alive { ns, ns_id: None }).collect();
        NamespaceList { boot_ns, alive, complete, ..NamespaceList::default() }
    }

    fn creation(boot_ns: u64) -> NamespaceCreation {
        NamespaceCreation { boot_ns, tid: 1, by: None }
    }

    #[test]
    fn a_death_lies_between_the_last_listing_and_the_first_miss() {
        let mut all = NamespaceTracker::default();
        assert!(all.on_namespace_list(&list(10, &[ns(1, 1), ns(2, 1)], true)).is_empty());
        assert!(all.on_namespace_list(&list(20, &[ns(1, 1)], true)).is_empty());
        let ended = all.on_namespace_list(&list(30, &[ns(1, 1)], true));
        assert_eq!(ended, [(ns(2, 1), Death { after: Some(10), before: 20 })]);
        assert!(all.on_namespace_list(&list(40, &[ns(1, 1)], true)).is_empty());
        assert_eq!(all.of_inum(2), None);
        assert_eq!(all.of_inum(1), Some(ns(1, 1)));
    }

    #[test]
    fn a_single_miss_or_an_incomplete_list_is_not_a_death() {
        let mut all = NamespaceTracker::default();
        all.on_namespace_list(&list(10, &[ns(1, 1)], true));
        assert!(all.on_namespace_list(&list(20, &[], true)).is_empty());
        assert!(all.on_namespace_list(&list(30, &[ns(1, 1)], true)).is_empty());
        assert!(all.on_namespace_list(&list(40, &[], true)).is_empty());
        assert!(all.on_namespace_list(&list(50, &[], false)).is_empty());
        assert_eq!(all.on_namespace_list(&list(60, &[], true)).len(), 1);
    }

    #[test]
    fn a_namespace_created_during_the_listing_is_not_missed() {
        let mut all = NamespaceTracker::default();
        all.insert_created(ns(3, 1), None, creation(25));
        assert!(all.on_namespace_list(&list(20, &[], true)).is_empty());
        assert!(all.on_namespace_list(&list(24, &[], true)).is_empty());
        assert!(all.get(ns(3, 1)).unwrap().missing.is_none());
    }

    #[test]
    fn a_reused_number_ends_the_previous_generation() {
        let mut all = NamespaceTracker::default();
        all.insert_created(ns(3, 1), None, creation(10));
        let ended = all.insert_created(ns(3, 2), Some(77), creation(50));
        assert_eq!(ended, Some((ns(3, 1), Death { after: Some(10), before: 50 })));
        assert_eq!(all.show(ns(3, 2)).ns_id, Some(77));
        assert_eq!(all.of_inum(3), Some(ns(3, 2)));
        // A late record of the first generation doesn't revive it.
        assert_eq!(all.found(ns(3, 1), None, 60), None);
        assert_eq!(all.of_inum(3), Some(ns(3, 2)));
    }

    #[test]
    fn dead_namespaces_are_bounded() {
        let mut all = NamespaceTracker::default();
        for i in 0..3 * MAX_DEAD as u32 {
            all.insert_created(ns(i, 1), None, creation(1));
        }
        all.on_namespace_list(&list(10, &[], true));
        all.on_namespace_list(&list(20, &[], true));
        all.forget();
        assert_eq!(all.known.len(), MAX_DEAD);
        assert_eq!(all.latest.len(), MAX_DEAD);
    }
}
