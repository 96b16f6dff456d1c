//! The records that the kernel side writes: into the event ring ([`Kind::Call`], [`Kind::Batch`]), the control ring
//! (all others, [`Kind::Change`] among them), the census ([`Kind::Pending`], [`Kind::Alive`]) and the survey ([`Kind::Task`],
//! [`Kind::Descriptor`], [`Kind::Mapping`]).
//!
//! A record starts with a [`Header`]. `boot_ns` is `CLOCK_BOOTTIME` in nanoseconds. Parts that a
//! flag of the header does not vouch for hold whatever was in the ring before.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The version of the records' layout: a reader refuses others.
pub const VERSION: u8 = 1;

/// What a record is. The value in [`Header::kind`]; readers take others for unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A call returned: [`CallRecord`] and, after it, what belongs to the operation
    Call = 1,
    /// Who a thread is: [`ContextRecord`]
    Context = 2,
    /// A namespace shows itself for the first time: [`NamespaceRecord`]
    Namespace = 3,
    /// A thread got into another namespace: [`MoveRecord`]
    Move = 4,
    /// A thread that made calls ended: [`ExitRecord`]
    Exit = 5,
    /// A queue shows itself for the first time: [`QueueRecord`]
    Queue = 6,
    /// A call that has not returned yet: [`PendingRecord`]
    Pending = 7,
    /// A namespace that exists: [`NamespaceRecord`]
    Alive = 8,
    /// The census is complete: a bare [`Header`] with `boot_ns` in an [`EndRecord`]
    End = 9,
    /// A thread that exists: [`TaskRecord`]
    Task = 10,
    /// A descriptor that has to do with an IPC namespace: [`DescriptorRecord`]
    Descriptor = 11,
    /// A mapped shared memory segment: [`MappingRecord`]
    Mapping = 12,
    /// A call that changed objects and is not among the events, since a filter took it out, there was
    /// no room for it, or calls were not reported yet: as [`Kind::Call`]
    Change = 13,
    /// Calls of one thread that returned one after another: [`BatchRecord`]
    Batch = 14,
    /// A cgroup was made or removed: [`CgroupRecord`]
    Cgroup = 15,
    /// A thread reached what belongs to an IPC namespace by a way that is none of the operations:
    /// [`AccessRecord`]
    Access = 16,
}

/// What every record starts with.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`]
    pub version: u8,
    /// A [`Kind`]
    pub kind: u8,
    /// An [`crate::op::Abi`]
    pub abi: u8,
    /// A [`crate::op::Code`]
    pub code: u8,
    /// Bits of `flag`
    pub flags: u32,
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// The operation's own part was read.
    pub const DETAIL: u32 = 1;
    /// The time limit was given and read.
    pub const TIMEOUT: u32 = 1 << 1;
    /// User memory could not be read.
    pub const FAULT: u32 = 1 << 2;
    /// The call came in through `ipc(2)`.
    pub const MULTIPLEXED: u32 = 1 << 3;
    /// `mq_getsetattr`: the old attributes were read.
    pub const OLD: u32 = 1 << 4;
    /// `mq_receive`: the priority was read; `mq_open`: the attributes were read.
    pub const EXTRA: u32 = 1 << 5;
    /// The path did not fit, or could not be walked to its end.
    pub const TRUNCATED: u32 = 1 << 6;
    /// The executable was deleted.
    pub const DELETED: u32 = 1 << 7;
    /// Arguments of `ipc(2)` that lie in memory could not be read: semctl's fourth, msgrcv's `msgp` and
    /// `msgtyp`.
    pub const ARGUMENT_FAULT: u32 = 1 << 10;
    /// semop of at most one operation and without a time limit: no [`super::SemopPart`] follows; with
    /// `DETAIL`, the [`super::Sembuf`] is the low 48 bits of the fifth argument.
    pub const INLINE: u32 = 1 << 9;
    /// A namespace found by the census, not by its birth.
    pub const FOUND: u32 = 1 << 8;
    /// A list has more entries than there is room for.
    pub const CUT: u32 = 1 << 11;
    /// shmget, semget, msgget, mq_open: it is known whether the call made the object that it gave.
    pub const BIRTH_KNOWN: u32 = 1 << 12;
    /// With `BIRTH_KNOWN`: it did.
    pub const MADE: u32 = 1 << 13;
    /// The kernel never made the call: seccomp refused or answered it, or a tracer skipped it.
    pub const NOT_MADE: u32 = 1 << 14;
    /// Whether the kernel made the call is not known: its entry was not seen.
    pub const ENTRY_UNSEEN: u32 = 1 << 15;
    /// With `NOT_MADE`: what the caller got is not known.
    pub const RET_UNKNOWN: u32 = 1 << 16;
    /// What the kernel takes from the caller's memory was read when the call entered the kernel, and not
    /// when it returned.
    pub const AT_ENTRY: u32 = 1 << 17;
    /// Some of the arguments lay in the caller's memory, by way of `ipc(2)`.
    pub const INDIRECT: u32 = 1 << 18;
    /// The thread runs the very executable that the tracer runs.
    pub const TRACER: u32 = 1 << 19;
}

