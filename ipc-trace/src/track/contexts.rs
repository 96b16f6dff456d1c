//! Who a thread is: the facts that the kernel sent once, found again by thread and context.

use std::{borrow::Cow, path::Path, rc::Rc};

use ipc_trace_common::record::{CallRecord, ContextRecord, EXE_LEN, ExitRecord, flag};

use super::HashMap;
use crate::event::{OtherNs, Process, value::Text};

/// Contexts that are kept at least before threads that have ended unseen are looked for.
const SWEEP_AT: usize = 1 << 16;

/// The facts of a process, as they were at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
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
}

impl Facts {
    fn new(record: &ContextRecord) -> Self {
        let known = |inum: u32| (inum != 0).then_some(inum);
        Self {
            pid: record.pid,
            ppid: record.ppid,
            comm: Text::until_nul(&record.comm).into_owned(),
            exe: executable(record),
            exe_deleted: record.header.flags & flag::DELETED != 0,
            uid: record.euid,
            gid: record.egid,
            start_boot_ns: record.start_boot_ns,
            ns: OtherNs {
                pid: known(record.pid_ns),
                mnt: known(record.mnt_ns),
                user: known(record.user_ns),
            },
        }
    }

    /// The process, with one of its threads.
    #[must_use]
    pub fn process(&self, tid: u32) -> Process<'_> {
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
        }
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
    Some(Text(Cow::Owned(path)))
}

/// The contexts of all threads that made calls.
#[derive(Debug, Default)]
pub struct Contexts {
    by_tid: HashMap<u32, (u64, Rc<Facts>)>,
    sweep_at: usize,
}

impl Contexts {
    /// A context came.
    pub fn insert(&mut self, record: &ContextRecord) {
        self.by_tid.insert(record.tid, (record.context, Rc::new(Facts::new(record))));
        if self.by_tid.len() > self.sweep_at.max(SWEEP_AT) {
            self.sweep(Path::new("/proc"));
        }
    }

    /// A thread ended.
    pub fn remove(&mut self, record: &ExitRecord) {
        if self.by_tid.get(&record.tid).is_some_and(|known| known.0 == record.context) {
            self.by_tid.remove(&record.tid);
        }
    }

    /// Where the record of a thread's end was lost, its context would stay for ever.
    fn sweep(&mut self, proc: &Path) {
        self.by_tid.retain(|tid, _| proc.join(tid.to_string()).exists());
        self.sweep_at = self.by_tid.len() * 2;
    }

    /// The facts of a thread, if it still is what it was in that context.
    #[must_use]
    pub fn get(&self, tid: u32, context: u64) -> Option<&Rc<Facts>> {
        self.by_tid.get(&tid).filter(|known| known.0 == context).map(|known| &known.1)
    }

    /// Who made a call. What every call carries comes from the call itself: it may have changed
    /// since the context was sent.
    #[must_use]
    pub fn caller<'a>(&'a self, record: &'a CallRecord) -> Process<'a> {
        let facts = self.get(record.tid, record.context);
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
    fn a_context_is_found_by_thread_and_number_alone() {
        let mut contexts = Contexts::default();
        contexts.insert(&context(7, 100, b"a\0", 0));
        assert!(contexts.get(7, 100).is_some());
        assert!(contexts.get(7, 99).is_none());
        assert!(contexts.get(8, 100).is_none());
        // After exec.
        contexts.insert(&context(7, 200, b"b\0", 0));
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
        contexts.insert(&context(own, 1, b"", 0));
        // Larger than any pid (PID_MAX_LIMIT, include/linux/threads.h).
        contexts.insert(&context(1 << 30, 2, b"", 0));
        contexts.sweep(Path::new("/proc"));
        assert!(contexts.get(own, 1).is_some());
        assert!(contexts.get(1 << 30, 2).is_none());
    }
}
