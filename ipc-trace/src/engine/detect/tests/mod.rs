//! A host without a kernel: records made by hand, and what is found in them.

mod attempts;
mod classes;
mod policy;
mod random;
mod random_lookups;
mod sharing;
mod store;

use std::{collections::BTreeMap, mem::offset_of};

use ipc_trace_common::{
    op::{Abi, Op, SyscallCode, Timeout},
    record::{
        AccessRecord, BatchHead, BatchRecord, CallRecord, CgroupRecord, Channel, ContextRecord,
        ExitRecord, MoveRecord, MsgPart, NamePart, NsRef, NsSwitchKind, PackedCall, QueuePart,
        QueueRecord, QueueRef, RecordKind, VERSION, flag, queue_flag,
    },
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{Detect, observation::NamespaceMove, store::FindingSelection};
use crate::{
    engine::track::contexts::TaskInfo,
    engine::track::{Tracker, clock::Clock},
    event::OtherNs,
    event::finding::{Class, Finding},
    input::Call,
    input::CallPayload,
    input::process::{Called, Context, InspectorRequest, Mapped, MoveContext, ProcInfo},
};

pub(super) const HOST: NsRef = NsRef { inum: ipc_trace_common::state::HOST_INUM, generation: 1 };
pub(super) const A: NsRef = NsRef { inum: 4_026_532_180, generation: 1 };
pub(super) const B: NsRef = NsRef { inum: 4_026_532_290, generation: 1 };

/// A thread that is its process, with its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TestTask {
    pub(super) pid: u32,
    pub(super) ppid: u32,
    pub(super) ns: NsRef,
    pub(super) mnt: u32,
    pub(super) exe: &'static str,
    pub(super) uid: u32,
    /// The number of its container's cgroup; `0`: it is the host's
    pub(super) cgroup: u64,
    /// Whether it runs the executable that the tracer runs
    pub(super) is_tracer: bool,
}

pub(super) const fn task(pid: u32, ns: NsRef) -> TestTask {
    TestTask { pid, ppid: 1, ns, mnt: 100, exe: "worker", uid: 0, cgroup: 0, is_tracer: false }
}

impl TestTask {
    pub(super) const fn start(self) -> u64 {
        self.pid as u64 * 1000
    }
}

/// The id of a container.
pub(super) fn container_id(number: u64) -> String {
    format!("{number:064x}")
}

/// A queue of a namespace.
pub(super) fn queue(ns: NsRef, ino: u64, caller: NsRef) -> QueueRef {
    let foreign = if ns == caller { 0 } else { queue_flag::FOREIGN };
    QueueRef { ns, ino, dev: ns.inum & 0xff, flags: queue_flag::KNOWN | foreign }
}

/// Events go in, findings come out.
#[derive(Debug)]
pub(super) struct DetectWorld {
    pub(super) detect: Detect,
    pub(super) tracker: Tracker,
    pub(super) now: u64,
    /// Parents of parents
    pub(super) parents: BTreeMap<u32, u32>,
    pub(super) host: SimulatedHost,
    seq: u64,
}

/// What there is to be seen on the host.
#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedHost {
    pub(super) mapped: BTreeMap<u32, Vec<Mapped>>,
    /// How often it was asked what is mapped
    pub(super) asked: usize,
    /// The IPC namespaces and the mount namespaces of processes
    pub(super) namespaces: BTreeMap<u32, (u32, u32)>,
}

impl SimulatedHost {
    fn mapped(&mut self, pid: u32) -> Option<Vec<Mapped>> {
        self.asked += 1;
        self.mapped.get(&pid).cloned()
    }

    fn namespaces(&self, tid: u32) -> Option<(u32, OtherNs)> {
        let (ipc, mnt) = *self.namespaces.get(&tid)?;
        Some((ipc, OtherNs { pid: Some(1), mnt: Some(mnt), user: None }))
    }

    /// What is to be seen of a thread that moves.
    fn beside(
        &mut self,
        detect: &Detect,
        record: &MoveRecord,
        mover: Option<&TaskInfo>,
    ) -> MoveContext {
        let process = (record.pid, mover.map_or(0, |facts| facts.start_boot_ns));
        let wanted = record.way != NsSwitchKind::Clone as u32
            && detect.wants_mapped(process, record.boot_ns);
        let mnt = mover.and_then(|facts| facts.ns.mnt);
        let parent = mover.and_then(|facts| self.namespaces.get(&facts.ppid));
        let inside = self.namespaces.iter();
        let inside = inside.filter(|(pid, ns)| **pid != record.pid && ns.0 == record.to.inum);
        MoveContext {
            parent_mnt: parent.map(|ns| ns.1),
            lives_with: inside.map(|(_, ns)| Some(ns.1) == mnt).max(),
            mapped: wanted.then(|| self.mapped(record.pid)).flatten(),
        }
    }
}

impl DetectWorld {
    pub(super) fn new() -> Self {
        Self {
            detect: Detect::new(9999),
            tracker: Tracker::new(Clock::with_offset(0)),
            now: 1_000_000_000,
            parents: BTreeMap::new(),
            host: SimulatedHost::default(),
            seq: 0,
        }
    }