/// One life of an IPC namespace.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    KnownLayout,
    Immutable,
)]
#[repr(C)]
pub struct NsRef {
    /// The inode number that `/proc/PID/ns/ipc` shows; `0` is none
    pub inum: u32,
    /// Which life of that number within this run, from 1
    pub generation: u32,
}

/// [`CallRecord::duration_ns`] of a call whose entry was not seen, or that can't block.
pub const NO_DURATION: u64 = u64::MAX;

/// A call that returned.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CallRecord {
    /// Kind, ABI, code, flags
    pub header: Header,
    /// When it returned
    pub boot_ns: u64,
    /// Time in the kernel, or [`NO_DURATION`]
    pub duration_ns: u64,
    /// The raw result
    pub ret: i64,
    /// With the tid: which [`ContextRecord`] describes the thread; `0` where none could be sent
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process, in the initial pid namespace
    pub pid: u32,
    /// The caller's IPC namespace
    pub ns: NsRef,
    /// Effective user, in the initial user namespace
    pub euid: u32,
    /// Effective group, in the initial user namespace
    pub egid: u32,
    /// The thread's name, NUL-padded, any bytes
    pub comm: [u8; 16],
    /// The arguments in the order of the native system call, whichever way the call came in; of a shmat
    /// by `ipc(2)` the fourth is the address that it gave, `0` where it could not be read
    pub args: [u64; 5],
}

/// One call of a [`BatchRecord`]: of an operation that can block.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Outcome {
    /// When it returned
    pub boot_ns: u64,
    /// Time in the kernel, or [`NO_DURATION`]
    pub duration_ns: u64,
    /// The raw result, of operations that give an `int`
    pub ret: i32,
    /// msgsnd, mq_send: the message's length
    pub size: u32,
    /// What was called: see [`What`]
    pub what: u64,
}

/// What was called, and on which object, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// The System V object, or the key that it was looked for by, or the queue's descriptor
    pub id: i32,
    /// A number of `Abi`
    pub abi: u8,
    /// A `Code`
    pub code: u8,
}

impl What {
    /// Its number.
    pub const fn packed(self) -> u64 {
        self.id as u32 as u64 | (self.abi as u64) << 32 | (self.code as u64) << 40
    }

    /// What a number means.
    pub const fn unpacked(what: u64) -> Self {
        Self { id: what as i32, abi: (what >> 32) as u8, code: (what >> 40) as u8 }
    }
}

/// Calls in a [`BatchRecord`], at most.
pub const BATCH: usize = 32;

/// Calls of one thread, from one namespace, that returned one after another, where calls are counted
/// and not shown: one record costs less than many.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchHead {
    /// No flags
    pub header: Header,
    /// As in a [`CallRecord`]
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process, in the initial pid namespace
    pub pid: u32,
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// Effective user at a call before these, in the initial user namespace
    pub euid: u32,
    /// Effective group, likewise
    pub egid: u32,
    /// The thread's name then
    pub comm: [u8; 16],
    /// The queue of all calls on queues that are among these
    pub queue: QueueRef,
    /// How many [`Outcome`]s follow: 1 to [`BATCH`]
    pub count: u32,
    /// Padding
    pub reserved: u32,
}

/// A [`BatchHead`] with room for all that can follow; in the ring lie those alone that there are.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchRecord {
    /// What they have in common
    pub head: BatchHead,
    /// Each
    pub outcomes: [Outcome; BATCH],
}

