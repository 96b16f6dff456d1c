//! The header of every record: its kind and flags. This module knows the records only by name.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of the records' layout: a reader rejects others.
pub const VERSION: u8 = 1;

/// The kind of a record. The value in [`Header::kind`]; readers treat other values as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A call returned: `CallRecord`, followed by its operation's payload
    Call = 1,
    /// A thread's description: `ContextRecord`
    Context = 2,
    /// The first appearance of a namespace: `NamespaceRecord`
    Namespace = 3,
    /// A thread entered another namespace: `NsSwitchRecord`
    Move = 4,
    /// A thread that made calls ended: `ExitRecord`
    Exit = 5,
    /// The first appearance of a queue: `QueueRecord`
    Queue = 6,
    /// A call that has not returned yet: `PendingRecord`
    Pending = 7,
    /// A namespace that exists: `NamespaceRecord`
    Alive = 8,
    /// The namespace list is complete: a bare [`Header`] with `boot_ns` in an `EndRecord`
    End = 9,
    /// A thread that exists: `TaskRecord`
    Task = 10,
    /// A descriptor related to an IPC namespace: `DescriptorRecord`
    Descriptor = 11,
    /// A mapped shared memory segment: `MappingRecord`
    Mapping = 12,
    /// A call that changed objects and isn't among the events, because a filter removed it, the ring had no room, or
    /// calls were not reported yet: as [`RecordKind::Call`]
    Change = 13,
    /// Calls of one thread that returned one after another: `BatchRecord`
    Batch = 14,
    /// A cgroup was created or removed: `CgroupRecord`
    Cgroup = 15,
    /// A thread accessed an IPC namespace's object without an IPC call: `AccessRecord`
    Access = 16,
}

/// The header of every record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// [`VERSION`]
    pub version: u8,
    /// A [`RecordKind`]
    pub kind: u8,
    /// An [`crate::op::Abi`]
    pub abi: u8,
    /// A [`crate::op::SyscallCode`]
    pub code: u8,
    /// Bits of `flag`
    pub flags: u32,
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// The operation's payload was read.
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
    /// semop of at most one operation and without a time limit: no `SemopPart` follows; with
    /// `DETAIL`, the `Sembuf` is the low 48 bits of the fifth argument.
    pub const INLINE: u32 = 1 << 9;
    /// The namespace list found the namespace; its creation was not seen.
    pub const FOUND: u32 = 1 << 8;
    /// A list has more entries than there is room for.
    pub const CUT: u32 = 1 << 11;
    /// shmget, semget, msgget, mq_open: it is known whether the call created the object that it returned.
    pub const CREATED_KNOWN: u32 = 1 << 12;
    /// With `CREATED_KNOWN`: the call created the object.
    pub const MADE: u32 = 1 << 13;
    /// The kernel never made the call: seccomp refused or answered it, or a debugger skipped it.
    pub const NOT_MADE: u32 = 1 << 14;
    /// It is unknown whether the kernel made the call: its entry was not seen.
    pub const ENTRY_UNSEEN: u32 = 1 << 15;
    /// With `NOT_MADE`: the caller's return value is unknown.
    pub const RET_UNKNOWN: u32 = 1 << 16;
    /// What the kernel copies from the caller's memory was read when the call entered the kernel, and not when it
    /// returned.
    pub const AT_ENTRY: u32 = 1 << 17;
    /// Some of the arguments lay in the caller's memory, because the call came through `ipc(2)`.
    pub const INDIRECT: u32 = 1 << 18;
    /// The thread runs the same executable file as the tracer.
    pub const TRACER: u32 = 1 << 19;
    /// A batch: its calls were not timed. There are no durations, any number of calls, and the times of groups are
    /// those of their first calls.
    pub const UNTIMED: u32 = 1 << 20;
}

const _: () = assert!(size_of::<Header>() == 8);
