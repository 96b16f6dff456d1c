//! Tasks by thread and context: sent once by the eBPF programs and looked up for each record.

use std::{borrow::Cow, collections::VecDeque, rc::Rc, sync::Arc};

use ipc_trace_common::record::{
    AncestorRecord, CallRecord, ContextRecord, EXE_LEN, ExitRecord, UID_EXTENTS, UidExtent, flag,
};
use minicbor::{Decode, Encode};

use super::{
    OrderedMap,
    identity::{Ancestors, MapSearch, UserMap},
    last_hit::LastHitMap,
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::containers::{ContainerHandle, Containers},
    event::{
        Container, NsInodes, Process, identity::Capabilities, identity::ProcessIdentity,
        value::OsBytes,
    },
    input::process::{Context, InspectorRequest, ProcInfo},
};

/// Number of contexts above which threads with a missed exit are swept.
const SWEEP_AT: usize = 1 << 16;

/// A task at the time of its context.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct TaskInfo {
    /// The process.
    #[n(0)]
    pub pid: u32,
    /// Its parent.
    #[n(1)]
    pub ppid: u32,
    /// The thread's name
    #[n(2)]
    pub comm: OsBytes<'static>,
    /// Path of the executable
    #[n(3)]
    pub exe: Option<OsBytes<'static>>,
    /// Whether the executable's file was deleted.
    #[n(4)]
    pub exe_deleted: bool,
    /// Effective user
    #[n(5)]
    pub uid: u32,
    /// Effective group
    #[n(6)]
    pub gid: u32,
    /// When the process started
    #[n(7)]
    pub start_boot_ns: u64,
    /// Its other namespaces.
    #[n(8)]
    pub ns: NsInodes,
    /// Its container; `None`: on the host.
    #[n(9)]
    pub container: Option<ContainerHandle>,
    /// The path of its cgroup, from the root of the hierarchy.
    #[cbor(n(10), with = "ipc_trace_common::cbor")]
    pub cgroup: Option<Arc<OsBytes<'static>>>,
    /// Its further identity.
    #[n(11)]
    pub identity: ProcessIdentity,
    #[n(12)]
    users: UserMap,
}

impl TaskInfo {
    fn new(
        record: &ContextRecord,
        (container, cgroup): (Option<ContainerHandle>, Option<Arc<OsBytes<'static>>>),
        identity: ProcessIdentity,
        found: &ProcInfo,
    ) -> Self {
        let known = |inum: u32| (inum != 0).then_some(inum);
        Self {
            pid: record.pid,
            ppid: record.ppid,
            comm: OsBytes::until_nul(&record.comm).into_owned(),
            exe: executable(record).or_else(|| executable_in(found, record)),
            exe_deleted: record.header.flags & flag::DELETED != 0,
            uid: record.euid,
            gid: record.egid,
            start_boot_ns: record.start_boot_ns,
            ns: NsInodes {
                pid: known(record.pid_ns),
                mnt: known(record.mnt_ns),
                user: known(record.user_ns),
            },
            container,
            cgroup,
            identity,
            users: users(record, found),
        }
    }

    /// Its identity with this effective user.
    #[must_use]
    pub(crate) fn identity_as(&self, uid: u32) -> ProcessIdentity {
        let mut identity = self.identity.clone();
        identity.ns_uid = self.users.inside(uid);
        if uid != self.uid {
            identity.capabilities = None;
        }
        identity
    }

    /// Its container, as it is shown now.
    #[must_use]
    pub(crate) fn container(&self, containers: &Containers) -> Option<Arc<Container>> {
        self.container.as_ref().map(|handle| containers.container(handle))
    }

    /// As [`Self::container`], for a line: later metadata is then reported.
    #[must_use]
    pub(crate) fn show_container(&self, containers: &mut Containers) -> Option<Arc<Container>> {
        self.container.as_ref().map(|handle| containers.show(handle))
    }

    /// The process, with one of its threads.
    #[must_use]
    pub(crate) fn process(&self, tid: u32) -> Process<'_> {
        let Self { pid, uid, gid, .. } = *self;
        CallTask { pid, tid, uid, gid, comm: borrowed(&self.comm) }.process(Some(self))
    }
}