/// `struct sembuf` (`include/uapi/linux/sem.h`), the same for all ABIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Sembuf {
    /// Semaphore number
    pub sem_num: u16,
    /// Operation
    pub sem_op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`
    pub sem_flg: i16,
}

/// How many [`Sembuf`]s of a call are kept.
pub const SOPS: usize = 8;

/// After a [`CallRecord`] of semop: `DETAIL` vouches for `sops`, `TIMEOUT` for `timeout`.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SemopPart {
    /// The first `min(nsops, SOPS)` operations
    pub sops: [Sembuf; SOPS],
    /// `struct __kernel_timespec` or `struct old_timespec32`
    pub timeout: [u8; 16],
}

/// After a [`CallRecord`] of msgsnd and msgrcv.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MsgPart {
    /// The message's type, sent or received, sign-extended; with `DETAIL`
    pub mtype: i64,
}

/// After a [`CallRecord`] of shmctl, semctl, msgctl: with `DETAIL`, the start of the structure that
/// `IPC_SET` was given, as the caller's ABI lays it out.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CtlPart {
    /// `struct shmid64_ds`, `semid64_ds`, `msqid64_ds` or an older form
    pub buf: [u8; 104],
}

/// A POSIX queue, as found behind a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueueRef {
    /// The queue's namespace; `inum` 0: none, or dead
    pub ns: NsRef,
    /// The queue's inode number; `0`: the descriptor is no queue, or nothing is known
    pub ino: u64,
    /// The device number of its mqueue file system
    pub dev: u32,
    /// Bits of `queue_flag`
    pub flags: u32,
}

/// Bits of [`QueueRef::flags`].
pub mod queue_flag {
    /// It was looked up; without this bit nothing is known.
    pub const KNOWN: u32 = 1;
    /// Its namespace is not the caller's.
    pub const FOREIGN: u32 = 1 << 1;
    /// Its namespace is dead.
    pub const DEAD: u32 = 1 << 2;
}

/// After a [`CallRecord`] of mq_send, mq_receive, mq_notify, mq_getsetattr.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueuePart {
    /// What the descriptor led to when the call entered the kernel
    pub queue: QueueRef,
    /// mq_send, mq_receive: the time limit (`TIMEOUT`); mq_notify: `struct sigevent` (`DETAIL`);
    /// mq_getsetattr: the new `struct mq_attr` (`DETAIL`)
    pub input: [u8; 32],
    /// mq_receive: the message's priority, a `u32` (`EXTRA`); mq_getsetattr: the old `struct
    /// mq_attr` (`OLD`)
    pub output: [u8; 32],
}

/// Bytes kept of a file's name: `NAME_MAX` and the terminating NUL.
pub const NAME_LEN: usize = 256;

/// Bytes kept of a queue's name as a caller gave it, with the terminating NUL: more than a name may have, so
/// that one that is too long can be told from one that is not.
pub const GIVEN_NAME_LEN: usize = 264;

/// After a [`CallRecord`] of mq_open and mq_unlink.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamePart {
    /// mq_open that succeeded: the queue
    pub queue: QueueRef,
    /// mq_open: `struct mq_attr` (`EXTRA`)
    pub attr: [u8; 32],
    /// Bytes of `name` that were read, without the NUL
    pub name_len: u32,
    /// mq_open that succeeded: `i_mode` of the queue; `0`: not known
    pub mode: u32,
    /// The name as the caller gave it to the kernel, any bytes (`DETAIL`); with `CUT` it is longer
    pub name: [u8; GIVEN_NAME_LEN],
}

/// Bytes of [`ContextRecord::exe`] that can be filled.
pub const EXE_LEN: usize = 1024;

/// Bytes kept of a process's arguments.
pub const ARGS_LEN: usize = 512;
/// Ancestors that a context names, at most.
pub const ANCESTORS: usize = 8;
/// Extents of a user namespace's map that lie within it (`UID_GID_MAP_MAX_BASE_EXTENTS`,
/// include/linux/user_namespace.h); of one with more, nothing is known here.
pub const UID_EXTENTS: usize = 5;

/// A process that another one descends from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AncestorRecord {
    /// When it started
    pub start_boot_ns: u64,
    /// Its cgroup, as [`ContextRecord::cgroup`]
    pub cgroup: u64,
    /// The name of its first thread
    pub comm: [u8; 16],
    /// Its number, in the initial pid namespace
    pub pid: u32,
    /// Padding
    pub reserved: u32,
}

/// A part of a user namespace's map (`struct uid_gid_extent`, include/linux/user_namespace.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct UidExtent {
    /// The first user, in the namespace
    pub first: u32,
    /// The first user, in the initial namespace
    pub lower_first: u32,
    /// How many there are
    pub count: u32,
}

