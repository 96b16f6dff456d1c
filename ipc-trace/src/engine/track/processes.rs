//! The processes that made calls in one namespace: bounded, and exact for living processes.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use minicbor::{Decode, Encode};

use super::{contexts::TaskInfo, last_hit::LastHitMap};
use crate::event::shared::SharedState;
use crate::{
    engine::track::containers::{ContainerHandle, Containers},
    event::{Container, NsInodes, report::ProcessReport, value::OsBytes},
    input::process::ProcessId,
};

/// Number of processes kept per namespace.
const MAX_PROCESSES: usize = 512;

#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
struct ProcessEntry {
    #[cbor(n(0), with = "crate::event::shared::optional")]
    task_info: Option<Rc<TaskInfo>>,
    #[cbor(n(1), with = "ipc_trace_common::cbor")]
    comm: [u8; 16],
    #[n(2)]
    uid: u32,
    #[n(3)]
    gid: u32,
    #[n(4)]
    calls: u64,
    #[n(5)]
    failed: u64,
    #[n(6)]
    foreign: u64,
    #[n(7)]
    last_boot_ns: u64,
}

/// The caller, as its records describe it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallingProcess {
    /// The process.
    pub pid: u32,
    /// The thread's name, NUL-padded
    pub comm: [u8; 16],
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// When it last made a call, boot time in nanoseconds.
    pub boot_ns: u64,
}

/// Counts of a process's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallCounts {
    /// Calls
    pub calls: u64,
    /// Failed calls.
    pub failed: u64,
    /// Calls on objects of another namespace.
    pub foreign: u64,
}

/// The processes of one namespace.
#[derive(Clone, Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct NamespaceProcesses {
    #[n(0)]
    known: LastHitMap<ProcessId, ProcessEntry>,
    #[n(1)]
    evicted: u64,
    #[n(2)]
    containers: Vec<ContainerHandle>,
    #[n(3)]
    containers_evicted: u64,
}

impl NamespaceProcesses {
    /// Counts a process's calls.
    #[inline]
    pub(crate) fn count(
        &mut self,
        caller: &CallingProcess,
        task_info: Option<&Rc<TaskInfo>>,
        counts: CallCounts,
    ) {
        let key = (caller.pid, task_info.map_or(0, |f| f.start_boot_ns));
        let one = self.known.get_or_insert(key, |known| {
            if known.len() >= MAX_PROCESSES {
                make_room(known);
                self.evicted += (MAX_PROCESSES / 2) as u64;
            }
            if let Some(container) = task_info.and_then(|task_info| task_info.container.as_ref()) {
                add(&mut self.containers, &mut self.containers_evicted, container);
            }
            ProcessEntry {
                task_info: task_info.cloned(),
                comm: caller.comm,
                uid: caller.uid,
                gid: caller.gid,
                calls: 0,
                failed: 0,
                foreign: 0,
                last_boot_ns: 0,
            }
        });
        if let (Some(task_info), Some(before)) = (task_info, &one.task_info)
            && task_info.container != before.container
        {
            // The process changed its cgroup.
            if let Some(container) = &task_info.container {
                add(&mut self.containers, &mut self.containers_evicted, container);
            }
            one.task_info = Some(Rc::clone(task_info));
        }
        one.calls += counts.calls;
        one.failed += counts.failed;
        one.foreign += counts.foreign;
        one.last_boot_ns = caller.boot_ns;
    }

    /// Adds a container that has a process in the namespace.
    pub(crate) fn lives(&mut self, container: &ContainerHandle) {
        add(&mut self.containers, &mut self.containers_evicted, container);
    }

    /// The containers of all processes, by name, and the number of containers for which there was no room.
    #[must_use]
    pub(crate) fn containers(&self, all: &Containers) -> (Vec<Arc<Container>>, u64) {
        (all.sorted(&self.containers), self.containers_evicted)
    }

    /// Number of evicted processes.
    #[must_use]
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// All processes kept, those with most calls first.
    #[must_use]
    pub(crate) fn report(&self, containers: &Containers) -> Vec<ProcessReport> {
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_unstable_by_key(|(key, one)| (std::cmp::Reverse(one.calls), **key));
        all.into_iter().map(|(key, one)| one.report(key.0, containers)).collect()
    }
}

fn add(containers: &mut Vec<ContainerHandle>, evicted: &mut u64, container: &ContainerHandle) {
    if containers.iter().rev().any(|known| known == container) {
        return;
    }
    if containers.len() < MAX_PROCESSES {
        containers.push(container.clone());
    } else {
        *evicted += 1;
    }
}

/// Evicts the less important half: inactive processes with few calls. Processes with foreign calls go last.
fn make_room(known: &mut LastHitMap<ProcessId, ProcessEntry>) {
    let mut order: Vec<_> =
        known.iter().map(|(key, one)| ((one.foreign, one.calls, one.last_boot_ns), *key)).collect();
    order.sort_unstable();
    for (_, key) in order.iter().take(MAX_PROCESSES / 2) {
        known.remove(key);
    }
}

impl ProcessEntry {
    fn report(&self, pid: u32, containers: &Containers) -> ProcessReport {
        let task_info = self.task_info.as_deref();
        let comm = OsBytes::until_nul(&self.comm);
        ProcessReport {
            pid,
            ppid: task_info.map(|f| f.ppid),
            comm: OsBytes(Cow::Owned(comm.0.into_owned())),
            exe: task_info.and_then(|f| f.exe.clone()),
            uid: self.uid,
            gid: self.gid,
            start_boot_ns: task_info.map(|f| f.start_boot_ns),
            ns: task_info.map_or(NsInodes::default(), |f| f.ns),
            identity: task_info.map(|f| f.identity_as(self.uid)).unwrap_or_default(),
            container: task_info.and_then(|task_info| task_info.container(containers)),
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
    fn idle_processes_are_evicted_and_the_busy_one_stays() {
        let mut processes = NamespaceProcesses::default();
        let caller = |pid| CallingProcess { pid, comm: [0; 16], uid: 0, gid: 0, boot_ns: 0 };
        let counts = CallCounts { calls: 1, failed: 0, foreign: 0 };
        for round in 0..10_000 {
            processes.count(&caller(1), None, counts);
            processes.count(&caller(100 + round), None, counts);
        }
        let report = processes.report(&Containers::default());
        assert!(report.len() <= MAX_PROCESSES);
        assert_eq!((report[0].pid, report[0].calls), (1, 10_000));
        assert_eq!(report.len() as u64 + processes.evicted(), 10_001);
    }
}
