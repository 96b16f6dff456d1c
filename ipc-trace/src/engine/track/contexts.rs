//! Who a thread is: the facts that the kernel sent once, found again by thread and context.

use std::{borrow::Cow, collections::VecDeque, rc::Rc, sync::Arc};

use ipc_trace_common::record::{
    AncestorRecord, CallRecord, ContextRecord, EXE_LEN, ExitRecord, UID_EXTENTS, UidExtent, flag,
};

use super::{
    HashMap,
    identity::{Ancestors, MapSearch, UserMap},
    last_hit::LastHitMap,
};
use crate::{
    engine::track::containers::{ContainerHandle, Containers},
    event::{
        Container, OtherNs, Process, identity::Capabilities, identity::ProcessIdentity,
        value::OsBytes,
    },
    input::process::{Context, InspectorRequest, ProcInfo},
};

/// Contexts that are kept at least before threads that have ended unseen are looked for.
const SWEEP_AT: usize = 1 << 16;

/// The facts of a process, as they were at one moment.
#[derive(Clone, Debug)]
pub(crate) struct TaskInfo {
    /// The process
    pub pid: u32,
    /// Its parent
    pub ppid: u32,
    /// The thread's name
    pub comm: OsBytes<'static>,
    /// Path of the executable
    pub exe: Option<OsBytes<'static>>,
    /// Whether its file was deleted
    pub exe_deleted: bool,
    /// Effective user
    pub uid: u32,
    /// Effective group
    pub gid: u32,
    /// When the process started
    pub start_boot_ns: u64,
    /// Its other namespaces
    pub ns: OtherNs,
    /// Its container; `None`: it is the host's
    pub container: Option<ContainerHandle>,
    /// The path of its cgroup, from the root of the hierarchy
    pub cgroup: Option<Arc<OsBytes<'static>>>,
    /// Who it is beside that
    pub identity: ProcessIdentity,
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
            ns: OtherNs {
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

    /// Who it is, when its effective user is that.
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

    /// As [`Self::container`], on a line, which a later one amends when there is more to say.
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

/// A thread, by what each of its calls tells.
#[derive(Clone, Debug)]
pub(crate) struct CallTask<'a> {
    /// The process
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
    /// Its process, with what else is known of it: as each event shows it.
    #[must_use]
    pub(crate) fn process(self, facts: Option<&'a TaskInfo>) -> Process<'a> {
        let Self { pid, tid, uid, gid, comm } = self;
        Process {
            pid,
            tid,
            ppid: facts.map(|facts| facts.ppid),
            comm,
            exe: facts.and_then(|facts| facts.exe.as_ref()).map(borrowed),
            exe_deleted: facts.is_some_and(|facts| facts.exe_deleted),
            uid,
            gid,
            start_boot_ns: facts.map(|facts| facts.start_boot_ns),
            ns: facts.map(|facts| facts.ns).unwrap_or_default(),
            identity: facts.map(|facts| facts.identity_as(uid)).unwrap_or_default(),
        }
    }
}

/// The users of its namespace. A map with more parts than the eBPF programs have room for is asked for.
fn users(record: &ContextRecord, found: &ProcInfo) -> UserMap {
    match record.uid_extents as usize > UID_EXTENTS {
        true => UserMap::new(&found.users),
        false => UserMap::from_record(record),
    }
}

fn borrowed<'a>(text: &'a OsBytes<'static>) -> OsBytes<'a> {
    OsBytes(Cow::Borrowed(&text.0))
}

/// The path, whose components come last one first, each with a NUL behind.
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

/// What the kernel puts behind a path that leads nowhere any more (`d_path`, fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Whether a program was run from a file that never had a path (memfd_create(2)): it is known by the name that the
/// kernel shows, which ends like that of every deleted file.
fn is_memfd(path: &[u8], record: &ContextRecord) -> bool {
    let name = path.strip_prefix(b"/memfd:");
    record.header.flags & flag::DELETED != 0 && name.is_some_and(|name| !name.contains(&b'/'))
}

/// The path as `/proc` has it, where the eBPF programs had none: its table of paths is bounded. `None`
/// also where the process has ended, and its number is another's now.
fn executable_in(found: &ProcInfo, record: &ContextRecord) -> Option<OsBytes<'static>> {
    let mut path = found.exe.clone()?;
    // That it is deleted is told beside it.
    if record.header.flags & flag::DELETED != 0 && !is_memfd(&path, record) {
        let len = path.strip_suffix(DELETED).unwrap_or(&path).len();
        path.truncate(len);
    }
    Some(OsBytes(Cow::Owned(path)))
}

/// The contexts of all threads that made calls.
#[derive(Debug, Default)]
pub(crate) struct TaskCache {
    by_tid: LastHitMap<u32, (u64, Rc<TaskInfo>)>,
    sweep_at: usize,
    ancestors: Ancestors,
    /// Whether calls are shown with the ancestry of who made them
    pub with_ancestry: bool,
    /// Threads whose map of users was not written yet, and when it is asked for again
    unmapped: HashMap<u32, (u64, MapSearch)>,
    /// The number of the newest context
    newest: u64,
    /// The number of the newest context when it was asked which threads have ended
    swept: u64,
    requests: VecDeque<InspectorRequest>,
}

impl TaskCache {
    /// A context came, of a thread in a container.
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
        let facts = Rc::new(TaskInfo::new(record, (container, cgroup), identity, found));
        if facts.users.is_empty() {
            self.unmapped.insert(record.tid, (record.context, MapSearch::default()));
        } else if !self.unmapped.is_empty() {
            self.unmapped.remove(&record.tid);
        }
        self.newest = self.newest.max(record.context);
        self.by_tid.insert(record.tid, (record.context, facts));
        if self.by_tid.len() > self.sweep_at.max(SWEEP_AT) {
            self.sweep();
        }
    }