/// Who a thread is: sent once, before its first call, and again after exec, setns, unshare and a move
/// to another cgroup. With `DETAIL`, [`ARGS_LEN`] bytes follow: of them, `args_len` are the process's
/// arguments as they lie in its memory, each with a NUL behind.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ContextRecord {
    /// `TRUNCATED` and `DELETED` speak of `exe`, `FAULT` of the arguments; `CUT`: there are more
    /// ancestors
    pub header: Header,
    /// When it was made
    pub boot_ns: u64,
    /// What calls refer to
    pub context: u64,
    /// When the process started
    pub start_boot_ns: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// The process
    pub pid: u32,
    /// The parent process
    pub ppid: u32,
    /// Effective user
    pub euid: u32,
    /// Effective group
    pub egid: u32,
    /// Inode number of its pid namespace; `0`: unknown
    pub pid_ns: u32,
    /// Inode number of its mount namespace
    pub mnt_ns: u32,
    /// Inode number of its user namespace
    pub user_ns: u32,
    /// Its IPC namespace
    pub ns: NsRef,
    /// Its cgroup, in the hierarchy that the user side chose; `0`: unknown
    pub cgroup: u64,
    /// The thread's name
    pub comm: [u8; 16],
    /// Effective capabilities, by their numbers' bits
    pub capabilities: u64,
    /// The arguments' length, also where not all of them are there
    pub args_len: u64,
    /// Its number in its own pid namespace; `0`: unknown
    pub ns_pid: u32,
    /// Extents of its user namespace's map; more than [`UID_EXTENTS`]: they are not in `uid_map`
    pub uid_extents: u32,
    /// That map
    pub uid_map: [UidExtent; UID_EXTENTS],
    /// How many `ancestors` there are
    pub ancestor_count: u32,
    /// Its parent, and so on
    pub ancestors: [AncestorRecord; ANCESTORS],
    /// Bytes used of `exe`
    pub exe_len: u32,
    /// Padding
    pub reserved: u32,
    /// The executable's path, last component first, each followed by a NUL
    pub exe: [u8; EXE_LEN],
}

/// A namespace: its first appearance in a ring, or its line in the census.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NamespaceRecord {
    /// `FOUND`
    pub header: Header,
    /// When it was seen
    pub boot_ns: u64,
    /// Which; in the census, generation `0`: it is being made
    pub ns: NsRef,
    /// The kernel's own number; `0`: it has none
    pub ns_id: u64,
    /// In the census: the device number of its mqueue file system, as the kernel has it (`dev_t`,
    /// include/linux/kdev_t.h)
    pub mqueue_dev: u32,
    /// In the census: the POSIX queues that count for its limit; [`UNKNOWN_COUNT`]: not known
    pub mq_queues: u32,
}

/// [`NamespaceRecord::mq_queues`] where the kernel does not tell.
pub const UNKNOWN_COUNT: u32 = u32::MAX;

/// How a thread got into a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    /// `clone` with `CLONE_NEWIPC`: the namespace is new, the thread too
    Clone = 1,
    /// `unshare`: the namespace is new
    Unshare = 2,
    /// `setns`: the namespace existed
    Setns = 3,
}

/// A thread got into another namespace.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MoveRecord {
    /// `TRACER`
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// The thread that made the call
    pub context: u64,
    /// Its tid
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// Where it was
    pub from: NsRef,
    /// Where the thread is now: the same one, or with [`Way::Clone`] the new one
    pub to: NsRef,
    /// With [`Way::Clone`]: the new thread
    pub child_context: u64,
    /// Its tid
    pub child_tid: u32,
    /// Its process
    pub child_pid: u32,
    /// The namespace's own number; `0`: it has none
    pub ns_id: u64,
    /// A [`Way`]
    pub way: u32,
    /// Padding
    pub reserved: u32,
}

/// A thread whose context was sent ended.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ExitRecord {
    /// No flags
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// Its last context
    pub context: u64,
    /// The thread
    pub tid: u32,
    /// The process
    pub pid: u32,
}

/// Bytes kept of a cgroup's path: what the kernel has at its tracepoints (`TRACE_CGROUP_PATH_LEN`,
/// kernel/cgroup/cgroup-internal.h).
pub const CGROUP_PATH_LEN: usize = 1024;

