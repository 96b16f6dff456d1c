//! The contents of a namespace, which only a thread inside it can read: objects and limits.
//!
//! Invariant: a thread that enters namespaces does nothing else and ends with its work, and it closes each descriptor
//! before it enters the next namespace: it keeps no namespace alive after the snapshot.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use ipc_trace_common::op::ObjectKind;
use nix::sched::CloneFlags;

use super::{
    mqueue, sysvipc,
    untrusted::{self, ExpectedFile},
};
use crate::{
    event::{
        ls::{Limit, LimitName, Unseen, UnseenWhat},
        objects::ObjectInfo,
        value::KindName,
    },
    sources::clock::boot_ns,
    sources::kernel::owned,
};

/// A handle for entering a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NsHandle {
    /// This process is in it
    Own,
    /// The file of a thread's namespace
    Thread(u32, u32),
    /// The kernel's unique id (Linux 6.18 and later)
    Id(u64),
    /// A process's descriptor
    Descriptor(u32, u32),
    /// A mount point that a process sees
    Mount(u32, Vec<u8>),
}

/// A namespace to read.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceTarget {
    /// Its inode number
    pub inum: u32,
    /// Its handles, the best first
    pub ways: Vec<NsHandle>,
}

/// The contents of a namespace.
#[derive(Debug, Default)]
pub(crate) struct NamespaceContents {
    /// Objects
    pub objects: Vec<ObjectInfo>,
    /// Limits; their use is not known yet
    pub limits: BTreeMap<LimitName, Limit>,
    /// Device number of its mqueue file system
    pub mqueue_dev: Option<libc::dev_t>,
    /// Parts that could not be read
    pub unseen: Vec<Unseen>,
    /// The start and end of listing its objects, on `CLOCK_BOOTTIME`, nanoseconds
    pub listed: (u64, u64),
}

impl NamespaceContents {
    fn fail(&mut self, what: UnseenWhat, reason: impl Into<String>) {
        self.unseen.push(Unseen { what, reason: reason.into() });
    }

    /// The contents of a namespace that can't be entered.
    #[must_use]
    pub(crate) fn closed(reason: &str) -> Self {
        let all = [UnseenWhat::Sysv, UnseenWhat::Queues, UnseenWhat::Limits];
        let unseen = all.map(|what| Unseen { what, reason: reason.to_owned() });
        Self { unseen: unseen.into(), ..Self::default() }
    }
}

/// How many namespaces one thread reads, if there are many. Most of the time is spent waiting for a grace period when
/// a mount is removed (`namespace_unlock`, fs/namespace.c), for which threads can wait together.
const NAMESPACES_PER_THREAD: usize = 64;
/// The largest number of threads.
const MAX_THREADS: usize = 8;

/// Reads each of the namespaces. `None`: it was gone, or could not be entered.
///
/// # Errors
/// No thread can be started.
pub(crate) fn read_all(targets: &[NamespaceTarget]) -> io::Result<Vec<Option<NamespaceContents>>> {
    // A thread's own namespace comes before any other.
    let (own, others): (Vec<_>, Vec<_>) =
        targets.iter().enumerate().partition(|(_, target)| target.ways.contains(&NsHandle::Own));
    let order: Vec<_> = own.into_iter().chain(others).collect();
    let threads = order.len().div_ceil(NAMESPACES_PER_THREAD).clamp(1, MAX_THREADS);
    let mut found = std::thread::scope(|scope| {
        let mut spawned = Vec::new();
        for share in order.chunks(order.len().div_ceil(threads).max(1)) {
            let read_share = move || -> Vec<_> {
                share.iter().map(|(at, target)| (*at, read_namespace(target))).collect()
            };
            let thread = std::thread::Builder::new().name("ipc-trace-ns".to_owned());
            spawned.push(thread.spawn_scoped(scope, read_share)?);
        }
        let mut found = Vec::new();
        for thread in spawned {
            let failed = |_| io::Error::other("a thread that reads namespaces failed");
            found.append(&mut thread.join().map_err(failed)?);
        }
        Ok::<_, io::Error>(found)
    })?;
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, inside)| inside).collect())
}

