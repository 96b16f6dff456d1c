//! A host without a kernel: records made by hand, and what is found in them.

mod classes;
mod random;
mod store;

use std::collections::BTreeMap;

use ipc_trace_common::{
    op::{Abi, Code, Op, Timeout},
    record::{
        AccessRecord, CallRecord, Channel, ContextRecord, ExitRecord, MoveRecord, NsRef, QueuePart,
        QueueRef, Way, flag, queue_flag,
    },
};
use zerocopy::FromZeros as _;

use super::{Detect, sighting::Moved, store::Which};
use crate::{
    decode::{Call, Part},
    event::finding::Finding,
    track::{Tracker, clock::Clock, identity::Called},
};

pub(super) const HOST: NsRef = NsRef { inum: ipc_trace_common::state::HOST_INUM, generation: 1 };
pub(super) const A: NsRef = NsRef { inum: 4_026_532_180, generation: 1 };
pub(super) const B: NsRef = NsRef { inum: 4_026_532_290, generation: 1 };

/// A thread that is its process, with its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    pub(super) ns: NsRef,
    pub(super) mnt: u32,
    pub(super) exe: &'static str,
}

pub(super) const fn task(pid: u32, ns: NsRef) -> Task {
    Task { pid, ppid: 1, ns, mnt: 100, exe: "worker" }
}

impl Task {
    pub(super) const fn start(self) -> u64 {
        self.pid as u64 * 1000
    }
}

/// A queue of a namespace.
pub(super) fn queue(ns: NsRef, ino: u64, caller: NsRef) -> QueueRef {
    let foreign = if ns == caller { 0 } else { queue_flag::FOREIGN };
    QueueRef { ns, ino, dev: ns.inum & 0xff, flags: queue_flag::KNOWN | foreign }
}

/// Events go in, findings come out.
#[derive(Debug)]
pub(super) struct World {
    pub(super) detect: Detect,
    pub(super) tracker: Tracker,
    pub(super) now: u64,
    /// Parents of parents
    pub(super) parents: BTreeMap<u32, u32>,
    seq: u64,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            detect: Detect::default(),
            tracker: Tracker::new(Clock::with_offset(0)),
            now: 1_000_000_000,
            parents: BTreeMap::new(),
            seq: 0,
        }
    }

    pub(super) fn step(&mut self) -> u64 {
        self.now += 1_000;
        self.now
    }

    pub(super) fn context(&mut self, task: Task) -> u64 {
        let mut record = ContextRecord::new_zeroed();
        record.context = self.step();
        record.boot_ns = record.context;
        (record.tid, record.pid, record.ppid) = (task.pid, task.pid, task.ppid);
        record.start_boot_ns = task.start();
        let parents = std::iter::successors(Some(task.ppid), |pid| self.parents.get(pid).copied());
        for (at, pid) in parents.enumerate() {
            record.ancestors[at].pid = pid;
            record.ancestors[at].start_boot_ns = u64::from(pid) * 1000;
            record.ancestor_count = at as u32 + 1;
        }
        (record.mnt_ns, record.pid_ns) = (task.mnt, 1);
        record.ns = task.ns;
        record.comm[..4].copy_from_slice(b"work");
        let exe = task.exe.as_bytes();
        record.exe[..exe.len()].copy_from_slice(exe);
        record.exe_len = exe.len() as u32 + 1;
        self.tracker.context(&record, Called::default());
        record.context
    }

    fn head(&mut self, task: Task) -> CallRecord {
        let context = match self.tracker.contexts.number(task.pid) {
            Some(known) => known,
            None => self.context(task),
        };
        let mut record = CallRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid, record.context) = (task.pid, task.pid, context);
        record.ns = task.ns;
        record.comm[..4].copy_from_slice(b"work");
        record
    }

    fn made(&mut self, op: Op, record: &CallRecord, part: Part<'_>) {
        let code = Code::new(op, Timeout::None);
        let call = Call { op, abi: Abi::X86_64, code, record, part };
        self.seq += 1;
        self.tracker.queues.opened(&call);
        self.tracker.act(&call);
        self.detect.call(&call, Some(self.seq), &self.tracker);
    }

    /// A call on a System V object, or one that looks for it.
    pub(super) fn call(&mut self, task: Task, op: Op, args: [u64; 5], ret: i64) {
        let mut record = self.head(task);
        (record.args, record.ret) = (args, ret);
        self.made(op, &record, Part::None);
    }

    /// A call on a queue.
    pub(super) fn queue_call(&mut self, task: Task, op: Op, queue: QueueRef, ret: i64) {
        let mut record = self.head(task);
        record.ret = ret;
        let mut part = QueuePart::new_zeroed();
        part.queue = queue;
        self.made(op, &record, Part::Queue(&part));
    }

    /// A way that is no operation.
    pub(super) fn access(&mut self, task: Task, channel: Channel, object: QueueRef, key: u32) {
        let head = self.head(task);
        let mut record = AccessRecord::new_zeroed();
        record.header.code = channel as u8;
        record.boot_ns = head.boot_ns;
        (record.tid, record.pid, record.context) = (head.tid, head.pid, head.context);
        (record.ns, record.object, record.key, record.count) = (task.ns, object, key, 1);
        record.comm = head.comm;
        record.header.flags = flag::DETAIL;
        record.name[..4].copy_from_slice(b"jobs");
        record.name_len = 4;
        self.detect.access(&record, &self.tracker);
    }

    /// A thread got into another namespace; it is what it is there.
    pub(super) fn moved(&mut self, task: Task, to: NsRef, way: Way, child: Option<Task>) -> Task {
        let moved = match way {
            Way::Clone => task,
            Way::Unshare | Way::Setns => Task { ns: to, ..task },
        };
        let context = self.context(moved);
        let child_context = child.map_or(0, |child| self.context(child));
        let mut record = MoveRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid, record.context) = (task.pid, task.pid, context);
        (record.from, record.to, record.way) = (task.ns, to, way as u32);
        if let Some(child) = child {
            (record.child_tid, record.child_pid) = (child.pid, child.pid);
            record.child_context = child_context;
        }
        let facts = |tid, context| self.tracker.contexts.get(tid, context).cloned();
        let mover = facts(record.tid, record.context);
        let child = facts(record.child_tid, record.child_context);
        if matches!(way, Way::Clone | Way::Unshare) {
            let birth = crate::track::namespaces::Birth {
                boot_ns: record.boot_ns,
                tid: record.tid,
                by: mover.clone(),
            };
            self.tracker.namespaces.born(to, None, birth);
            self.tracker.objects.born(to);
        }
        self.seq += 1;
        self.detect.moved(&Moved {
            record: &record,
            mover: mover.as_ref(),
            child: child.as_ref(),
            seq: Some(self.seq),
            tracker: &self.tracker,
        });
        moved
    }

    /// A thread ended.
    pub(super) fn ended(&mut self, task: Task) {
        let mut record = ExitRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid) = (task.pid, task.pid);
        record.context = self.tracker.contexts.number(task.pid).unwrap_or(0);
        self.detect.ended(&record, &self.tracker);
        self.tracker.contexts.remove(&record);
    }

    /// So much time goes by.
    pub(super) fn wait(&mut self, ns: u64) {
        self.now += ns;
        self.detect.tick(self.now, &self.tracker);
    }

    pub(super) fn all(&mut self) -> Vec<Finding> {
        let now = std::time::SystemTime::UNIX_EPOCH;
        let shown = self.detect.findings.show(Which::All, &self.tracker, now);
        shown.into_iter().map(|one| one.finding).collect()
    }
}