/// A cgroup of the hierarchy that the user side chose was made, or removed.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CgroupRecord {
    /// `DELETED`: it was removed
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// Its number, which is never given again (`kernfs_node.id`)
    pub id: u64,
    /// Bytes of `path`
    pub path_len: u32,
    /// Padding
    pub reserved: u32,
    /// From the root of the hierarchy, any bytes; not there of one that was removed
    pub path: [u8; CGROUP_PATH_LEN],
}

/// A queue's name, sent before the first call that refers to the queue by descriptor.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueueRecord {
    /// `DETAIL` vouches for the name
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// Which
    pub queue: QueueRef,
    /// Bytes of `name`
    pub name_len: u32,
    /// Padding
    pub reserved: u32,
    /// The file's name, without a slash, any bytes
    pub name: [u8; NAME_LEN],
}

/// A way to what belongs to an IPC namespace that is none of the operations. The value in
/// [`Header::code`] of an [`AccessRecord`]; readers take others for unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// A queue's file was opened by its path in an mqueue file system
    QueueOpen = 1,
    /// A queue was made by its path
    QueueCreate = 2,
    /// A queue was unlinked by its path
    QueueUnlink = 3,
    /// A queue's state was read from its file
    QueueRead = 4,
    /// A queue's descriptor was polled
    QueuePoll = 5,
    /// The root of an mqueue file system was opened
    QueueList = 6,
    /// An mqueue file system was mounted that belongs to another namespace (`fsopen`)
    QueueMount = 7,
    /// A descriptor of a queue was received: over a socket, by `pidfd_getfd`
    QueueReceived = 8,
    /// A mapped segment was touched
    MappingTouched = 9,
    /// A segment is mapped
    MappingHeld = 10,
    /// A segment was opened through `/proc/PID/map_files`
    MapFiles = 11,
    /// A file of `/proc/sysvipc` was read
    SysvipcRead = 12,
    /// A file of `/proc/sysvipc` is held
    SysvipcHeld = 13,
    /// A setting of a namespace was written
    SettingWritten = 14,
    /// A segment was destroyed
    SegmentDestroyed = 15,
}

impl Channel {
    /// All of them, in the order of their numbers from 1.
    pub const ALL: [Self; 15] = [
        Self::QueueOpen,
        Self::QueueCreate,
        Self::QueueUnlink,
        Self::QueueRead,
        Self::QueuePoll,
        Self::QueueList,
        Self::QueueMount,
        Self::QueueReceived,
        Self::MappingTouched,
        Self::MappingHeld,
        Self::MapFiles,
        Self::SysvipcRead,
        Self::SysvipcHeld,
        Self::SettingWritten,
        Self::SegmentDestroyed,
    ];
}

/// A thread reached what belongs to an IPC namespace that is not its own, or may not be: sent where the kernel
/// side has not seen that they are the same.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct AccessRecord {
    /// Its code is a [`Channel`]; `DETAIL` vouches for the name
    pub header: Header,
    /// When
    pub boot_ns: u64,
    /// With the tid: which [`ContextRecord`] describes the thread; `0` where none could be sent
    pub context: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// Effective user, in the initial user namespace
    pub euid: u32,
    /// Effective group, likewise
    pub egid: u32,
    /// The thread's IPC namespace
    pub ns: NsRef,
    /// What was reached, and whose it is: of a queue as everywhere; of a segment `ino` is its id, of
    /// others `0`. Without `KNOWN` the namespace is to be found otherwise.
    pub object: QueueRef,
    /// Of a segment: its key
    pub key: u32,
    /// How many such accesses this record stands for, at least 1
    pub count: u32,
    /// What tells the file from all others that exist, where the kernel side tells; else `0`
    pub file: u64,
    /// The thread's name
    pub comm: [u8; 16],
    /// Bytes of `name`
    pub name_len: u32,
    /// Padding
    pub reserved: u32,
    /// The name of the file, without a slash, any bytes
    pub name: [u8; NAME_LEN],
}

/// A call that has not returned yet, as the census finds it.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PendingRecord {
    /// ABI and code
    pub header: Header,
    /// When it entered the kernel
    pub enter_boot_ns: u64,
    /// Its thread's context; `0`: none was sent
    pub context: u64,
    /// The thread
    pub tid: u32,
    /// The process
    pub pid: u32,
    /// The caller's namespace
    pub ns: NsRef,
    /// The queue behind the descriptor
    pub queue: QueueRef,
    /// The first argument: semid, msqid or mqdes
    pub arg0: u64,
    /// The thread's name
    pub comm: [u8; 16],
}