fn read_namespace(target: &NamespaceTarget) -> Option<NamespaceContents> {
    // Until no handle is left whose failure says that the namespace exists.
    let mut refused = None;
    for way in &target.ways {
        match enter(target.inum, way) {
            Ok(true) => return Some(read()),
            Ok(false) => {}
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    refused.map(|error| NamespaceContents::closed(&format!("it can't be entered: {error}")))
}

/// Moves this thread into the namespace. `false`: the handle leads to no such namespace any more.
fn enter(inum: u32, way: &NsHandle) -> io::Result<bool> {
    let expected = ExpectedFile::namespace(inum)?;
    let link = |path: String| untrusted::open_link(Path::new(&path), expected);
    let opened = match way {
        NsHandle::Own => return Ok(true),
        NsHandle::Thread(pid, tid) => link(format!("/proc/{pid}/task/{tid}/ns/ipc")),
        NsHandle::Id(id) => open_by_id(*id, inum),
        NsHandle::Descriptor(pid, fd) => link(format!("/proc/{pid}/fd/{fd}")),
        NsHandle::Mount(pid, point) => untrusted::open_mount(*pid, point, expected),
    };
    match opened {
        Ok(Some(file)) => nix::sched::setns(&file, CloneFlags::CLONE_NEWIPC)?,
        // Another namespace may have replaced the one that existed a moment ago.
        Ok(None) => return Ok(false),
        Err(error) if is_gone(&error) => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// Whether an error says that a process, a descriptor or a namespace has gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ESTALE | libc::ENOTDIR))
}

/// `FD_NSFS_ROOT` (include/uapi/linux/fcntl.h), `FILEID_NSFS` (include/linux/exportfs.h).
const FD_NSFS_ROOT: i32 = -10003;
const FILEID_NSFS: i32 = 0xf1;

/// `struct file_handle` (include/linux/fs.h) with `struct nsfs_file_handle`
/// (include/uapi/linux/nsfs.h).
#[repr(C)]
struct NsfsHandle {
    bytes: u32,
    kind: i32,
    // Two halves: at this offset it is not aligned to 8.
    ns_id: [u32; 2],
    ns_type: u32,
    ns_inum: u32,
}

/// Opens the namespace with that id and inode number. `None`: another namespace has the number by now.
fn open_by_id(id: u64, inum: u32) -> io::Result<Option<File>> {
    let [a, b, c, d, e, f, g, h] = id.to_ne_bytes();
    let mut handle = NsfsHandle {
        bytes: 16,
        kind: FILEID_NSFS,
        ns_id: [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])],
        ns_type: libc::CLONE_NEWIPC as u32,
        ns_inum: inum,
    };
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the handle is as long as it says.
    let fd =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, FD_NSFS_ROOT, &raw mut handle, flags) };
    let file = File::from(owned(fd)?);
    Ok((file.metadata()?.ino() == u64::from(inum)).then_some(file))
}

/// Reads the contents of this thread's namespace.
fn read() -> NamespaceContents {
    let mut inside = NamespaceContents::default();
    inside.listed.0 = boot_ns();
    for kind in [ObjectKind::Shm, ObjectKind::Sem, ObjectKind::Msg] {
        // It belongs to the namespace that the thread is in when it opens it (sysvipc_proc_open).
        let path = format!("/proc/sysvipc/{}", kind.name());
        let parsed = fs::read_to_string(&path).map_err(|e| e.to_string());
        match parsed.and_then(|table| sysvipc::parse(kind, &table)) {
            Ok(objects) => inside.objects.extend(objects),
            Err(reason) => {
                inside.fail(UnseenWhat::Sysv, format!("{path} can't be read: {reason}"));
            }
        }
    }
    for object in &mut inside.objects {
        if object.kind == KindName(ObjectKind::Msg) {
            object.size = object.id.and_then(queue_bytes);
        }
    }
    match mqueue::queues() {
        Ok((queues, device)) => {
            inside.objects.extend(queues);
            inside.mqueue_dev = Some(device);
        }
        Err(error) => {
            let reason = match error.raw_os_error() {
                Some(libc::EPERM) => "listing queues needs CAP_SYS_ADMIN".to_owned(),
                _ => format!("its queues can't be listed: {error}"),
            };
            inside.fail(UnseenWhat::Queues, reason);
        }
    }
    inside.listed.1 = boot_ns();
    limits(&mut inside);
    inside
}

/// `msg_qbytes` of a queue, for which `/proc/sysvipc/msg` has no column.
fn queue_bytes(id: i32) -> Option<u64> {
    let mut status = std::mem::MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: there is room for the status of a queue.
    let ret = unsafe { libc::msgctl(id, libc::IPC_STAT, status.as_mut_ptr()) };
    // SAFETY: zeros are a status too.
    let status = unsafe { status.assume_init() };
    (ret == 0).then_some(status.msg_qbytes)
}

/// Files of `/proc/sys`, and the limits in each, in order: each file shows those of the reading thread's namespace
/// (ipc/ipc_sysctl.c, ipc/mq_sysctl.c).
const LIMIT_FILES: [(&str, &[LimitName]); 12] = [
    ("kernel/shmmni", &[LimitName::Shmmni]),
    ("kernel/shmall", &[LimitName::Shmall]),
    ("kernel/shmmax", &[LimitName::Shmmax]),
    ("kernel/sem", &[LimitName::Semmsl, LimitName::Semmns, LimitName::Semopm, LimitName::Semmni]),
    ("kernel/msgmni", &[LimitName::Msgmni]),
    ("kernel/msgmnb", &[LimitName::Msgmnb]),
    ("kernel/msgmax", &[LimitName::Msgmax]),
    ("fs/mqueue/queues_max", &[LimitName::QueuesMax]),
    ("fs/mqueue/msg_max", &[LimitName::MsgMax]),
    ("fs/mqueue/msgsize_max", &[LimitName::MsgsizeMax]),
    ("fs/mqueue/msg_default", &[LimitName::MsgDefault]),
    ("fs/mqueue/msgsize_default", &[LimitName::MsgsizeDefault]),
];

fn limits(inside: &mut NamespaceContents) {
    for (file, names) in LIMIT_FILES {
        let path = format!("/proc/sys/{file}");
        match fs::read_to_string(&path) {
            Ok(text) => {
                for (name, value) in names.iter().zip(text.split_whitespace()) {
                    if let Ok(limit) = value.parse() {
                        inside.limits.insert(*name, Limit { limit, used: None });
                    }
                }
            }
            Err(error) => {
                inside.fail(UnseenWhat::Limits, format!("{path} can't be read: {error}"));
            }
        }
    }
}
