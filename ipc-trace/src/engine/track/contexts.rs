//! Who a thread is: the facts that the kernel sent once, found again by thread and context.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use ipc_trace_common::record::{
    AncestorRecord, CallRecord, ContextRecord, EXE_LEN, ExitRecord, UID_EXTENTS, flag,
};

use super::{
    identity::{self, Ancestors, Called, MapSearch, Users},
    recent::Recent,
};
use crate::{
    engine::track::containers::Containers,
    engine::track::containers::Known,
    event::{Container, OtherNs, Process, identity::Capabilities, identity::Identity, value::Text},
    sources::host::patience::Patience,
};

/// Contexts that are kept at least before threads that have ended unseen are looked for.
const SWEEP_AT: usize = 1 << 16;

/// The facts of a process, as they were at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The process
    pub pid: u32,
    /// Its parent
    pub ppid: u32,
    /// The thread's name
    pub comm: Text<'static>,
    /// Path of the executable
    pub exe: Option<Text<'static>>,
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
    pub container: Option<Rc<Known>>,
    /// The path of its cgroup, from the root of the hierarchy
    pub cgroup: Option<Arc<Text<'static>>>,
    /// Who it is beside that
    pub identity: Identity,
    users: RefCell<Users>,
    map: Cell<MapSearch>,
}

impl Facts {
    fn new(
        record: &ContextRecord,
        (container, cgroup): (Option<Rc<Known>>, Option<Arc<Text<'static>>>),
        identity: Identity,
        proc: &Path,
    ) -> Self {
        let known = |inum: u32| (inum != 0).then_some(inum);
        Self {
            pid: record.pid,
            ppid: record.ppid,
            comm: Text::until_nul(&record.comm).into_owned(),
            exe: executable(record).or_else(|| executable_in(proc, record)),
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
            users: RefCell::new(users(record, proc)),
            map: Cell::default(),
        }
    }

    /// Looks for the map of its users where that was not written when its facts were read.
    #[cold]
    fn look_for_map(&self, proc: &Path, now: u64) {
        let mut search = self.map.get();
        if search.is_due(now) {
            let found = Users::in_proc(proc, self.pid, self.start_boot_ns);
            if !found.is_empty() {
                self.users.replace(found);
            }
        }
        self.map.set(search);
    }

    /// Who it is, when its effective user is that.
    #[must_use]
    pub(crate) fn identity_as(&self, uid: u32) -> Identity {
        let mut identity = self.identity.clone();
        identity.ns_uid = self.users.borrow().inside(uid);
        if uid != self.uid {
            identity.capabilities = None;
        }
        identity
    }

    /// Its container, as it is shown now.
    #[must_use]
    pub(crate) fn container(&self) -> Option<Arc<Container>> {
        self.container.as_ref().map(|known| known.container())
    }

    /// As [`Self::container`], on a line, which a later one amends when there is more to say.
    #[must_use]
    pub(crate) fn show_container(&self) -> Option<Arc<Container>> {
        self.container.as_ref().map(|known| known.show())
    }

    /// The process, with one of its threads.
    #[must_use]
    pub(crate) fn process(&self, tid: u32) -> Process<'_> {
        Process {
            pid: self.pid,
            tid,
            ppid: Some(self.ppid),
            comm: borrowed(&self.comm),
            exe: self.exe.as_ref().map(borrowed),
            exe_deleted: self.exe_deleted,
            uid: self.uid,
            gid: self.gid,
            start_boot_ns: Some(self.start_boot_ns),
            ns: self.ns,
            identity: self.identity_as(self.uid),
        }
    }
}

/// The users of its namespace. A map with more parts than the kernel side has room for is in `proc`.
fn users(record: &ContextRecord, proc: &Path) -> Users {
    match record.uid_extents as usize > UID_EXTENTS {
        true => Users::in_proc(proc, record.pid, record.start_boot_ns),
        false => Users::of(record),
    }
}

fn borrowed<'a>(text: &'a Text<'static>) -> Text<'a> {
    Text(Cow::Borrowed(&text.0))
}

/// The path, whose components come last one first, each with a NUL behind.
fn executable(record: &ContextRecord) -> Option<Text<'static>> {
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
    Some(Text(Cow::Owned(path)))
}

/// What the kernel puts behind a path that leads nowhere any more (`d_path`, fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Whether a program was run from a file that never had a path (memfd_create(2)): it is known by the name that the
/// kernel shows, which ends like that of every deleted file.
fn is_memfd(path: &[u8], record: &ContextRecord) -> bool {
    let name = path.strip_prefix(b"/memfd:");
    record.header.flags & flag::DELETED != 0 && name.is_some_and(|name| !name.contains(&b'/'))
}

/// The path as `proc` has it, where the kernel side had none: its table of paths is bounded. `None`
/// also where the process has ended, and its number is another's now.
fn executable_in(proc: &Path, record: &ContextRecord) -> Option<Text<'static>> {
    if record.header.flags & flag::TRUNCATED == 0 {
        return None;
    }
    let process = proc.join(record.pid.to_string());
    let path = identity::executable(&process, record.start_boot_ns, None)?;
    let mut path = path.into_os_string().into_encoded_bytes();
    // That it is deleted is told beside it.
    if record.header.flags & flag::DELETED != 0 && !is_memfd(&path, record) {
        let len = path.strip_suffix(DELETED).unwrap_or(&path).len();
        path.truncate(len);
    }
    Some(Text(Cow::Owned(path)))
}

/// The contexts of all threads that made calls.
#[derive(Debug)]
pub(crate) struct Contexts {
    by_tid: Recent<u32, (u64, Rc<Facts>)>,
    sweep_at: usize,
    ancestors: Ancestors,
    /// Whether calls are shown with the ancestry of who made them
    pub with_ancestry: bool,
    /// Where processes are that live
    proc: PathBuf,
    patience: Patience,
}