/// The end of a census: without it the list was cut short.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EndRecord {
    /// `TRUNCATED`: more namespaces exist than could be listed
    pub header: Header,
    /// When the census began
    pub boot_ns: u64,
    /// Namespaces listed; `u64::MAX`: they could not be listed
    pub namespaces: u64,
    /// The process that reads the census, in the initial pid namespace
    pub self_pid: u32,
    /// Inode number of its IPC namespace, by the way that the programs take
    pub self_ns_inum: u32,
}

/// A thread that exists, as a survey finds it.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TaskRecord {
    /// No flags
    pub header: Header,
    /// When its process started
    pub start_boot_ns: u64,
    /// The thread, in the initial pid namespace
    pub tid: u32,
    /// Its process
    pub pid: u32,
    /// The parent process
    pub ppid: u32,
    /// Effective user
    pub euid: u32,
    /// Effective group
    pub egid: u32,
    /// Inode number of its IPC namespace; `0`: it is ending and in none
    pub ipc_ns: u32,
    /// Inode number of its pid namespace; `0`: unknown
    pub pid_ns: u32,
    /// Inode number of its mount namespace
    pub mnt_ns: u32,
    /// Inode number of its user namespace
    pub user_ns: u32,
    /// Padding
    pub reserved: u32,
    /// The thread's name, NUL-padded, any bytes
    pub comm: [u8; 16],
}

/// What a descriptor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DescriptorOf {
    /// A namespace of any kind: `ino` is its number
    Namespace = 1,
    /// A queue, or the root of an mqueue file system
    Queue = 2,
    /// A file of `/proc/sysvipc`
    Sysvipc = 3,
}

/// A descriptor that has to do with an IPC namespace.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DescriptorRecord {
    /// `DETAIL` vouches for the name
    pub header: Header,
    /// The file's inode number
    pub ino: u64,
    /// The process that has it
    pub pid: u32,
    /// The thread of that process through which it was found
    pub tid: u32,
    /// Its number
    pub fd: u32,
    /// A [`DescriptorOf`]
    pub of: u32,
    /// Inode number of the IPC namespace that the file belongs to; `0`: a dead one's
    pub ipc_ns: u32,
    /// Links to the file: `0` is a queue that was unlinked
    pub links: u32,
    /// Bytes of `name`
    pub name_len: u32,
    /// Padding
    pub reserved: u32,
    /// The file's name, without a slash but for the root's, any bytes
    pub name: [u8; NAME_LEN],
}

/// A mapped shared memory segment.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MappingRecord {
    /// No flags
    pub header: Header,
    /// Where the mapping starts
    pub start: u64,
    /// Where it ends
    pub end: u64,
    /// The process that has it
    pub pid: u32,
    /// The segment
    pub shmid: i32,
    /// Inode number of the segment's IPC namespace
    pub ipc_ns: u32,
    /// Padding
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<TaskRecord>() == 72);
    assert!(size_of::<DescriptorRecord>() == 48 + NAME_LEN);
    assert!(size_of::<MappingRecord>() == 40);
    assert!(size_of::<Header>() == 8);
    assert!(size_of::<CallRecord>() == 120);
    assert!(size_of::<Outcome>() == 32);
    assert!(size_of::<BatchHead>() == 88);
    assert!(size_of::<BatchRecord>() == 88 + 32 * BATCH);
    assert!(size_of::<SemopPart>() == 64);
    assert!(size_of::<MsgPart>() == 8);
    assert!(size_of::<CtlPart>() == 104);
    assert!(size_of::<QueueRef>() == 24);
    assert!(size_of::<QueuePart>() == 88);
    assert!(size_of::<NamePart>() == 24 + 32 + 8 + GIVEN_NAME_LEN);
    assert!(size_of::<AncestorRecord>() == 40);
    assert!(size_of::<UidExtent>() == 12);
    assert!(size_of::<ContextRecord>() == 192 + 40 * ANCESTORS + EXE_LEN);
    assert!(size_of::<CgroupRecord>() == 32 + CGROUP_PATH_LEN);
    assert!(size_of::<NamespaceRecord>() == 40);
    assert!(size_of::<MoveRecord>() == 80);
    assert!(size_of::<ExitRecord>() == 32);
    assert!(size_of::<QueueRecord>() == 48 + NAME_LEN);
    assert!(size_of::<AccessRecord>() == 112 + NAME_LEN);
    assert!(size_of::<PendingRecord>() == 88);
    assert!(size_of::<EndRecord>() == 32);
};
