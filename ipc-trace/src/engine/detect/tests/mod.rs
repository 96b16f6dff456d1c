//! A host without a kernel: tests feed handmade records and compare the findings.

mod classes;
mod finding_store;
mod policy;
mod probes;
mod random;
mod random_lookups;
mod sharing;

use std::collections::BTreeMap;

use ipc_trace_common::{
    op::{Abi, Op, SyscallCode, Timeout},
    record::{
        AccessPath, AccessRecord, CallRecord, CgroupRecord, ContextRecord, ExitRecord, MsgPart,
        NamePart, NsRef, NsSwitchKind, NsSwitchRecord, QueuePart, QueueRecord, QueueRef, flag,
        queue_flag,
    },
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{Detect, finding_store::FindingSelection, observation::NamespaceMove};
use crate::{
    engine::checkpoint::reload,
    engine::track::contexts::TaskInfo,
    engine::track::{Tracker, clock::Clock},
    event::NsInodes,
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
    /// The number of its container's cgroup; `0`: on the host.
    pub(super) cgroup: u64,
    /// Whether it runs the tracer's executable.
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

/// The detectors with a tracker and a simulated host.
#[derive(Debug)]
pub(super) struct DetectWorld {
    pub(super) detect: Detect,
    pub(super) tracker: Tracker,
    pub(super) now: u64,
    /// Parents of parents.
    pub(super) parents: BTreeMap<u32, u32>,
    pub(super) host: SimulatedHost,
    seq: u64,
    steps: u64,
}

/// What procfs shows of the host.
#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedHost {
    pub(super) mapped: BTreeMap<u32, Vec<Mapped>>,
    /// Number of requests for mappings.
    pub(super) asked: usize,
    /// The IPC and mount namespaces of processes.
    pub(super) namespaces: BTreeMap<u32, (u32, u32)>,
}

impl SimulatedHost {
    fn mapped(&mut self, pid: u32) -> Option<Vec<Mapped>> {
        self.asked += 1;
        self.mapped.get(&pid).cloned()
    }

    fn namespaces(&self, tid: u32) -> Option<(u32, NsInodes)> {
        let (ipc, mnt) = *self.namespaces.get(&tid)?;
        Some((ipc, NsInodes { pid: Some(1), mnt: Some(mnt), user: None }))
    }

    /// What procfs shows of a thread that switches.
    fn beside(
        &mut self,
        detect: &Detect,
        record: &NsSwitchRecord,
        mover: Option<&TaskInfo>,
    ) -> MoveContext {
        let process = (record.pid, mover.map_or(0, |task_info| task_info.start_boot_ns));
        let wanted = record.way != NsSwitchKind::Clone as u32
            && detect.wants_mapped(process, record.boot_ns);
        let mnt = mover.and_then(|task_info| task_info.ns.mnt);
        let parent = mover.and_then(|task_info| self.namespaces.get(&task_info.ppid));
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
            steps: 0,
        }
    }

    pub(super) fn step(&mut self) -> u64 {
        self.now += 1_000;
        self.steps += 1;
        if self.steps < 200 || self.steps.is_multiple_of(997) {
            reload(&mut self.tracker, &mut self.detect);
        }
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
        let changes = self.tracker.apply(&call);
        let new_users = self.tracker.objects.take_new_users();
        self.detect.call(&call, Some(self.seq), &new_users, &self.tracker);
        self.detect.objects(&changes);
    }

    /// A call on a System V object, or a lookup.
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

    /// A call on a queue's name. `to`: the queue or the error that it returned.
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

    /// The record of a queue that is seen for the first time.
    fn showed(&mut self, queue: QueueRef, name: &[u8]) {
        let mut record = QueueRecord::new_zeroed();
        record.header.flags = flag::DETAIL;
        record.queue = queue;
        record.name[..name.len()].copy_from_slice(name);
        record.name_len = name.len() as u32;
        self.tracker.queues.insert(&record);
    }

    /// A batch of calls: operation, id or key, results.
    pub(super) fn batch(&mut self, task: TestTask, op: Op, id: i32, rets: &[i32]) {
        let head = self.head(task);
        let calls: Vec<_> = rets.iter().map(|ret| (op, id, *ret)).collect();
        let mut record = crate::input::batch::tests::record(&calls);
        for group in &mut record.groups {
            group.last_ns += self.now;
        }
        let into = &mut record.head;
        (into.context, into.ns, into.comm) =
            (head.context, task.ns, *b"work\0\0\0\0\0\0\0\0\0\0\0\0");
        (into.tid, into.pid) = (task.pid, task.pid);
        let Ok(crate::sources::kernel::decode::Record::Batch(batch)) =
            crate::sources::kernel::decode::record(record.as_bytes())
        else {
            panic!("no batch");
        };
        for group in batch.groups() {
            let group = group.unwrap();
            self.tracker.apply_group(batch.head, &group);
            let new_users = self.tracker.objects.take_new_users();
            self.detect.group(batch.head, &group, &new_users, &self.tracker);
        }
    }

    /// Creates a container of this number, with a cgroup of the same number.
    pub(super) fn container(&mut self, number: u64) {
        let path = format!("/docker/{}", container_id(number));
        let mut record = CgroupRecord::new_zeroed();
        (record.id, record.path_len) = (number, path.len() as u32);
        record.path[..path.len()].copy_from_slice(path.as_bytes());
        self.tracker.containers.record(&record);
    }

    /// A runtime reports a container's IPC mode.
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

    /// An access that is no IPC operation.
    pub(super) fn access(
        &mut self,
        task: TestTask,
        channel: AccessPath,
        object: QueueRef,
        key: u32,
    ) {
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

    /// A thread switches to another namespace.
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
        let mut record = NsSwitchRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid, record.context) = (task.pid, task.pid, context);
        (record.from, record.to, record.way) = (task.ns, to, way as u32);
        record.header.flags = if task.is_tracer { flag::TRACER } else { 0 };
        if let Some(child) = child {
            (record.child_tid, record.child_pid) = (child.pid, child.pid);
            record.child_context = child_context;
        }
        let task_info = |tid, context| self.tracker.contexts.get(tid, context).cloned();
        let mover = task_info(record.tid, record.context);
        let child = task_info(record.child_tid, record.child_context);
        if matches!(way, NsSwitchKind::Clone | NsSwitchKind::Unshare) {
            let creation = crate::engine::track::namespaces::NamespaceCreation {
                boot_ns: record.boot_ns,
                tid: record.tid,
                by: mover.clone(),
            };
            self.tracker.namespaces.insert_created(to, None, creation);
            self.tracker.objects.namespace_created(to);
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

    /// Answers the detectors' requests from the simulated host.
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

    /// A thread exits.
    pub(super) fn ended(&mut self, task: TestTask) {
        let mut record = ExitRecord::new_zeroed();
        record.boot_ns = self.step();
        (record.tid, record.pid) = (task.pid, task.pid);
        record.context = self.tracker.contexts.number(task.pid).unwrap_or(0);
        self.detect.ended(&record, &self.tracker);
        self.tracker.contexts.remove(&record);
    }

    /// Lets this time pass.
    pub(super) fn wait(&mut self, ns: u64) {
        self.now += ns;
        self.detect.tick(self.now, &self.tracker);
        self.answer(false);
    }

    /// Ends the input.
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

/// The only finding, which must be of that class.
pub(super) fn only(world: &mut DetectWorld, class: Class) -> Finding {
    let all = world.all();
    let [one] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!(one.class, class, "{one:#?}");
    one.clone()
}

/// Asserts that there is no finding.
pub(super) fn quiet(world: &mut DetectWorld) {
    let all = world.all();
    assert!(all.is_empty(), "{all:#?}");
}