/// The part of a task that each call record has.
#[derive(Clone, Debug)]
pub(crate) struct CallTask<'a> {
    /// The process.
    pub pid: u32,
    /// The thread
    pub tid: u32,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// The thread's name
    pub comm: OsBytes<'a>,
}

impl<'a> CallTask<'a> {
    /// The process as events show it, completed by the task.
    #[must_use]
    pub(crate) fn process(self, task_info: Option<&'a TaskInfo>) -> Process<'a> {
        let Self { pid, tid, uid, gid, comm } = self;
        Process {
            pid,
            tid,
            ppid: task_info.map(|task_info| task_info.ppid),
            comm,
            exe: task_info.and_then(|task_info| task_info.exe.as_ref()).map(borrowed),
            exe_deleted: task_info.is_some_and(|task_info| task_info.exe_deleted),
            uid,
            gid,
            start_boot_ns: task_info.map(|task_info| task_info.start_boot_ns),
            ns: task_info.map(|task_info| task_info.ns).unwrap_or_default(),
            identity: task_info.map(|task_info| task_info.identity_as(uid)).unwrap_or_default(),
        }
    }
}

/// The uid map of its user namespace. A map with more extents than the record has room for is requested.
fn users(record: &ContextRecord, found: &ProcInfo) -> UserMap {
    match record.uid_extents as usize > UID_EXTENTS {
        true => UserMap::new(&found.users),
        false => UserMap::from_record(record),
    }
}

fn borrowed<'a>(text: &'a OsBytes<'static>) -> OsBytes<'a> {
    OsBytes(Cow::Borrowed(&text.0))
}

/// The path. The record has its components in reverse order, each NUL-terminated.
fn executable(record: &ContextRecord) -> Option<OsBytes<'static>> {
    let len = (record.exe_len as usize).min(EXE_LEN);
    let bytes = record.exe.get(..len)?;
    let bytes = bytes.strip_suffix(b"\0")?;
    let mut path = Vec::with_capacity(len + 3);
    if record.header.flags & flag::TRUNCATED != 0 {
        path.extend_from_slice(b"...");
    }
    for component in bytes.rsplit(|b| *b == 0) {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    if is_memfd(&path, record) {
        path.extend_from_slice(DELETED);
    }
    Some(OsBytes(Cow::Owned(path)))
}

/// The suffix that the kernel appends to a deleted path (`d_path`, fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Whether the executable is a memfd (memfd_create(2)), which never had a path: it keeps the name that the
/// kernel shows, which ends like that of every deleted file.
fn is_memfd(path: &[u8], record: &ContextRecord) -> bool {
    let name = path.strip_prefix(b"/memfd:");
    record.header.flags & flag::DELETED != 0 && name.is_some_and(|name| !name.contains(&b'/'))
}

/// The path from `/proc`, where the eBPF programs had none: their table of paths is bounded. `None` also if
/// the process has exited and its number was reused.
fn executable_in(found: &ProcInfo, record: &ContextRecord) -> Option<OsBytes<'static>> {
    let mut path = found.exe.clone()?;
    // `exe_deleted` says that it is deleted.
    if record.header.flags & flag::DELETED != 0 && !is_memfd(&path, record) {
        let len = path.strip_suffix(DELETED).unwrap_or(&path).len();
        path.truncate(len);
    }
    Some(OsBytes(Cow::Owned(path)))
}

/// A task with the number of its context.
#[derive(Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct KnownTask {
    /// The context
    #[n(0)]
    pub context: u64,
    #[cbor(n(1), with = "crate::event::shared::value")]
    /// The task
    pub task_info: Rc<TaskInfo>,
}

