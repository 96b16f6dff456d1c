//! Which namespaces live, since when, and by whom they were made.
//!
//! Births are seen as they happen. Deaths are found by looking: a namespace that is missing from
//! two complete lists in a row, or whose number has been given to another, has died in between.
//! One list is not enough: it is read without the kernel's lock, and may miss an entry that is
//! next to one being removed.

use std::{collections::VecDeque, rc::Rc};

use ipc_trace_common::{record::NsRef, state::HOST_INUM};

use super::{HashMap, contexts::TaskInfo};
use crate::{event::IpcNs, input::namespace_list::NamespaceList};

/// Dead namespaces that are remembered: records of theirs may still come, late.
const DEAD: usize = 1 << 14;

/// How a namespace came to be.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceCreation {
    /// When
    pub boot_ns: u64,
    /// The thread that made it
    pub tid: u32,
    /// Who that is
    pub by: Option<Rc<TaskInfo>>,
}

/// A namespace's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    /// It existed then
    pub after: Option<u64>,
    /// It did not exist any more then
    pub before: u64,
}

/// What is known of a namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamespaceInfo {
    /// The kernel's own number
    pub ns_id: Option<u64>,
    /// Its birth, if that was seen
    pub birth: Option<NamespaceCreation>,
    /// Its end
    pub death: Option<Death>,
    /// Whether it was there at the start, or a line has told of it
    told: bool,
    /// When it was known to exist last
    alive: Option<u64>,
    /// The first list, since then, in which it was missing
    missing: Option<u64>,
}

/// All namespaces that are known.
#[derive(Debug, Default)]
pub(crate) struct NamespaceTracker {
    known: HashMap<NsRef, NamespaceInfo>,
    /// The latest life of each number
    latest: HashMap<u32, u32>,
    dead: VecDeque<NsRef>,
}

impl NamespaceTracker {
    /// A namespace showed itself: in a record or in a list.
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

    /// A namespace was made.
    pub(crate) fn born(
        &mut self,
        ns: NsRef,
        ns_id: Option<u64>,
        birth: NamespaceCreation,
    ) -> Option<(NsRef, Death)> {
        let ended = self.found(ns, ns_id, birth.boot_ns);
        if let Some(info) = self.known.get_mut(&ns) {
            info.birth = Some(birth);
            info.told = true;
        }
        ended
    }

    /// All that are known were there at the start.
    pub(crate) fn were_there(&mut self) {
        self.known.values_mut().for_each(|info| info.told = true);
    }

    /// Those that live and of which no line has told: their births were lost.
    pub(crate) fn take_untold(&mut self) -> Vec<NsRef> {
        let untold = self.known.iter_mut().filter(|(_, info)| !info.told && info.death.is_none());
        let mut untold: Vec<NsRef> = untold
            .map(|(ns, info)| {
                info.told = true;
                *ns
            })
            .collect();
        untold.sort_unstable();
        untold
    }

    /// How many live.
    #[must_use]
    pub(crate) fn living(&self) -> usize {
        self.known.values().filter(|info| info.death.is_none()).count()
    }

    /// A number has one namespace at a time: when a new one has it, the one before is dead.
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

    /// A list of what exists: those that have died since the lists before.
    pub(crate) fn listed(&mut self, namespace_list: &NamespaceList) -> Vec<(NsRef, Death)> {
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
            // What showed itself after the list began need not be in it.
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

    /// Forgets dead namespaces beyond the bound: call when no earlier record can come any more.
    pub(crate) fn forget(&mut self) {
        while self.dead.len() > DEAD {
            if let Some(ns) = self.dead.pop_front() {
                self.known.remove(&ns);
                if self.latest.get(&ns.inum) == Some(&ns.generation) {
                    self.latest.remove(&ns.inum);
                }
            }
        }
    }

    /// What is known of a namespace.
    #[must_use]
    pub(crate) fn get(&self, ns: NsRef) -> Option<&NamespaceInfo> {
        self.known.get(&ns)
    }

    /// The live namespace of a number.
    #[must_use]
    pub(crate) fn of_inum(&self, inum: u32) -> Option<NsRef> {
        let ns = NsRef { inum, generation: *self.latest.get(&inum)? };
        self.known.get(&ns).filter(|info| info.death.is_none()).map(|_| ns)
    }

    /// All that are known, by number and generation.
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

    fn birth(boot_ns: u64) -> NamespaceCreation {
        NamespaceCreation { boot_ns, tid: 1, by: None }
    }

    #[test]
    fn death_lies_between_the_last_sight_and_the_first_miss() {
        let mut all = NamespaceTracker::default();
        assert!(all.listed(&list(10, &[ns(1, 1), ns(2, 1)], true)).is_empty());
        assert!(all.listed(&list(20, &[ns(1, 1)], true)).is_empty());
        let ended = all.listed(&list(30, &[ns(1, 1)], true));
        assert_eq!(ended, [(ns(2, 1), Death { after: Some(10), before: 20 })]);
        assert!(all.listed(&list(40, &[ns(1, 1)], true)).is_empty());
        assert_eq!(all.of_inum(2), None);
        assert_eq!(all.of_inum(1), Some(ns(1, 1)));
    }

    #[test]
    fn one_miss_or_a_list_cut_short_is_no_death() {
        let mut all = NamespaceTracker::default();
        all.listed(&list(10, &[ns(1, 1)], true));
        assert!(all.listed(&list(20, &[], true)).is_empty());
        assert!(all.listed(&list(30, &[ns(1, 1)], true)).is_empty());
        assert!(all.listed(&list(40, &[], true)).is_empty());
        assert!(all.listed(&list(50, &[], false)).is_empty());
        assert_eq!(all.listed(&list(60, &[], true)).len(), 1);
    }

    #[test]
    fn a_namespace_that_was_made_while_the_list_was_read_is_not_missed() {
        let mut all = NamespaceTracker::default();
        all.born(ns(3, 1), None, birth(25));
        assert!(all.listed(&list(20, &[], true)).is_empty());
        assert!(all.listed(&list(24, &[], true)).is_empty());
        assert!(all.get(ns(3, 1)).unwrap().missing.is_none());
    }

    #[test]
    fn a_number_that_is_given_again_ends_the_life_before() {
        let mut all = NamespaceTracker::default();
        all.born(ns(3, 1), None, birth(10));
        let ended = all.born(ns(3, 2), Some(77), birth(50));
        assert_eq!(ended, Some((ns(3, 1), Death { after: Some(10), before: 50 })));
        assert_eq!(all.show(ns(3, 2)).ns_id, Some(77));
        assert_eq!(all.of_inum(3), Some(ns(3, 2)));
        // A late record of the first life does not raise it.
        assert_eq!(all.found(ns(3, 1), None, 60), None);
        assert_eq!(all.of_inum(3), Some(ns(3, 2)));
    }

    #[test]
    fn the_dead_are_bounded() {
        let mut all = NamespaceTracker::default();
        for i in 0..3 * DEAD as u32 {
            all.born(ns(i, 1), None, birth(1));
        }
        all.listed(&list(10, &[], true));
        all.listed(&list(20, &[], true));
        all.forget();
        assert_eq!(all.known.len(), DEAD);
        assert_eq!(all.latest.len(), DEAD);
    }
}