    /// A thread ended.
    pub(crate) fn remove(&mut self, record: &ExitRecord) {
        if self.by_tid.get(&record.tid).is_some_and(|known| known.0 == record.context) {
            self.by_tid.remove(&record.tid);
            self.unmapped.remove(&record.tid);
        }
    }

    /// Where the record of a thread's end was lost, its context would stay for ever: asks which have ended.
    fn sweep(&mut self) {
        self.swept = self.newest;
        self.requests.push_back(InspectorRequest::Ended(self.by_tid.keys().copied().collect()));
        self.sweep_at = self.by_tid.len() * 2;
    }

    /// Those threads have ended, as was asked. Their numbers may be others' since.
    pub(crate) fn have_ended(&mut self, tids: &[u32]) {
        for tid in tids {
            if self.by_tid.get(tid).is_some_and(|known| known.0 <= self.swept) {
                self.by_tid.remove(tid);
                self.unmapped.remove(tid);
            }
        }
        self.sweep_at = self.by_tid.len() * 2;
    }

    /// Whether an ancestor is known, so that nothing is to be asked of it.
    #[must_use]
    pub(crate) fn knows_ancestor(&self, record: &AncestorRecord) -> bool {
        self.ancestors.knows(record)
    }

    /// What is to be asked.
    pub(crate) fn take_request(&mut self) -> Option<InspectorRequest> {
        self.requests.pop_front()
    }

    /// A call returned: the map of its thread's users may have been written since it was looked for.
    #[inline]
    pub(crate) fn look_for_map(&mut self, record: &CallRecord) {
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
            && let Some(facts) = self.get(tid, context)
        {
            let process = (facts.pid, facts.start_boot_ns);
            self.requests.push_back(InspectorRequest::Users { process, tid, context });
        }
    }

    /// The map of a thread's users, as was asked; empty: it is not written yet.
    pub(crate) fn users_seen(&mut self, tid: u32, context: u64, extents: &[UidExtent]) {
        if extents.is_empty() {
            return;
        }
        self.unmapped.remove(&tid);
        if let Some(known) = self.by_tid.get_mut(&tid).filter(|known| known.0 == context) {
            Rc::make_mut(&mut known.1).users = UserMap::new(extents);
        }
    }

    /// What comes next is about that thread.
    #[inline]
    pub(crate) fn seek(&mut self, tid: u32) {
        self.by_tid.seek(&tid);
    }

    /// The facts of a thread, if it still is what it was in that context.
    #[must_use]
    pub(crate) fn get(&self, tid: u32, context: u64) -> Option<&Rc<TaskInfo>> {
        self.by_tid.get(&tid).filter(|known| known.0 == context).map(|known| &known.1)
    }