/// The tasks of all threads that made calls.
#[derive(Debug, Default, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct TaskCache {
    #[n(0)]
    by_tid: LastHitMap<u32, KnownTask>,
    #[n(1)]
    sweep_at: usize,
    #[n(2)]
    ancestors: Ancestors,
    /// Whether calls are shown with their process's ancestry.
    #[cbor(skip)]
    pub with_ancestry: bool,
    /// Threads whose uid map wasn't written yet, and when it is requested again.
    #[n(3)]
    unmapped: OrderedMap<u32, (u64, MapSearch)>,
    /// The number of the newest context.
    #[n(4)]
    newest: u64,
    /// The number of the newest context when exited threads were last requested.
    #[n(5)]
    swept: u64,
    #[cbor(skip)]
    requests: VecDeque<InspectorRequest>,
}

impl TaskCache {
    /// Adds a context.
    pub(crate) fn insert(&mut self, context: &Context, containers: &mut Containers) {
        let Context { record, called, found } = context;
        for (cgroup, path) in &found.cgroups {
            containers.is_at(*cgroup, path);
        }
        let container = containers.lookup_container(record.cgroup);
        if let Some(known) = &container {
            containers.is_in(known, record.ns, record.context);
        }
        let (ancestry, ancestry_truncated) =
            self.ancestors.ancestry_for(record, &found.ancestors, |one: &AncestorRecord| {
                container.is_none() || containers.lookup_container(one.cgroup) == container
            });
        let called = found.called.as_ref().unwrap_or(called).clone();
        let identity = ProcessIdentity {
            ns_pid: (record.ns_pid != 0).then_some(record.ns_pid),
            ns_uid: None,
            capabilities: Some(Capabilities(record.capabilities)),
            unit: containers.unit(record.cgroup),
            args: called.args,
            args_truncated: called.truncated,
            ancestry: Some(ancestry),
            ancestry_truncated,
        };
        let cgroup = containers.path(record.cgroup);
        let task_info = Rc::new(TaskInfo::new(record, (container, cgroup), identity, found));
        if task_info.users.is_empty() {
            self.unmapped.insert(record.tid, (record.context, MapSearch::default()));
        } else if !self.unmapped.is_empty() {
            self.unmapped.remove(&record.tid);
        }
        self.newest = self.newest.max(record.context);
        self.by_tid.insert(record.tid, KnownTask { context: record.context, task_info });
        if self.by_tid.len() > self.sweep_at.max(SWEEP_AT) {
            self.sweep();
        }
    }

    /// Removes the context of an exited thread.
    pub(crate) fn remove(&mut self, record: &ExitRecord) {
        if self.by_tid.get(&record.tid).is_some_and(|known| known.context == record.context) {
            self.by_tid.remove(&record.tid);
            self.unmapped.remove(&record.tid);
        }
    }

    /// Requests which threads have exited: contexts of threads with a lost exit record would stay otherwise.
    fn sweep(&mut self) {
        self.swept = self.newest;
        self.requests.push_back(InspectorRequest::Ended(self.by_tid.keys().copied().collect()));
        self.sweep_at = self.by_tid.len() * 2;
    }

    /// Removes threads that have exited, unless their number was reused since the request.
    pub(crate) fn have_ended(&mut self, tids: &[u32]) {
        for tid in tids {
            if self.by_tid.get(tid).is_some_and(|known| known.context <= self.swept) {
                self.by_tid.remove(tid);
                self.unmapped.remove(tid);
            }
        }
        self.sweep_at = self.by_tid.len() * 2;
    }

    /// Whether an ancestor is known and needs no request.
    #[must_use]
    pub(crate) fn knows_ancestor(&self, record: &AncestorRecord) -> bool {
        self.ancestors.knows(record)
    }

    /// Removes and returns the next request.
    pub(crate) fn take_request(&mut self) -> Option<InspectorRequest> {
        self.requests.pop_front()
    }

    /// Requests the uid map of a call's thread if it may have been written since the last request.
    #[inline]
    pub(crate) fn search_map(&mut self, record: &CallRecord) {
        if !self.unmapped.is_empty() {
            self.ask_for_map(record);
        }
    }