    pub(super) fn step(&mut self) -> u64 {
        self.now += 1_000;
        self.now
    }

    pub(super) fn context(&mut self, task: TestTask) -> u64 {
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
        (record.euid, record.egid, record.cgroup) = (task.uid, task.uid, task.cgroup);
        record.ns = task.ns;
        record.comm[..4].copy_from_slice(b"work");
        let exe = task.exe.as_bytes();
        record.exe[..exe.len()].copy_from_slice(exe);
        record.exe_len = exe.len() as u32 + 1;
        let number = record.context;
        self.tracker.context(&Context {
            record: Box::new(record),
            called: Called::default(),
            found: ProcInfo::default(),
        });
        number
    }

    fn head(&mut self, task: TestTask) -> CallRecord {
        let context = match self.tracker.contexts.number(task.pid) {
            Some(known) => known,
            None => self.context(task),
        };
        let mut record = CallRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid, record.context) = (task.pid, task.pid, context);
        (record.euid, record.egid) = (task.uid, task.uid);
        record.ns = task.ns;
        record.comm[..4].copy_from_slice(b"work");
        record
    }

    fn made(&mut self, op: Op, record: &CallRecord, part: CallPayload<'_>) {
        let code = SyscallCode::new(op, Timeout::None);
        let call = Call { op, abi: Abi::X86_64, code, record, part };
        self.seq += 1;
        self.tracker.queues.opened(&call);
        let changes = self.tracker.act(&call);
        let met = self.tracker.objects.take_met();
        self.detect.call(&call, Some(self.seq), &met, &self.tracker);
        self.detect.objects(&changes);
    }

    /// A call on a System V object, or one that looks for it.
    pub(super) fn call(&mut self, task: TestTask, op: Op, args: [u64; 5], ret: i64) {
        let mut record = self.head(task);
        (record.args, record.ret) = (args, ret);
        self.made(op, &record, CallPayload::None);
    }

    /// A call that sends or receives a message of this type.
    pub(super) fn message(&mut self, task: TestTask, op: Op, args: [u64; 5], mtype: i64, ret: i64) {
        let mut record = self.head(task);
        (record.args, record.ret) = (args, ret);
        record.header.flags = flag::DETAIL;
        let mut part = MsgPart::new_zeroed();
        part.mtype = mtype;
        self.made(op, &record, CallPayload::Msg(&part));
    }

    /// A call on a queue's name. `queue`: what it led to.
    pub(super) fn named(
        &mut self,
        task: TestTask,
        op: Op,
        name: &[u8],
        oflag: u64,
        to: Result<u64, i64>,
    ) {
        let mut record = self.head(task);
        record.header.flags = flag::DETAIL | flag::AT_ENTRY;
        record.args[1] = oflag;
        let mut part = NamePart::new_zeroed();
        part.name[..name.len()].copy_from_slice(name);
        part.name_len = name.len() as u32;
        part.mode = 0o100_600;
        match to {
            Ok(ino) if op == Op::MqOpen => {
                part.queue = queue(task.ns, ino, task.ns);
                self.showed(part.queue, name);
            }
            Ok(_) => {}
            Err(error) => record.ret = -error,
        }
        self.made(op, &record, CallPayload::Name(&part));
    }

    /// A queue shows itself for the first time.
    fn showed(&mut self, queue: QueueRef, name: &[u8]) {
        let mut record = QueueRecord::new_zeroed();
        record.header.flags = flag::DETAIL;
        record.queue = queue;
        record.name[..name.len()].copy_from_slice(name);
        record.name_len = name.len() as u32;
        self.tracker.queues.insert(&record);
    }

    /// Calls that came together: operation, id or key, results.
    pub(super) fn batch(&mut self, task: TestTask, op: Op, id: i32, rets: &[i32]) {
        let head = self.head(task);
        let mut words = vec![0_u64; size_of::<BatchRecord>() / 8];
        let code = SyscallCode::new(op, Timeout::None).0;
        let begin = size_of::<BatchHead>() / 8;
        for (at, ret) in rets.iter().enumerate() {
            let outcome = &mut words[begin + 4 * at..];
            outcome[0] = self.now + at as u64;
            outcome[2] = u64::from(ret.cast_unsigned());
            outcome[3] = PackedCall { id, abi: 0, code }.packed();
        }
        let mut bytes = words.as_bytes().to_vec();
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &[VERSION, RecordKind::Batch as u8]);
        put(offset_of!(BatchHead, context), &head.context.to_ne_bytes());
        put(offset_of!(BatchHead, tid), &task.pid.to_ne_bytes());
        put(offset_of!(BatchHead, pid), &task.pid.to_ne_bytes());
        put(offset_of!(BatchHead, ns), &task.ns.inum.to_ne_bytes());
        put(offset_of!(BatchHead, ns) + 4, &task.ns.generation.to_ne_bytes());
        put(offset_of!(BatchHead, comm), b"work");
        put(offset_of!(BatchHead, count), &(rets.len() as u32).to_ne_bytes());
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        let Ok(crate::sources::kernel::decode::Record::Batch(batch)) =
            crate::sources::kernel::decode::record(words.as_bytes())
        else {
            panic!("no batch");
        };
        for group in batch.groups() {
            let group = group.unwrap();
            self.tracker.act_all(batch.head, &group);
            let met = self.tracker.objects.take_met();
            self.detect.group(batch.head, &group, &met, &self.tracker);
        }
    }

    /// A container of this number has a cgroup of the same number.
    pub(super) fn container(&mut self, number: u64) {
        let path = format!("/docker/{}", container_id(number));
        let mut record = CgroupRecord::new_zeroed();
        (record.id, record.path_len) = (number, path.len() as u32);
        record.path[..path.len()].copy_from_slice(path.as_bytes());
        self.tracker.containers.record(&record);
    }

    /// A runtime says of a container which IPC namespace it was given.
    pub(super) fn given(&mut self, number: u64, mode: &str) {
        let named = crate::input::container::RuntimeMetadata {
            id: container_id(number),
            name: Some(format!("app{number}")),
            image: Some(format!("image{number}")),
            ipc_mode: Some(mode.to_owned()),
            ..crate::input::container::RuntimeMetadata::default()
        };
        drop(self.tracker.containers.named(named));
    }

    /// A call on a queue.
    pub(super) fn queue_call(&mut self, task: TestTask, op: Op, queue: QueueRef, ret: i64) {
        let mut record = self.head(task);
        record.ret = ret;
        let mut part = QueuePart::new_zeroed();
        part.queue = queue;
        self.made(op, &record, CallPayload::Queue(&part));
    }

    /// A way that is no operation.
    pub(super) fn access(&mut self, task: TestTask, channel: Channel, object: QueueRef, key: u32) {
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
    pub(super) fn moved(
        &mut self,
        task: TestTask,
        to: NsRef,
        way: NsSwitchKind,
        child: Option<TestTask>,
    ) -> TestTask {
        let moved = match way {
            NsSwitchKind::Clone => task,
            NsSwitchKind::Unshare | NsSwitchKind::Setns => TestTask { ns: to, ..task },
        };
        let context = self.context(moved);
        let child_context = child.map_or(0, |child| self.context(child));
        let mut record = MoveRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid, record.context) = (task.pid, task.pid, context);
        (record.from, record.to, record.way) = (task.ns, to, way as u32);
        record.header.flags = if task.is_tracer { flag::TRACER } else { 0 };
        if let Some(child) = child {
            (record.child_tid, record.child_pid) = (child.pid, child.pid);
            record.child_context = child_context;
        }
        let facts = |tid, context| self.tracker.contexts.get(tid, context).cloned();
        let mover = facts(record.tid, record.context);
        let child = facts(record.child_tid, record.child_context);
        if matches!(way, NsSwitchKind::Clone | NsSwitchKind::Unshare) {
            let birth = crate::engine::track::namespaces::NamespaceCreation {
                boot_ns: record.boot_ns,
                tid: record.tid,
                by: mover.clone(),
            };
            self.tracker.namespaces.born(to, None, birth);
            self.tracker.objects.born(to);
        }
        self.seq += 1;
        let beside = self.host.beside(&self.detect, &record, mover.as_deref());
        self.detect.moved(&NamespaceMove {
            record: &record,
            mover: mover.as_ref(),
            child: child.as_ref(),
            seq: Some(self.seq),
            beside: &beside,
            tracker: &self.tracker,
        });
        self.answer(false);
        moved
    }

    /// What classes ask is answered by what there is to be seen.
    fn answer(&mut self, ended: bool) {
        for request in self.detect.take_requests() {
            match request {
                InspectorRequest::Namespaces(tid) => {
                    let found = self.host.namespaces(tid);
                    self.detect.namespaces_seen(tid, found, (self.now, ended));
                }
                InspectorRequest::Mapped(process) => {
                    let found = self.host.mapped(process.0);
                    self.detect.mapped_seen(process, found.as_deref(), &self.tracker);
                }
                InspectorRequest::Users { .. } | InspectorRequest::Ended(_) => {}
            }
        }
    }

    /// A thread ended.
    pub(super) fn ended(&mut self, task: TestTask) {
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
        self.answer(false);
    }

    /// Nothing comes any more.
    pub(super) fn finish(&mut self) {
        self.detect.ending(self.now, &self.tracker);
        self.answer(true);
        self.detect.finish(self.now, &self.tracker);
    }

    pub(super) fn all(&mut self) -> Vec<Finding> {
        let now = std::time::SystemTime::UNIX_EPOCH;
        let shown = self.detect.findings.show(FindingSelection::All, &mut self.tracker, now);
        shown.into_iter().map(|one| one.finding).collect()
    }
}

/// The only finding, which is of that class.
pub(super) fn only(world: &mut DetectWorld, class: Class) -> Finding {
    let all = world.all();
    let [one] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!(one.class, class, "{one:#?}");
    one.clone()
}

/// There is no finding.
pub(super) fn quiet(world: &mut DetectWorld) {
    let all = world.all();
    assert!(all.is_empty(), "{all:#?}");
}