impl Default for Contexts {
    fn default() -> Self {
        Self {
            by_tid: Recent::default(),
            sweep_at: 0,
            ancestors: Ancestors::default(),
            with_ancestry: false,
            proc: "/proc".into(),
            patience: Patience::default(),
        }
    }
}

impl Contexts {
    /// A context came, of a thread in a container.
    pub(crate) fn insert(
        &mut self,
        record: &ContextRecord,
        called: Called,
        containers: &mut Containers,
    ) {
        let container = containers.of(record.cgroup, record.pid);
        if let Some(known) = &container {
            containers.is_in(known, record.ns, record.context);
        }
        let of_container = container.as_ref().map(Rc::as_ptr);
        let (ancestry, ancestry_truncated) =
            self.ancestors.of(record, &self.proc, |one: &AncestorRecord| {
                let mut its = || containers.of(one.cgroup, one.pid).as_ref().map(Rc::as_ptr);
                of_container.is_none() || its() == of_container
            });
        let called = called.or_in(&self.proc, &mut self.patience, record);
        let identity = Identity {
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
        let facts = Rc::new(Facts::new(record, (container, cgroup), identity, &self.proc));
        self.by_tid.insert(record.tid, (record.context, facts));
        if self.by_tid.len() > self.sweep_at.max(SWEEP_AT) {
            self.sweep();
        }
    }

    /// A thread ended.
    pub(crate) fn remove(&mut self, record: &ExitRecord) {
        if self.by_tid.get(&record.tid).is_some_and(|known| known.0 == record.context) {
            self.by_tid.remove(&record.tid);
        }
    }

    /// Where the record of a thread's end was lost, its context would stay for ever.
    fn sweep(&mut self) {
        let proc = &self.proc;
        self.by_tid.retain(|tid| proc.join(tid.to_string()).exists());
        self.sweep_at = self.by_tid.len() * 2;
    }

    /// The facts of a thread, if it still is what it was in that context.
    #[must_use]
    pub(crate) fn get(&self, tid: u32, context: u64) -> Option<&Rc<Facts>> {
        self.by_tid.get(&tid).filter(|known| known.0 == context).map(|known| &known.1)
    }

    /// Has a thread's context be these facts for a while: gives what is to be put there again.
    pub(crate) fn replace(
        &mut self,
        tid: u32,
        known: Option<(u64, Rc<Facts>)>,
    ) -> Option<(u64, Rc<Facts>)> {
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
        if let Some(facts) = facts
            && facts.users.borrow().is_empty()
            // A call before: the map may have been written since.
            && record.boot_ns > record.context
        {
            facts.look_for_map(&self.proc, record.boot_ns);
        }
        let mut identity = facts.map(|f| f.identity_as(record.euid)).unwrap_or_default();
        if !self.with_ancestry {
            (identity.ancestry, identity.ancestry_truncated) = (None, false);
        }
        Process {
            pid: record.pid,
            tid: record.tid,
            ppid: facts.map(|f| f.ppid),
            comm: Text::until_nul(&record.comm),
            exe: facts.and_then(|f| f.exe.as_ref()).map(borrowed),
            exe_deleted: facts.is_some_and(|f| f.exe_deleted),
            uid: record.euid,
            gid: record.egid,
            start_boot_ns: facts.map(|f| f.start_boot_ns),
            ns: facts.map(|f| f.ns).unwrap_or_default(),
            identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

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
    fn a_path_that_the_kernel_side_did_not_have_is_that_of_the_same_process_alone() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path();
        std::fs::create_dir_all(proc.join("7")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/worker", proc.join("7/exe")).unwrap();
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1 1\n";
        std::fs::write(proc.join("7/stat"), stat).unwrap();
        let mut record = context(7, 1, b"", flag::TRUNCATED);
        record.pid = 7;
        record.start_boot_ns = 43_219_999_999;
        let path = |record: &ContextRecord| {
            executable_in(proc, record).map(|text| text.to_str().into_owned())
        };
        assert_eq!(path(&record).as_deref(), Some("/usr/bin/worker"));
        record.start_boot_ns = 43_220_000_000;
        assert_eq!(path(&record), None);
        record.start_boot_ns = 43_210_000_000;
        record.header.flags = 0;
        assert_eq!(path(&record), None);
    }

    #[test]
    fn a_context_is_found_by_thread_and_number_alone() {
        let mut contexts = Contexts::default();
        contexts.insert(&context(7, 100, b"a\0", 0), Called::default(), &mut Containers::default());
        assert!(contexts.get(7, 100).is_some());
        assert!(contexts.get(7, 99).is_none());
        assert!(contexts.get(8, 100).is_none());
        // After exec.
        contexts.insert(&context(7, 200, b"b\0", 0), Called::default(), &mut Containers::default());
        assert!(contexts.get(7, 100).is_none());
        // The end of an earlier thread with that number comes late.
        contexts.remove(&exit(7, 100));
        assert!(contexts.get(7, 200).is_some());
        contexts.remove(&exit(7, 200));
        assert!(contexts.get(7, 200).is_none());
    }

    #[test]
    fn threads_whose_end_was_missed_do_not_stay() {
        let mut contexts = Contexts::default();
        let own = std::process::id();
        contexts.insert(&context(own, 1, b"", 0), Called::default(), &mut Containers::default());
        // Larger than any pid (PID_MAX_LIMIT, include/linux/threads.h).
        contexts.insert(
            &context(1 << 30, 2, b"", 0),
            Called::default(),
            &mut Containers::default(),
        );
        contexts.sweep();
        assert!(contexts.get(own, 1).is_some());
        assert!(contexts.get(1 << 30, 2).is_none());
    }
}