    /// Has a thread's context be these facts for a while: gives what is to be put there again.
    pub(crate) fn replace(
        &mut self,
        tid: u32,
        known: Option<(u64, Rc<TaskInfo>)>,
    ) -> Option<(u64, Rc<TaskInfo>)> {
        let before = self.by_tid.remove(&tid);
        if let Some(known) = known {
            self.by_tid.insert(tid, known);
        }
        before
    }

    /// The number of a thread's context.
    #[cfg(test)]
    pub(crate) fn number(&self, tid: u32) -> Option<u64> {
        self.by_tid.get(&tid).map(|known| known.0)
    }

    /// Who made a call. What every call carries comes from the call itself: it may have changed
    /// since the context was sent.
    #[must_use]
    pub(crate) fn caller<'a>(&'a self, record: &'a CallRecord) -> Process<'a> {
        let facts = self.get(record.tid, record.context);
        let CallRecord { pid, tid, euid: uid, egid: gid, .. } = *record;
        let comm = OsBytes::until_nul(&record.comm);
        let mut process = CallTask { pid, tid, uid, gid, comm }.process(facts.map(Rc::as_ref));
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

    fn whole(tid: u32, number: u64, exe: &[u8]) -> Context {
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
    fn a_path_is_put_together_from_its_end() {
        let path = |bytes, flags| {
            executable(&context(1, 1, bytes, flags)).map(|t| t.to_str().into_owned())
        };
        assert_eq!(path(b"worker\0bin\0usr\0", 0).as_deref(), Some("/usr/bin/worker"));
        assert_eq!(path(b"x\0", 0).as_deref(), Some("/x"));
        assert_eq!(path(b"x\0y\0", flag::TRUNCATED).as_deref(), Some(".../y/x"));
        assert_eq!(path(b"", 0), None);
    }

    #[test]
    fn a_program_without_a_path_has_the_name_that_the_kernel_shows() {
        let path = |bytes, flags| {
            executable(&context(1, 1, bytes, flags)).map(|t| t.to_str().into_owned()).unwrap()
        };
        assert_eq!(path(b"memfd:x y\0", flag::DELETED), "/memfd:x y (deleted)");
        assert_eq!(path(b"memfd:x\0tmp\0", flag::DELETED), "/tmp/memfd:x");
        assert_eq!(path(b"memfd:x\0", 0), "/memfd:x");
        assert_eq!(path(b"worker\0", flag::DELETED), "/worker");
    }

    #[test]
    fn a_path_that_the_kernel_side_did_not_have_is_what_was_found() {
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
    fn a_map_that_was_written_later_is_asked_for_and_is_that_of_the_same_context_alone() {
        let mut contexts = TaskCache::default();
        contexts.insert(&whole(7, 100, b"a\0"), &mut Containers::default());
        let mut record = CallRecord::new_zeroed();
        (record.tid, record.context, record.boot_ns) = (7, 100, 100);
        contexts.look_for_map(&record);
        assert_eq!(contexts.take_request(), None, "it was looked for when the context was made");
        record.boot_ns = 101;
        contexts.look_for_map(&record);
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
    fn a_context_is_found_by_thread_and_number_alone() {
        let mut contexts = TaskCache::default();
        contexts.insert(&whole(7, 100, b"a\0"), &mut Containers::default());
        assert!(contexts.get(7, 100).is_some());
        assert!(contexts.get(7, 99).is_none());
        assert!(contexts.get(8, 100).is_none());
        // After exec.
        contexts.insert(&whole(7, 200, b"b\0"), &mut Containers::default());
        assert!(contexts.get(7, 100).is_none());
        // The end of an earlier thread with that number comes late.
        contexts.remove(&exit(7, 100));
        assert!(contexts.get(7, 200).is_some());
        contexts.remove(&exit(7, 200));
        assert!(contexts.get(7, 200).is_none());
    }

    #[test]
    fn threads_whose_end_was_missed_do_not_stay() {
        let mut contexts = TaskCache::default();
        for tid in [7, 8, 9] {
            contexts.insert(&whole(tid, u64::from(tid), b""), &mut Containers::default());
        }
        contexts.sweep();
        assert_eq!(contexts.take_request(), Some(InspectorRequest::Ended(vec![7, 8, 9])));
        // The number is another thread's since it was asked.
        contexts.insert(&whole(8, 20, b""), &mut Containers::default());
        contexts.have_ended(&[8, 9]);
        assert!(contexts.get(7, 7).is_some() && contexts.get(8, 20).is_some());
        assert!(contexts.get(9, 9).is_none());
    }
}
