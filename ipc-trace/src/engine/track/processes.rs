//! The processes that made calls in one namespace: bounded, and right for those that live.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use super::{contexts::TaskInfo, last_hit::LastHitMap};
use crate::{
    engine::track::containers::{ContainerHandle, Containers},
    event::{Container, OtherNs, report::ProcessReport, value::OsBytes},
};

/// Processes of one namespace that are kept apart.
const LIMIT: usize = 512;

/// A process: its number and start time, where that is known.
type ProcessEntryKey = (u32, u64);

#[derive(Clone, Debug)]
struct ProcessEntry {
    facts: Option<Rc<TaskInfo>>,
    comm: [u8; 16],
    uid: u32,
    gid: u32,
    calls: u64,
    failed: u64,
    foreign: u64,
    last_boot_ns: u64,
}

/// What a record says of its process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallingProcess {
    /// Its number
    pub pid: u32,
    /// The thread's name, NUL-padded
    pub comm: [u8; 16],
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// When it called last
    pub boot_ns: u64,
}

/// What a process did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallCounts {
    /// Calls
    pub calls: u64,
    /// Those that failed
    pub failed: u64,
    /// Those whose object belongs to another namespace
    pub foreign: u64,
}

/// The processes of one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamespaceProcesses {
    known: LastHitMap<ProcessEntryKey, ProcessEntry>,
    folded: u64,
    containers: Vec<ContainerHandle>,
    containers_folded: u64,
}

impl NamespaceProcesses {
    /// A process made calls.
    #[inline]
    pub(crate) fn count(
        &mut self,
        caller: &CallingProcess,
        facts: Option<&Rc<TaskInfo>>,
        counts: CallCounts,
    ) {
        let key = (caller.pid, facts.map_or(0, |f| f.start_boot_ns));
        let one = self.known.get_or_insert(key, |known| {
            if known.len() >= LIMIT {
                make_room(known);
                self.folded += (LIMIT / 2) as u64;
            }
            if let Some(container) = facts.and_then(|facts| facts.container.as_ref()) {
                add(&mut self.containers, &mut self.containers_folded, container);
            }
            ProcessEntry {
                facts: facts.cloned(),
                comm: caller.comm,
                uid: caller.uid,
                gid: caller.gid,
                calls: 0,
                failed: 0,
                foreign: 0,
                last_boot_ns: 0,
            }
        });
        if let (Some(facts), Some(before)) = (facts, &one.facts)
            && facts.container != before.container
        {
            // It was moved.
            if let Some(container) = &facts.container {
                add(&mut self.containers, &mut self.containers_folded, container);
            }
            one.facts = Some(Rc::clone(facts));
        }
        one.calls += counts.calls;
        one.failed += counts.failed;
        one.foreign += counts.foreign;
        one.last_boot_ns = caller.boot_ns;
    }

    /// A container has a process there.
    pub(crate) fn lives(&mut self, container: &ContainerHandle) {
        add(&mut self.containers, &mut self.containers_folded, container);
    }

    /// The containers of all, by name, and how many processes had others for which there was no room.
    #[must_use]
    pub(crate) fn containers(&self, all: &Containers) -> (Vec<Arc<Container>>, u64) {
        (all.sorted(&self.containers), self.containers_folded)
    }

    /// How many had to make room.
    #[must_use]
    pub(crate) const fn folded(&self) -> u64 {
        self.folded
    }

    /// All that are kept, those with most calls first.
    #[must_use]
    pub(crate) fn report(&self, containers: &Containers) -> Vec<ProcessReport> {
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_unstable_by_key(|(key, one)| (std::cmp::Reverse(one.calls), **key));
        all.into_iter().map(|(key, one)| one.report(key.0, containers)).collect()
    }
}

fn add(containers: &mut Vec<ContainerHandle>, folded: &mut u64, container: &ContainerHandle) {
    if containers.iter().rev().any(|known| known == container) {
        return;
    }
    if containers.len() < LIMIT {
        containers.push(container.clone());
    } else {
        *folded += 1;
    }
}

/// Drops the half that matters less: those that have been silent, by calls. One that reached into
/// another namespace goes last.
fn make_room(known: &mut LastHitMap<ProcessEntryKey, ProcessEntry>) {
    let mut order: Vec<_> =
        known.iter().map(|(key, one)| ((one.foreign, one.calls, one.last_boot_ns), *key)).collect();
    order.sort_unstable();
    for (_, key) in order.iter().take(LIMIT / 2) {
        known.remove(key);
    }
}

impl ProcessEntry {
    fn report(&self, pid: u32, containers: &Containers) -> ProcessReport {
        let facts = self.facts.as_deref();
        let comm = OsBytes::until_nul(&self.comm);
        ProcessReport {
            pid,
            ppid: facts.map(|f| f.ppid),
            comm: OsBytes(Cow::Owned(comm.0.into_owned())),
            exe: facts.and_then(|f| f.exe.clone()),
            uid: self.uid,
            gid: self.gid,
            start_boot_ns: facts.map(|f| f.start_boot_ns),
            ns: facts.map_or(OtherNs::default(), |f| f.ns),
            identity: facts.map(|f| f.identity_as(self.uid)).unwrap_or_default(),
            container: facts.and_then(|facts| facts.container(containers)),
            calls: self.calls,
            failed: self.failed,
            foreign_calls: self.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_processes_are_folded_and_the_busy_one_stays() {
        let mut processes = NamespaceProcesses::default();
        let caller = |pid| CallingProcess { pid, comm: [0; 16], uid: 0, gid: 0, boot_ns: 0 };
        let counts = CallCounts { calls: 1, failed: 0, foreign: 0 };
        for round in 0..10_000 {
            processes.count(&caller(1), None, counts);
            processes.count(&caller(100 + round), None, counts);
        }
        let report = processes.report(&Containers::default());
        assert!(report.len() <= LIMIT);
        assert_eq!((report[0].pid, report[0].calls), (1, 10_000));
        assert_eq!(report.len() as u64 + processes.folded(), 10_001);
    }
}