    #[cold]
    fn ask_for_map(&mut self, record: &CallRecord) {
        let CallRecord { tid, context, boot_ns, .. } = *record;
        let search = self.unmapped.get_mut(&tid).filter(|one| one.0 == context);
        if boot_ns > context
            && search.is_some_and(|(_, search)| search.is_due(boot_ns))
            && let Some(task_info) = self.get(tid, context)
        {
            let process = (task_info.pid, task_info.start_boot_ns);
            self.requests.push_back(InspectorRequest::Users { process, tid, context });
        }
    }

    /// Applies a requested uid map; empty: it isn't written yet.
    pub(crate) fn users_seen(&mut self, tid: u32, context: u64, extents: &[UidExtent]) {
        if extents.is_empty() {
            return;
        }
        self.unmapped.remove(&tid);
        if let Some(known) = self.by_tid.get_mut(&tid).filter(|known| known.context == context) {
            Rc::make_mut(&mut known.task_info).users = UserMap::new(extents);
        }
    }

    /// Moves the cached index to this thread, which the next lookups are about.
    #[inline]
    pub(crate) fn seek(&mut self, tid: u32) {
        self.by_tid.seek(&tid);
    }

    /// The task of a thread, if its context still is this one.
    #[must_use]
    pub(crate) fn get(&self, tid: u32, context: u64) -> Option<&Rc<TaskInfo>> {
        self.by_tid.get(&tid).filter(|known| known.context == context).map(|known| &known.task_info)
    }

    /// Replaces a thread's context temporarily. Returns the current one, to be put back.
    pub(crate) fn replace(&mut self, tid: u32, known: Option<KnownTask>) -> Option<KnownTask> {
        let before = self.by_tid.remove(&tid);
        if let Some(known) = known {
            self.by_tid.insert(tid, known);
        }
        before
    }

    /// The number of a thread's context.
    #[cfg(test)]
    pub(crate) fn number(&self, tid: u32) -> Option<u64> {
        self.by_tid.get(&tid).map(|known| known.context)
    }

    /// The caller of a call. The fields that every call carries come from the call itself: they may have
    /// changed since the context was sent.
    #[must_use]
    pub(crate) fn caller<'a>(&'a self, record: &'a CallRecord) -> Process<'a> {
        let task_info = self.get(record.tid, record.context);
        let CallRecord { pid, tid, euid: uid, egid: gid, .. } = *record;
        let comm = OsBytes::until_nul(&record.comm);
        let mut process = CallTask { pid, tid, uid, gid, comm }.process(task_info.map(Rc::as_ref));
        if !self.with_ancestry {
            let identity = &mut process.identity;
            (identity.ancestry, identity.ancestry_truncated) = (None, false);
        }
        process
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::process::Called;
    use zerocopy::FromZeros as _;

    fn full_context(tid: u32, number: u64, exe: &[u8]) -> Context {
        let record = Box::new(context(tid, number, exe, 0));
        Context { record, called: Called::default(), found: ProcInfo::default() }
    }

    fn context(tid: u32, number: u64, exe: &[u8], flags: u32) -> ContextRecord {
        let mut record = ContextRecord::new_zeroed();
        record.tid = tid;
        record.context = number;
        record.header.flags = flags;
        record.exe_len = exe.len() as u32;
        record.exe[..exe.len()].copy_from_slice(exe);
        record
    }

    fn exit(tid: u32, number: u64) -> ExitRecord {
        let mut record = ExitRecord::new_zeroed();
        record.tid = tid;
        record.context = number;
        record
    }

    #[test]
    fn a_path_is_joined_from_its_last_component() {
        let path = |bytes, flags| {
            executable(&context(1, 1, bytes, flags)).map(|t| t.to_str().into_owned())
        };
        assert_eq!(path(b"worker\0bin\0usr\0", 0).as_deref(), Some("/usr/bin/worker"));
        assert_eq!(path(b"x\0", 0).as_deref(), Some("/x"));
        assert_eq!(path(b"x\0y\0", flag::TRUNCATED).as_deref(), Some(".../y/x"));
        assert_eq!(path(b"", 0), None);
    }

    #[test]
    fn a_memfd_program_keeps_the_kernel_name() {
        let path = |bytes, flags| {
            executable(&context(1, 1, bytes, flags)).map(|t| t.to_str().into_owned()).unwrap()
        };
        assert_eq!(path(b"memfd:x y\0", flag::DELETED), "/memfd:x y (deleted)");
        assert_eq!(path(b"memfd:x\0tmp\0", flag::DELETED), "/tmp/memfd:x");
        assert_eq!(path(b"memfd:x\0", 0), "/memfd:x");
        assert_eq!(path(b"worker\0", flag::DELETED), "/worker");
    }

    #[test]
    fn a_missing_path_is_taken_from_procfs() {
        let path = |exe: &[u8], flags| {
            let found = ProcInfo { exe: Some(exe.into()), ..ProcInfo::default() };
            let record = context(7, 1, b"", flags);
            executable_in(&found, &record).map(|text| text.to_str().into_owned())
        };
        assert_eq!(path(b"/usr/bin/worker", 0).as_deref(), Some("/usr/bin/worker"));
        let deleted = path(b"/usr/bin/worker (deleted)", flag::DELETED);
        assert_eq!(deleted.as_deref(), Some("/usr/bin/worker"));
        assert_eq!(executable_in(&ProcInfo::default(), &context(7, 1, b"", 0)), None);
    }

    #[test]
    fn a_late_uid_map_is_requested_and_applied_to_its_context_only() {
        let mut contexts = TaskCache::default();
        contexts.insert(&full_context(7, 100, b"a\0"), &mut Containers::default());
        let mut record = CallRecord::new_zeroed();
        (record.tid, record.context, record.boot_ns) = (7, 100, 100);
        contexts.search_map(&record);
        assert_eq!(contexts.take_request(), None, "it was requested when the context was made");
        record.boot_ns = 101;
        contexts.search_map(&record);
        let process = (0, 0);
        let asked = InspectorRequest::Users { process, tid: 7, context: 100 };
        assert_eq!(contexts.take_request(), Some(asked));
        let extents = [UidExtent { first: 0, lower_first: 1000, count: 1 }];
        contexts.users_seen(7, 99, &extents);
        contexts.users_seen(7, 100, &[]);
        assert_eq!(contexts.get(7, 100).unwrap().identity_as(1000).ns_uid, None);
        contexts.users_seen(7, 100, &extents);
        assert_eq!(contexts.get(7, 100).unwrap().identity_as(1000).ns_uid, Some(0));
    }

    #[test]
    fn a_context_is_found_by_thread_and_context_number() {
        let mut contexts = TaskCache::default();
        contexts.insert(&full_context(7, 100, b"a\0"), &mut Containers::default());
        assert!(contexts.get(7, 100).is_some());
        assert!(contexts.get(7, 99).is_none());
        assert!(contexts.get(8, 100).is_none());
        // After exec.
        contexts.insert(&full_context(7, 200, b"b\0"), &mut Containers::default());
        assert!(contexts.get(7, 100).is_none());
        // The exit of an earlier thread with that number arrives late.
        contexts.remove(&exit(7, 100));
        assert!(contexts.get(7, 200).is_some());
        contexts.remove(&exit(7, 200));
        assert!(contexts.get(7, 200).is_none());
    }

    #[test]
    fn threads_with_a_missed_exit_are_swept() {
        let mut contexts = TaskCache::default();
        for tid in [7, 8, 9] {
            contexts.insert(&full_context(tid, u64::from(tid), b""), &mut Containers::default());
        }
        contexts.sweep();
        assert_eq!(contexts.take_request(), Some(InspectorRequest::Ended(vec![7, 8, 9])));
        // The number was reused since the request.
        contexts.insert(&full_context(8, 20, b""), &mut Containers::default());
        contexts.have_ended(&[8, 9]);
        assert!(contexts.get(7, 7).is_some() && contexts.get(8, 20).is_some());
        assert!(contexts.get(9, 9).is_none());
    }
}
